package loader

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// BenchmarkIsolation measures changes of one thing among few and many policies, on the kernel's maps. Each
// policy is about one application, of which one container runs here, and lets two others in.
func BenchmarkIsolation(b *testing.B) {
	for _, policies := range []int{10, 10000} {
		b.Run(fmt.Sprintf("%d policies", policies), func(b *testing.B) {
			n := newNode(b)
			o := n.options().isolated()
			o.Sizes = DefaultSizes()
			o.grace = 0
			l := n.open(o)
			app := func(i int) string { return fmt.Sprint("a", i%5000) }
			allow := func(i, from int) *registry.Policy {
				p := onlyFrom(fmt.Sprint("p", i), app(i), app(from))
				p.Ingress[0].Peers[1] = registry.Peer{Pods: &registry.PodSelector{
					Pods: registry.Selector{MatchLabels: map[string]string{"app": app(from + 1)}},
				}}
				return p
			}
			var all []registry.Change
			for i := range min(policies, 5000) {
				e := registry.Endpoint{
					EndpointID: registry.EndpointID{Node: "n1", ContainerID: fmt.Sprint(i), Interface: "eth0"},
					Name:       registry.Name{Namespace: "shop", Name: fmt.Sprint(i)}, Network: "blue",
					Labels:    map[string]string{"app": app(i)},
					Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})},
				}
				all = append(all, registry.Change{Endpoint: &e})
			}
			for i := range policies {
				all = append(all, registry.Change{Policy: allow(i, i+1)})
			}
			if err := l.Sync(policyUpdate(1, true, all...)); err != nil {
				b.Fatal(err)
			}
			b.Run("one policy changed", func(b *testing.B) {
				for i := range b.N {
					c := registry.Change{Policy: allow(i%policies, i%7+i+2)}
					if err := l.Sync(policyUpdate(int64(i)+2, false, c)); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("one container attached and detached", func(b *testing.B) {
				c := n.veth(1)
				c.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}
				c.Endpoint = registry.Endpoint{
					EndpointID: registry.EndpointID{Node: "n1", ContainerID: "new", Interface: "eth0"},
					Name:       registry.Name{Namespace: "shop", Name: "new"}, Network: "blue",
					Labels: map[string]string{"app": app(3)},
				}
				for range b.N {
					if err := l.Attach(c); err != nil {
						b.Fatal(err)
					}
					if err := l.DetachInterface(c.Name); err != nil {
						b.Fatal(err)
					}
				}
				n.remove(c)
			})
			var bytes uint64
			infos, err := l.Maps()
			if err != nil {
				b.Fatal(err)
			}
			for _, m := range infos {
				if _, of := l.isolationEntries(m.Name); of {
					bytes += m.Bytes
					b.Logf("%-12s %7d of %7d entries, %9d bytes", m.Name, m.Entries, m.Limit, m.Bytes)
				}
			}
			b.Logf("%d bytes in all", bytes)
		})
	}
}
