package loader

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// BenchmarkSync measures Sync on the kernel's maps at their default sizes.
func BenchmarkSync(b *testing.B) {
	n := newNode(b)
	o := n.options()
	o.Sizes = DefaultSizes()
	o.grace = 0
	l := n.open(o)
	u := registry.Update{Revision: 1, Snapshot: true}
	for i := range 50000 {
		r := resolved(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), 80, 10)
		u.Set = append(u.Set, r)
	}
	b.Run("snapshot of 50000 services, first", func(b *testing.B) {
		for range b.N {
			if err := l.Sync(registry.Update{Revision: 1, Snapshot: true}); err != nil {
				b.Fatal(err)
			}
			if err := l.Sync(u); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("snapshot of 50000 services, unchanged", func(b *testing.B) {
		for range b.N {
			if err := l.Sync(u); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one of 10 backends changed", func(b *testing.B) {
		for i := range b.N {
			r := u.Set[i%len(u.Set)]
			r.Backends = append([]registry.Backend(nil), r.Backends...)
			r.Backends[9].AddrPort = netip.MustParseAddrPort(fmt.Sprintf("10.244.200.%d:80", i%2+1))
			if err := l.Sync(registry.Update{Set: []registry.Resolved{r}}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		for range b.N {
			if _, err := l.Check(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
