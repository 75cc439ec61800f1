package loader

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
)

// namespaceEntry reads an entry of map namespaces; 0: there is none.
func namespaceEntry(t *testing.T, l *Loader, cookie uint64) uint32 {
	t.Helper()
	var v namespace
	if err := l.maps.get(sockMapNamespaces).Lookup(cookie, &v); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	return v.Endpoint
}

func attached(t *testing.T, l *Loader, i Interface, cookie uint64) Interface {
	t.Helper()
	i.NetnsCookie = cookie
	if err := l.Attach(i); err != nil {
		t.Fatal(err)
	}
	return i
}

// TestNamespaces follows the map through the life of containers and agents.
func TestNamespaces(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options())
	a, b, c := n.veth(1), n.veth(2), n.veth(3)
	a = attached(t, l, a, 4711)
	b = attached(t, l, b, 4711) // another interface of the same container
	c = attached(t, l, c, 0)    // of a kernel that tells no cookie
	a.NetnsCookie = 0
	a = attached(t, l, a, 0) // told by a record that does not know
	id := func(l *Loader, i Interface) uint32 { return l.endpoints.byName[i.Name].id }
	if got := namespaceEntry(t, l, 4711); got != id(l, a) {
		t.Errorf("endpoint is %d, want %d", got, id(l, a))
	}
	if err := l.VerifyInterface(a); err != nil {
		t.Error(err)
	}

	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = n.open(n.options())
	l.mustSync(t)
	mustBeClean(t, l)
	if got := l.Interfaces()[0].NetnsCookie; got != 4711 {
		t.Errorf("cookie after a restart is %d, want 4711", got)
	}
	b = attached(t, l, b, 4711)
	if err := l.DetachInterface(a.Name); err != nil {
		t.Fatal(err)
	}
	if got := namespaceEntry(t, l, 4711); got != id(l, b) {
		t.Errorf("endpoint is %d, want %d: one interface is still attached", got, id(l, b))
	}
	b = attached(t, l, b, 4712)
	if err := l.VerifyInterface(b); err != nil {
		t.Error(err)
	}
	if old, now := namespaceEntry(t, l, 4711), namespaceEntry(t, l, 4712); old != 0 || now != id(l, b) {
		t.Errorf("endpoints are %d and %d, want 0 and %d", old, now, id(l, b))
	}
	mustBeClean(t, l)
	if err := l.DetachInterface(b.Name); err != nil {
		t.Fatal(err)
	}
	if err := l.DetachInterface(c.Name); err != nil {
		t.Fatal(err)
	}
	if got := l.maps.get(sockMapNamespaces); got.MaxEntries() != smallSizes().Endpoints {
		t.Errorf("the map has room for %d, want %d", got.MaxEntries(), smallSizes().Endpoints)
	}
	if got := len(l.namespaces.users) + len(l.namespaces.byName) + int(namespaceEntry(t, l, 4712)); got != 0 {
		t.Errorf("%d things are left", got)
	}
	mustBeClean(t, l)
}

// TestNamespacesTampered lets Check and Verify see what is wrong.
func TestNamespacesTampered(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options())
	l.mustSync(t)
	a := attached(t, l, n.veth(1), 4711)
	m := l.maps.get(sockMapNamespaces)
	for _, x := range []struct {
		name   string
		change func() error
	}{
		{"gone", func() error { return m.Delete(uint64(4711)) }},
		{"another endpoint's", func() error { return m.Put(uint64(4711), namespace{Endpoint: 9}) }},
	} {
		if err := x.change(); err != nil {
			t.Fatal(err)
		}
		if err := l.VerifyInterface(a); err == nil {
			t.Errorf("%s: VerifyInterface finds nothing", x.name)
		}
		if d, err := l.Check(); err != nil || len(d) != 1 {
			t.Errorf("%s: Check finds %v, %v", x.name, d, err)
		}
	}
	if err := m.Put(uint64(4713), namespace{Endpoint: 77}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = n.open(n.options())
	if got := namespaceEntry(t, l, 4713) + namespaceEntry(t, l, 4711); got != 0 {
		t.Error("entries of endpoints that are gone survived a restart")
	}
}

// mustSync tells the loader that the registry is empty.
func (l *Loader) mustSync(t *testing.T) {
	t.Helper()
	if err := l.Sync(registry.Update{Revision: 1, Snapshot: true}); err != nil {
		t.Fatal(err)
	}
}
