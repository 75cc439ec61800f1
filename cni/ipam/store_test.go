package ipam

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
)

func attachment(host string) Attachment {
	return Attachment{
		Boot: "boot-1", State: Committed, Reservation: "r", ReservedAt: time.Unix(1, 0).UTC(),
		ContainerID: "c-" + host, IfName: "eth0", Netns: "/run/netns/x", Network: "sluice", HostInterface: host,
		MAC: "0e:00:00:00:00:01", MTU: 1500, Addresses: addrs("10.0.0.2", "fd00::2"),
		Name: registry.Name{Namespace: "default", Name: "web"}, Labels: map[string]string{"app": "web"},
		Ports: []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 80}},
	}
}

func open(t *testing.T, dir, boot string) (*Disk, Contents) {
	t.Helper()
	d, contents, err := OpenDisk(dir, boot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, contents
}

func TestDiskKeepsRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "attachments")
	d, contents := open(t, dir, "boot-1")
	if len(contents.Attachments)+len(contents.Unreadable)+len(contents.Last) != 0 {
		t.Errorf("a new store holds %+v", contents)
	}
	if _, _, err := OpenDisk(dir, "boot-1"); err == nil {
		t.Error("opened twice")
	}
	a, b := attachment("sl1"), attachment("sl2")
	old := attachment("sl3")
	old.Boot = "boot-0"
	for _, x := range []Attachment{a, b, old} {
		if err := d.Put(x); err != nil {
			t.Fatal(err)
		}
	}
	b.State = Leaving
	if err := d.Put(b); err != nil {
		t.Fatal(err)
	}
	if err := d.PutLast(addrs("10.0.0.7")); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d, contents = open(t, dir, "boot-1")
	if !reflect.DeepEqual(contents.Attachments, []Attachment{a, b}) || !slices.Equal(contents.Last, addrs("10.0.0.7")) {
		t.Errorf("read back %+v", contents)
	}
	for range 2 {
		if err := d.Delete("sl1"); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	if _, contents = open(t, dir, "boot-2"); len(contents.Attachments) != 0 {
		t.Errorf("after a reboot: %+v", contents)
	}
}

// A writer may die at any instruction, and a disk may hold anything.
func TestDiskSetsAsideWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	good, err := json.Marshal(attachment("sl1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"sl1.json":       string(good),
		"sl2.json":       string(good), // of another interface
		"sl3.json":       string(good[:len(good)/2]),
		"sl4.json":       "",
		"sl5.json.tmp":   "{",
		"last-addresses": "[\"10.",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sl6.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	want := []string{"sl2", "sl3", "sl4", "sl6"}
	for range 2 { // the second time they are found set aside
		d, contents := open(t, dir, "boot-1")
		if len(contents.Attachments) != 1 || !slices.Equal(contents.Unreadable, want) || contents.Last != nil {
			t.Errorf("read %+v", contents)
		}
		d.Close()
	}
	d, _ := open(t, dir, "boot-1")
	for _, host := range want {
		if err := d.Delete(host); err != nil {
			t.Error(err)
		}
	}
	d.Close()
	if _, contents := open(t, dir, "boot-1"); len(contents.Unreadable) != 0 {
		t.Errorf("after Delete: %v", contents.Unreadable)
	}
}

func FuzzParseAttachment(f *testing.F) {
	good, err := json.Marshal(attachment("sl1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"addresses":["x"]}`))
	f.Add(bytes.Replace(good, []byte(`"protocol":"TCP",`), nil, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAttachment(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(a)
		if err != nil {
			t.Fatalf("parsed but not written: %v", err)
		}
		back, err := ParseAttachment(again)
		if err != nil {
			t.Fatalf("written but not parsed: %v", err)
		}
		third, err := json.Marshal(back)
		if err != nil || string(third) != string(again) {
			t.Fatalf("%s, %v, want %s", third, err, again)
		}
	})
}
