package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParseInstance writes what it could read in every format, and reads it again.
func FuzzParseInstance(f *testing.F) {
	for _, pattern := range []string{"testdata/*.json", "testdata/*.xml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, filepath.Ext(file) == ".xml")
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, isXML bool) {
		i, err := ParseInstance(data, isXML)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Fatal(err)
			}
			return
		}
		text := Format{}.AppendInstance(nil, i)
		if !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		again, err := ParseInstance(text, false)
		if i.DataCenter != nil && i.DataCenter.Name != "" && err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if err == nil && !bytes.Equal(Format{}.AppendInstance(nil, again), text) {
			t.Fatalf("%s became %s", text, Format{}.AppendInstance(nil, again))
		}
		wellFormed(t, Format{XML: true}.AppendInstance(nil, i))
		wellFormed(t, Format{XML: true, Compact: true}.AppendInstance(nil, i))
	})
}

// FuzzParseBatch shows that no batch makes trouble, and that what was read can be written and read.
func FuzzParseBatch(f *testing.F) {
	f.Add([]byte(`{"replicationList":[{"appName":"SVC","id":"i","lastDirtyTimestamp":17,"instanceInfo":{` + base + `},"action":"Register"}]}`))
	f.Add([]byte(`{"responseList":[{"statusCode":409,"responseEntity":{` + base + `}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tasks, err := ParseBatch(data); err == nil {
			again, err := ParseBatch(AppendBatch(nil, tasks))
			if err != nil || len(again) != len(tasks) {
				t.Fatalf("%d of %d tasks, %v", len(again), len(tasks), err)
			}
		}
		if results, err := ParseResults(data); err == nil {
			if again, err := ParseResults(AppendResults(nil, results)); err != nil || len(again) != len(results) {
				t.Fatalf("%d of %d results, %v", len(again), len(results), err)
			}
		}
	})
}

// FuzzNames escapes any key to a name, and back.
func FuzzNames(f *testing.F) {
	f.Add("under_score")
	f.Add("a😀$_.0020")
	f.Fuzz(func(t *testing.T, key string) {
		key = strings.ToValidUTF8(key, "?")
		if got := unescapeName(escapeName(key)); got != key {
			t.Fatalf("%q became %q became %q", key, escapeName(key), got)
		}
	})
}

// FuzzReadApplications shows that no list makes trouble, and that what was read can be written.
func FuzzReadApplications(f *testing.F) {
	for _, format := range Formats() {
		i := &Instance{InstanceID: "i", HostName: "h", App: "SVC", IPAddr: "10.0.0.1", Status: Up, Overridden: Unknown, DataCenter: &DataCenter{Name: MyOwn}}
		list := &Applications{Version: 1, Hash: "UP_1_", Instances: []*Instance{i, i}}
		f.Add(format.AppendApplications(nil, list), format.XML)
	}
	f.Fuzz(func(t *testing.T, data []byte, isXML bool) {
		var list Applications
		head, skipped, err := ReadApplications(bytes.NewReader(data), isXML, func(i *Instance) error {
			list.Instances = append(list.Instances, i)
			return nil
		})
		if err != nil && !errors.Is(err, ErrSyntax) {
			t.Fatal(err)
		}
		if skipped < 0 || skipped > len(data) || len(list.Instances) > len(data) {
			t.Fatalf("%d instances and %d skipped in %d bytes, %+v", len(list.Instances), skipped, len(data), head)
		}
		for _, i := range list.Instances {
			if text := (Format{}).AppendInstance(nil, i); !json.Valid(text) {
				t.Fatalf("not JSON: %s", text)
			}
		}
	})
}
