package tests

import (
	"path/filepath"
	"testing"

	"github.com/sluice-net/sluice/tests/nstest"
)

// TestBackupRestored: a service that was deleted by mistake comes back with its addresses, and calls of another one
// that is not concerned go on all the while.
func TestBackupRestored(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	client := addContainer(t, n, "client", nil)
	addContainer(t, n, "web-1", map[string]string{"app": "web"})
	lost := apply(t, n, "lost", web("lost", "web"))
	steady := startLoad(t, client, kinds(apply(t, n, "steady", web("steady", "web"))))
	file := filepath.Join(t.TempDir(), "registry.db")
	for _, args := range [][]string{{"backup", file}, {"delete", "service", "lost"}} {
		if out, err := n.Sluice(t.Context(), "", args...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	apply(t, n, "since", web("since", "web"))
	if out, err := n.Sluice(t.Context(), "", "restore", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if back := vips(t, n, "lost"); back[0] != lost[0] || back[1] != lost[1] {
		t.Errorf("the service has %v, before %v", back, lost)
	}
	for _, c := range kinds(lost) {
		if r, err := client.Call(t.Context(), c); err != nil || r.Failed > 0 {
			t.Errorf("%s after the restore: %v, %+v", title(c), err, r)
		}
	}
	if _, err := n.Sluice(t.Context(), "", "get", "services", "since"); err == nil {
		t.Error("a service from after the backup is still there")
	}
	steady.more(t, 3)
	for i, r := range steady.stop(t) {
		if r.Failed > 0 {
			t.Errorf("%s: %d of %d calls failed, the first: %v", title(steady.calls[i]), r.Failed, r.Calls, r.Failures[0])
		}
	}
}
