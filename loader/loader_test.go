package loader

import (
	"testing"

	"github.com/sluice-net/sluice/registry"
)

func TestOpenSyncRestore(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options())
	i := n.veth(1)
	if err := l.Attach(i); err != nil {
		t.Fatal(err)
	}
	u := registry.Update{Revision: 3, Snapshot: true, Set: []registry.Resolved{
		resolved("10.96.0.1", 80, 3), resolved("fd00:10:96::1", 80, 2), resolved("10.96.0.2", 80, 0),
	}}
	if err := l.Sync(u); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, l)
	if err := l.VerifyInterface(i); err != nil {
		t.Fatal(err)
	}
	l.Close()
	l = n.open(n.options())
	if err := l.VerifyInterface(i); err != nil {
		t.Fatal(err)
	}
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkAttach(b *testing.B) {
	for _, mode := range []AttachMode{AttachTCX, AttachClsact} {
		b.Run(string(mode), func(b *testing.B) {
			t := &testing.T{}
			_ = t
		})
	}
}
