package etcd

import (
	"bytes"
	"sync"
	"testing"

	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
)

// TestID: all that share a registry know it by one name, from whoever asks first on; another one, to which a backup
// of it was brought, goes by another.
func TestID(t *testing.T) {
	c := startMembers(t, etcdtest.Start, 1)
	ids := make([]string, 8)
	var group sync.WaitGroup
	for i := range ids {
		s := join(t, c)
		group.Go(func() {
			var err error
			if ids[i], err = s.ID(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("one registry is known as %q", ids)
		}
	}
	here, there := join(t, c), openWith(t, Options{})
	if _, _, err := here.PutService(t.Context(), web("web")); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := here.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Restore(t.Context(), t.TempDir(), &backup); err != nil {
		t.Fatal(err)
	}
	if id, err := there.ID(t.Context()); err != nil || id == ids[0] {
		t.Errorf("the other registry is %q, %v", id, err)
	}
}
