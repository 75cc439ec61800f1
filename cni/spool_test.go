package cni

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSpool(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "spool")
	if ids, err := Spooled(dir); err != nil || ids != nil {
		t.Errorf("no directory: %v, %v", ids, err)
	}
	a, b := AttachmentID{"a", "eth0"}, AttachmentID{"b", "eth0"}
	for _, id := range []AttachmentID{a, b, b} {
		if err := Spool(dir, id); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"sl0000000000000.json": `{"containerID":"a","ifname":"eth0"}`, // another's name
		"half.json":            `{"containerID":`,
		"empty.json":           ``,
		"bad.json":             `{"containerID":"../x","ifname":"eth0"}`,
		"large.json":           strings.Repeat(" ", maxSpool+1),
		"writing.json.tmp":     `{`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := Spooled(dir)
	if len(ids) != 2 || !slices.Contains(ids, a) || !slices.Contains(ids, b) {
		t.Errorf("spooled: %v", ids)
	}
	for _, name := range []string{"sl0000000000000", "half", "empty", "bad", "large"} {
		if err == nil || !strings.Contains(err.Error(), name+".json") {
			t.Errorf("%s.json is not complained of: %v", name, err)
		}
	}
	if ids, err = Spooled(dir); err != nil || len(ids) != 2 {
		t.Errorf("after the bad ones were removed: %v, %v", ids, err)
	}
	for range 2 {
		if err := Unspool(dir, a); err != nil {
			t.Error(err)
		}
	}
	if IsSpooled(dir, a) || !IsSpooled(dir, b) {
		t.Error("the wrong one was removed")
	}
}
