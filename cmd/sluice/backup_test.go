package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

const backedUp = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}
`

// TestBackup: what was deleted since a backup comes back, and what was made since goes.
func TestBackup(t *testing.T) {
	a := newAgent(t)
	file := filepath.Join(t.TempDir(), "registry.db")
	if code, _, errs := a.sluice(t, backedUp, "apply", "-f", "-"); code != 0 {
		t.Fatal(errs)
	}
	code, out, errs := a.sluice(t, "", "backup", file)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%s written, %d bytes\n", file, info.Size()); code != 0 || out != want || errs != "" || info.Mode() != 0o600 {
		t.Errorf("backup: %d, %q, %q, mode %v; want %q", code, out, errs, info.Mode(), want)
	}
	a.expect(t, 0, "service default/web   deleted\n", "", "", "delete", "service", "web")
	later := strings.NewReplacer("web", "later", "10.96.0.1", "10.96.0.2").Replace(backedUp)
	a.expect(t, 0, "service default/later   created   10.96.0.2\n", "", later, "apply", "-f", "-")
	a.expect(t, 0, "restored: 2 written, 2 deleted, 0 unchanged\n", "", "", "restore", file)
	a.expect(t, 1, "", "sluice: service default/later: not found (-A looks in all namespaces)\n", "", "get", "services", "later")
	if _, out, _ := a.sluice(t, "", "get", "services", "web"); !strings.Contains(out, "10.96.0.1") {
		t.Errorf("after the restore:\n%s", out)
	}

	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, through, _ := a.sluice(t, "", "backup", "-")
	a.expect(t, 0, "{\n  \"written\": 0,\n  \"deleted\": 0,\n  \"unchanged\": 2,\n  \"revision\": 0,\n  \"synced\": true\n}\n", "", through, "restore", "-", "-o", "json")
	code, _, errs = a.sluice(t, string(whole[:len(whole)-1]), "restore", "-")
	if code != 1 || !strings.Contains(errs, "not a backup") {
		t.Errorf("a backup that was cut: %d, %q", code, errs)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v: want the backup only", left, err)
	}
}

// TestDeleteNode: a node that is no more goes, one whose agent is at work does not.
func TestDeleteNode(t *testing.T) {
	a := newAgent(t)
	for _, name := range []string{"n1", "n2"} {
		if _, err := a.store.PutNode(t.Context(), registry.Node{Name: name, Zone: "east"}); err != nil {
			t.Fatal(err)
		}
	}
	e := registry.Endpoint{EndpointID: registry.EndpointID{Node: "n2", ContainerID: "c", Interface: "eth0"}, Name: registry.Name{Namespace: "default", Name: "c"}}
	if _, err := a.store.PutEndpoint(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	go a.store.KeepNodeLease(t.Context(), registry.NodeLease{Node: "n1", Version: "v1"})
	for {
		if _, alive := a.catalog.NodeLease("n1"); alive && len(a.catalog.Endpoints()) == 1 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("no lease")
		}
	}
	a.expect(t, 0, "NAME   AGENT   ZONE   ADDRESSES   ENDPOINTS\nn1     ready   east   -           0\nn2     away    east   -           1\n", "", "", "get", "nodes")
	a.expect(t, 1, "", "sluice: delete node n1: invalid object: its agent is at work: stop it first, it is gone 30 s after\n", "", "delete", "node", "n1")
	a.expect(t, 0, "node n2   deleted\n", "", "", "delete", "node", "n2")
	a.expect(t, 0, "NAME   AGENT   ZONE   ADDRESSES   ENDPOINTS\nn1     ready   east   -           0\n", "", "", "get", "nodes")
	a.expect(t, 1, "", "sluice: delete node n2: not found\n", "", "delete", "node", "n2")
	a.complete(t, "delete node ", "n1")
}
