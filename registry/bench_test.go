package registry

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// benchCluster returns a snapshot of so many services with so many backends each.
func benchCluster(services, backends int) Batch {
	b := Batch{Revision: 1, Snapshot: true}
	for i := range services {
		b.Changes = append(b.Changes, Change{Service: benchService(i)})
		for j := range backends {
			b.Changes = append(b.Changes, Change{Endpoint: benchEndpoint(i, i*backends+j)})
		}
	}
	return b
}

func benchService(i int) *Service {
	return &Service{
		Name:     Name{"x", strconv.Itoa(i)},
		Selector: map[string]string{"app": strconv.Itoa(i), "tier": "web"},
		VIPs:     []netip.Addr{netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})},
		Ports:    []ServicePort{{Port: 80, Protocol: TCP, TargetPort: 8080}},
	}
}

// benchEndpoint is endpoint n of the cluster, of service i.
func benchEndpoint(i, n int) *Endpoint {
	return &Endpoint{
		EndpointID: EndpointID{"n", strconv.Itoa(n), "eth0"},
		Name:       Name{"x", strconv.Itoa(n)},
		Addresses:  []netip.Addr{netip.AddrFrom4([4]byte{10, 128 + byte(n>>16), byte(n >> 8), byte(n)})},
		Labels:     map[string]string{"app": strconv.Itoa(i), "tier": "web"},
	}
}

// BenchmarkCatalogSnapshot learns a whole cluster at once. heap-B/backend is what the catalog then holds beyond
// the objects that it was given.
func BenchmarkCatalogSnapshot(b *testing.B) {
	for _, n := range []struct{ services, backends int }{{1000, 10}, {50_000, 10}, {1, 10_000}} {
		b.Run(fmt.Sprintf("%dx%d", n.services, n.backends), func(b *testing.B) {
			all := benchCluster(n.services, n.backends)
			before := heap()
			var c *Catalog
			b.ReportAllocs()
			for b.Loop() {
				c = NewCatalog("n")
				if u := c.Apply(all); len(u.Set) != n.services || len(u.Set[0].Backends) != n.backends {
					b.Fatalf("%d frontends", len(u.Set))
				}
			}
			b.ReportMetric(float64(heap()-before)/float64(n.services*n.backends), "heap-B/backend")
			runtime.KeepAlive(c)
			runtime.KeepAlive(all)
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkCatalogChange: one endpoint of a service of so many comes and goes, beside 10000 services that have
// nothing to do with it.
func BenchmarkCatalogChange(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		for _, kind := range []Distribution{DistributeEvenly, PreferSameZone} {
			b.Run(fmt.Sprintf("%d%s", n, kind), func(b *testing.B) {
				c := NewCatalog("n")
				c.Apply(benchCluster(10_000, 0))
				s := benchService(0)
				s.Distribution = kind
				all := []Change{{Service: s}, {Node: &Node{Name: "n", Zone: "z"}}}
				for i := range n {
					all = append(all, Change{Endpoint: benchEndpoint(0, i)})
				}
				c.Apply(Batch{Changes: all})
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					u := c.Apply(Batch{Changes: []Change{{Endpoint: benchEndpoint(0, n/2), Deleted: i%2 == 0}}})
					if len(u.Set) != 1 {
						b.Fatalf("update %+v", u)
					}
				}
			})
		}
	}
}

// BenchmarkCatalogNode moves the own node between addresses and zones, beside so many services of which 100 have
// a node port and 100 prefer their zone.
func BenchmarkCatalogNode(b *testing.B) {
	for _, n := range []int{1000, 50_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			all := benchCluster(n, 10)
			for i := range 200 {
				s := all.Changes[11*i].Service
				if i%2 == 0 {
					s.Ports[0].NodePort = uint16(30000 + i)
				} else {
					s.Distribution = PreferSameZone
				}
			}
			c := NewCatalog("n")
			c.Apply(all)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				node := &Node{Name: "n", Zone: strconv.Itoa(i % 2), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 2)})}}
				if u := c.Apply(Batch{Changes: []Change{{Node: node}}}); len(u.Set) != 100 {
					b.Fatalf("%d frontends", len(u.Set))
				}
			}
		})
	}
}

// BenchmarkHub tells how long the loader waits for a batch while eight others have a millisecond's work with each.
func BenchmarkHub(b *testing.B) {
	for _, first := range []bool{true, false} {
		b.Run(fmt.Sprint("first ", first), func(b *testing.B) {
			src := make(feed)
			h := NewHub(src, HubOptions{})
			go h.Run(b.Context())
			for range 8 {
				other := h.Watch(b.Context())
				go func() {
					for range other {
						for until := time.Now().Add(time.Millisecond); time.Now().Before(until); {
						}
					}
				}()
			}
			batches := h.Watch(b.Context())
			if first {
				batches = h.First().Watch(b.Context())
			}
			src <- Batch{Revision: 1, Snapshot: true}
			<-batches
			var waited time.Duration
			for rev := int64(2); b.Loop(); rev++ {
				b.StopTimer()
				time.Sleep(10 * time.Millisecond) // the others are done
				b.StartTimer()
				began := time.Now()
				src <- Batch{Revision: rev}
				<-batches
				waited += time.Since(began)
			}
			b.ReportMetric(float64(waited.Microseconds())/float64(b.N), "µs-wait/op")
			close(src)
		})
	}
}
