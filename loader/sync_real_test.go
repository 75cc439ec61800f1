package loader

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// everySaying is services that say all that a service can, in both families and every protocol.
func everySaying() registry.Update {
	u := registry.Update{Revision: 3, Snapshot: true}
	for i, vip := range []string{"10.96.0.1", "fd00:10:96::1"} {
		for _, proto := range []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP} {
			add := func(port uint16, change func(*registry.Resolved)) {
				r := resolved(vip, port, 4)
				r.Protocol = proto
				for j := range r.Backends {
					if i == 1 {
						r.Backends[j].AddrPort = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(j + 1)}), 8080)
					}
				}
				change(&r)
				u.Set = append(u.Set, r)
			}
			add(80, func(*registry.Resolved) {})
			add(81, func(r *registry.Resolved) {
				r.Algorithm, r.AffinityTimeout = registry.AlgorithmMaglev, 10800
				r.Backends[1].Weight, r.Backends[2].Draining = 5, true
			})
			add(82, func(r *registry.Resolved) {
				r.Shared = true
				r.Backends[0].Draining, r.Backends[3].Weight = true, 256
			})
			add(83, func(r *registry.Resolved) {
				for j := range r.Backends {
					r.Backends[j].Draining = true
				}
			})
		}
	}
	return u
}

// backendsOf reads the entries of map backends that are not free.
func backendsOf(l *Loader) (list []backend) {
	for id := range l.backends.entries {
		if b := l.backends.backend(id); b.State != backendFree {
			list = append(list, b)
		}
	}
	return list
}

// TestRestartKeepsServices: on the kernel's maps, a successor that is told the same writes nothing, whatever
// services say; one of another configuration rewrites tables and leaves ids and epochs alone.
func TestRestartKeepsServices(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes.Slots, o.MaglevTableSize = 8192, 251
	l := n.open(o)
	mustSync(t, l, everySaying())
	mustBeClean(t, l)
	if got := l.Draining(); got != 2*3*(1+1+4) {
		t.Errorf("%d backends drain, want 36", got)
	}
	before := backendsOf(l)
	l.Close()

	l = n.open(o)
	mustSync(t, l, everySaying())
	mustBeClean(t, l)
	if w := l.Writes(); w != (Writes{}) {
		t.Errorf("the same again wrote %+v", w)
	}
	if got := l.Draining(); got != 36 {
		t.Errorf("after a restart %d backends drain, want 36", got)
	}
	l.Close()

	o.MaglevTableSize = 509
	l = n.open(o)
	mustSync(t, l, everySaying())
	mustBeClean(t, l)
	if w, want := l.Writes(), (Writes{Services: 6, Slots: 6 * 509}); w != want {
		t.Errorf("tables of another size wrote %+v, want %+v", w, want)
	}
	if after := backendsOf(l); !slices.Equal(after, before) {
		t.Errorf("backends were\n%v\nand are\n%v", before, after)
	}
}
