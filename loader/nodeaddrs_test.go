package loader

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// mustBeNode fails the test unless the identity of an address is the node's, or is not.
func mustBeNode(t *testing.T, l *Loader, want bool, addrs ...netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		if got := lookupPrefix(t, l, a.String()); (got == identityNode) != want {
			t.Errorf("%s has identity %d; the node's: %t, want %t", a, got, got == identityNode, want)
		}
	}
	mustBeClean(t, l)
}

// TestNodeAddresses: what the node has besides its registry.Node's addresses is the node, and only while it
// has it.
func TestNodeAddresses(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options().isolated())
	set := func(addrs ...netip.Addr) {
		t.Helper()
		if err := l.SetNodeAddresses(addrs); err != nil {
			t.Fatal(err)
		}
	}
	object := addrs("192.0.2.1", "2001:db8::1")
	seen := addrs("192.0.2.1", "203.0.113.9", "fe80::2", "fd00::2", "192.0.2.200")
	mustSync(t, l, policyUpdate(1, true))
	set(append(seen, netip.Addr{}, netip.MustParseAddr("::ffff:203.0.113.10"), netip.MustParseAddr("fe80::3%eth0"))...)
	mustBeNode(t, l, true, seen...)
	mustBeNode(t, l, true, addrs("203.0.113.10", "fe80::3")...)
	node := &registry.Node{Name: "n1", Addresses: object}
	db := n.container(1, map[string]string{"app": "db"})
	if err := l.Attach(db); err != nil {
		t.Fatal(err)
	}
	// Of a block with a hole in it, too.
	policy := onlyFrom("db", "db", "web")
	mustSync(t, l, policyUpdate(2, true, registered(db), registry.Change{Node: node}, registry.Change{Policy: policy}))
	mustBeNode(t, l, true, append(object, seen...)...)
	epoch := func() uint32 { return l.epochs.load32(l.endpoints.byName[db.Name].id, 0) }
	before := epoch()
	set(seen...)
	if now := epoch(); now != before+1 {
		t.Errorf("epoch %d became %d when an address went", before, now)
	}
	before = epoch()
	set(seen...)
	if now := epoch(); now != before {
		t.Errorf("epoch %d became %d when nothing changed", before, now)
	}
	set(seen[1])
	mustBeNode(t, l, true, append(object, seen[1])...)
	mustBeNode(t, l, false, seen[2:]...)
	if got, want := lookupPrefix(t, l, "192.0.2.200"), lookupPrefix(t, l, "192.0.2.201"); got != want {
		t.Errorf("an address that the node lost has identity %d, its block %d", got, want)
	}
	mustSync(t, l, policyUpdate(3, false, registry.Change{Node: node, Deleted: true}))
	mustBeNode(t, l, false, object...)
	mustBeNode(t, l, true, seen[1])
	set()
	mustBeNode(t, l, false, seen...)
	l.Close()
	if err := l.SetNodeAddresses(seen); !errors.Is(err, errClosed) {
		t.Errorf("set on a closed loader: %v", err)
	}
}

// TestNodeAddressesOfContainers: what a container here has is never the node's.
func TestNodeAddressesOfContainers(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options().isolated())
	web, db := n.container(1, nil), n.container(2, nil)
	if err := l.Attach(web); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, policyUpdate(1, true, registered(web)))
	before := tagsOf(l, web)
	if err := l.SetNodeAddresses(append(db.Addrs, web.Addrs...)); err != nil {
		t.Fatal(err)
	}
	mustBeNode(t, l, false, web.Addrs...)
	mustKeep(t, l, web, before)
	mustBeNode(t, l, true, db.Addrs...)
	if err := l.Attach(db); err != nil {
		t.Fatal(err)
	}
	mustBeNode(t, l, false, db.Addrs...)
	mustKeep(t, l, db, tagsOf(l, db))
	for _, i := range []Interface{web, db} {
		if err := l.DetachInterface(i.Name); err != nil {
			t.Fatal(err)
		}
	}
	mustSync(t, l, policyUpdate(2, false, registry.Change{Endpoint: registered(web).Endpoint, Deleted: true}))
	mustBeNode(t, l, true, append(db.Addrs, web.Addrs...)...)
}

// TestNodeAddressesRestart: the entries stay from one agent to the next, but for what the node lost meanwhile.
func TestNodeAddressesRestart(t *testing.T) {
	n := newNode(t)
	o := n.options().isolated()
	l := n.open(o)
	all := addrs("192.0.2.1", "fe80::2", "203.0.113.9")
	if err := l.SetNodeAddresses(all); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, policyUpdate(1, true))
	l.Close()
	l = n.open(o)
	for _, a := range all {
		if got := lookupPrefix(t, l, a.String()); got != identityNode {
			t.Errorf("%s has identity %d between two agents", a, got)
		}
	}
	if err := l.SetNodeAddresses(all[:2]); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, policyUpdate(1, true))
	mustBeNode(t, l, true, all[:2]...)
	mustBeNode(t, l, false, all[2])
}

// TestNodeAddressesFull: an address that finds no room is told of, and written when there is some.
func TestNodeAddressesFull(t *testing.T) {
	n := newNode(t)
	o := n.options().isolated()
	o.Sizes.Prefixes = 2 // one is that of all of IPv4
	l := n.open(o)
	mustSync(t, l, policyUpdate(1, true))
	all := addrs("192.0.2.1", "203.0.113.9")
	if err := l.SetNodeAddresses(all); !errors.Is(err, ErrFull) || !errors.Is(l.Isolated(), ErrFull) {
		t.Fatalf("full map: set says %v, status %v", err, l.Isolated())
	}
	for _, a := range all {
		if err := l.SetNodeAddresses([]netip.Addr{a}); err != nil {
			t.Fatal(err)
		}
		mustBeNode(t, l, true, a)
	}
	if err := l.Isolated(); err != nil {
		t.Error(err)
	}
}
