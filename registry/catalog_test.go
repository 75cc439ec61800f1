package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// model is the registry as plain lists, and resolves everything anew each time.
type model struct {
	services  map[Name]Service
	endpoints map[EndpointID]Endpoint
}

func (m model) resolve() map[Frontend]Resolved {
	out := map[Frontend]Resolved{}
	for _, s := range m.services {
		for _, vip := range s.VIPs {
			for _, p := range s.Ports {
				f := Frontend{vip, p.Port, p.Protocol}
				out[f] = Resolved{Frontend: f, Service: s.Name, PortName: p.Name, Backends: m.backends(s, vip, p)}
			}
		}
	}
	return out
}

func (m model) backends(s Service, vip netip.Addr, p ServicePort) []Backend {
	weights := map[netip.AddrPort]uint16{}
	for _, e := range m.endpoints {
		matches := len(s.Selector) > 0 && e.Name.Namespace == s.Namespace
		for k, v := range s.Selector {
			got, ok := e.Labels[k]
			matches = matches && ok && got == v
		}
		if !matches {
			continue
		}
		port := p.TargetPort
		if p.TargetName != "" {
			port = 0
			for _, ep := range e.Ports {
				if ep.Name == p.TargetName && ep.Protocol == p.Protocol && port == 0 {
					port = ep.Port
				}
			}
		}
		for _, a := range e.Addresses {
			if port != 0 && a.Is4() == vip.Is4() {
				weights[netip.AddrPortFrom(a, port)]++
			}
		}
	}
	var list []Backend
	for a, w := range weights {
		list = append(list, Backend{AddrPort: a, Weight: w})
	}
	slices.SortFunc(list, Backend.Compare)
	return list
}

// snapshot is the model as a batch.
func (m model) snapshot(revision int64) Batch {
	b := Batch{Revision: revision, Snapshot: true}
	for _, s := range m.services {
		b.Changes = append(b.Changes, Change{Service: &s})
	}
	for _, e := range m.endpoints {
		b.Changes = append(b.Changes, Change{Endpoint: &e})
	}
	return b
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func randomLabels(r *rand.Rand) map[string]string {
	set := map[string]string{}
	for range r.IntN(4) {
		set[pick(r, "app", "tier", "zone")] = pick(r, "a", "b", "c")
	}
	return set
}

// randomService gives service number n the VIPs that are its own.
func randomService(r *rand.Rand, n int) Service {
	s := Service{
		Name:     Name{pick(r, "x", "y"), fmt.Sprint("s", n)},
		Selector: randomLabels(r),
	}
	// Both namespaces have a service of each number: their VIPs differ in one bit.
	host := byte(2*n + 1)
	if s.Namespace == "y" {
		host++
	}
	four := netip.AddrFrom4([4]byte{10, 96, 0, host})
	six := netip.AddrFrom16([16]byte{0xfd, 15: host})
	switch r.IntN(4) {
	case 0:
		s.VIPs = []netip.Addr{four}
	case 1:
		s.VIPs = []netip.Addr{six}
	case 2:
		s.VIPs = []netip.Addr{six, four}
	case 3:
		s.Headless = true
	}
	ports := r.Perm(4)[:1+r.IntN(3)]
	for _, i := range ports {
		p := ServicePort{Name: fmt.Sprint("p", r.IntN(2)), Port: uint16(80 + i/2), Protocol: pick(r, TCP, UDP)}
		if slices.ContainsFunc(s.Ports, func(o ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }) {
			continue
		}
		if r.IntN(2) == 0 {
			p.TargetName = pick(r, "http", "dns")
		} else {
			p.TargetPort = pick[uint16](r, 8080, 9090)
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

func randomEndpoint(r *rand.Rand) Endpoint {
	n := byte(r.IntN(12))
	e := Endpoint{
		EndpointID: EndpointID{"n1", fmt.Sprint("c", n), pick(r, "eth0", "eth1")},
		Name:       Name{pick(r, "x", "y"), fmt.Sprint("w", n)},
		Labels:     randomLabels(r),
	}
	// Sometimes two endpoints share an address.
	four := netip.AddrFrom4([4]byte{10, 244, 0, n / pick[byte](r, 1, 2)})
	six := netip.AddrFrom16([16]byte{0xfd, 1, 15: n})
	switch r.IntN(4) {
	case 0:
		e.Addresses = []netip.Addr{four}
	case 1:
		e.Addresses = []netip.Addr{six}
	default:
		e.Addresses = []netip.Addr{four, six}
	}
	for range r.IntN(3) {
		e.Ports = append(e.Ports, EndpointPort{pick(r, "http", "dns"), pick(r, TCP, UDP), pick[uint16](r, 7000, 7001)})
	}
	return e
}

// mutate makes a random change to the model and returns it.
func (m model) mutate(r *rand.Rand) Change {
	switch r.IntN(6) {
	case 0, 1:
		s := randomService(r, r.IntN(8))
		m.services[s.Name] = s
		return Change{Service: &s}
	case 2:
		n := Name{pick(r, "x", "y"), fmt.Sprint("s", r.IntN(8))}
		delete(m.services, n)
		return Change{Service: &Service{Name: n}, Deleted: true}
	case 3:
		id := randomEndpoint(r).EndpointID
		delete(m.endpoints, id)
		return Change{Endpoint: &Endpoint{EndpointID: id}, Deleted: true}
	}
	e := randomEndpoint(r)
	m.endpoints[e.EndpointID] = e
	return Change{Endpoint: &e}
}

// TestCatalogAgainstModel applies random batches and follows the updates as a dataplane would: what
// it then holds must be what the model resolves, and no update may name what has not changed.
func TestCatalogAgainstModel(t *testing.T) {
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 7))
		m := model{services: map[Name]Service{}, endpoints: map[EndpointID]Endpoint{}}
		c := NewCatalog("")
		held := map[Frontend]Resolved{}
		for revision := int64(1); revision <= 500; revision++ {
			var b Batch
			if r.IntN(40) == 0 {
				// The source has lost its place: some changes are seen in a snapshot only.
				for range r.IntN(5) {
					m.mutate(r)
				}
				b = m.snapshot(revision)
			} else {
				b = Batch{Revision: revision}
				for range r.IntN(4) {
					b.Changes = append(b.Changes, m.mutate(r))
				}
			}
			u := c.Apply(b)
			if u.Revision != revision || u.Snapshot != b.Snapshot {
				t.Fatalf("seed %d: update of revision %d, snapshot %t, for batch %d, %t", seed, u.Revision, u.Snapshot, revision, b.Snapshot)
			}
			follow(t, held, u)
			want := m.resolve()
			if !maps.EqualFunc(held, want, equalResolved) {
				t.Fatalf("seed %d, revision %d: after the updates a dataplane holds\n%v\nwant\n%v", seed, revision, held, want)
			}
			checkReaders(t, c, m, held)
		}
	}
}

// follow applies an update, and fails the test when it says what is known already.
func follow(t *testing.T, held map[Frontend]Resolved, u Update) {
	t.Helper()
	if u.Snapshot {
		clear(held)
		if len(u.Delete) > 0 {
			t.Fatalf("snapshot deletes %v", u.Delete)
		}
	}
	for _, f := range u.Delete {
		if _, ok := held[f]; !ok {
			t.Fatalf("deletes %v, which was never set", f)
		}
		delete(held, f)
	}
	for _, s := range u.Set {
		if old, ok := held[s.Frontend]; ok && equalResolved(old, s) {
			t.Fatalf("sets %v again", s)
		}
		if !slices.IsSortedFunc(s.Backends, Backend.Compare) {
			t.Fatalf("backends out of order: %v", s.Backends)
		}
		held[s.Frontend] = s
	}
}

func checkReaders(t *testing.T, c *Catalog, m model, held map[Frontend]Resolved) {
	t.Helper()
	if got, want := len(c.Services()), len(m.services); got != want {
		t.Fatalf("%d services, want %d", got, want)
	}
	if got, want := len(c.Endpoints()), len(m.endpoints); got != want {
		t.Fatalf("%d endpoints, want %d", got, want)
	}
	if got, want := len(c.Frontends()), len(held); got != want {
		t.Fatalf("%d frontends, want %d", got, want)
	}
	if len(c.frontends) != len(held) || len(c.dirty)+len(c.touched) != 0 {
		t.Fatalf("%d frontends, want %d; %d dirty, %d touched", len(c.frontends), len(held), len(c.dirty), len(c.touched))
	}
}

// TestCatalogLeavesNothing empties a catalog: no index may hold on to what has gone.
func TestCatalogLeavesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	m := model{services: map[Name]Service{}, endpoints: map[EndpointID]Endpoint{}}
	c := NewCatalog("")
	for i := range int64(1000) {
		c.Apply(Batch{Revision: i, Changes: []Change{m.mutate(r)}})
	}
	var last Batch
	for n := range m.services {
		last.Changes = append(last.Changes, Change{Service: &Service{Name: n}, Deleted: true})
	}
	for id := range m.endpoints {
		last.Changes = append(last.Changes, Change{Endpoint: &Endpoint{EndpointID: id}, Deleted: true})
	}
	c.Apply(last)
	if n := len(c.selectors) + len(c.frontends) + len(c.services) + len(c.endpoints); n != 0 {
		t.Errorf("%d entries are left: %+v", n, c)
	}
}

// TestCatalogContestedVIP: foreign data may give one address to two services. The first by name has
// it, whatever came first, and the other gets it when that one goes.
func TestCatalogContestedVIP(t *testing.T) {
	service := func(name string) *Service {
		return &Service{
			Name: Name{"x", name}, VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
			Ports: []ServicePort{{Port: 80, Protocol: TCP, TargetPort: 1}},
		}
	}
	c := NewCatalog("")
	c.Apply(Batch{Revision: 1, Changes: []Change{{Service: service("b")}}})
	u := c.Apply(Batch{Revision: 2, Changes: []Change{{Service: service("a")}}})
	if len(u.Set) != 1 || u.Set[0].Service.Name != "a" {
		t.Errorf("update %+v, want a to have the address", u)
	}
	u = c.Apply(Batch{Revision: 3, Changes: []Change{{Service: service("a"), Deleted: true}}})
	if len(u.Set) != 1 || u.Set[0].Service.Name != "b" || len(u.Delete) != 0 {
		t.Errorf("update %+v, want b to have the address", u)
	}
}

func TestCatalogNodes(t *testing.T) {
	c := NewCatalog("")
	if c.Synced() {
		t.Error("synced before the first snapshot")
	}
	c.Apply(Batch{Revision: 5, Snapshot: true, Changes: []Change{{Node: &Node{Name: "b"}}, {Node: &Node{Name: "a"}}}})
	c.Apply(Batch{Revision: 6, Changes: []Change{{Node: &Node{Name: "b"}, Deleted: true}}})
	if got := c.Nodes(); len(got) != 1 || got[0].Name != "a" || !c.Synced() || c.Revision() != 6 {
		t.Errorf("nodes %v, synced %t, revision %d", got, c.Synced(), c.Revision())
	}
}

// BenchmarkCatalog: one endpoint of a service of so many comes and goes, beside 10000 services that
// have nothing to do with it.
func BenchmarkCatalog(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := NewCatalog("")
			var all Batch
			for i := range 10000 {
				all.Changes = append(all.Changes, Change{Service: &Service{
					Name: Name{"x", fmt.Sprint(i)}, Selector: map[string]string{"app": fmt.Sprint(i), "tier": "web"},
					VIPs:  []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
					Ports: []ServicePort{{Port: 80, Protocol: TCP, TargetPort: 8080}},
				}})
			}
			endpoint := func(i int) *Endpoint {
				return &Endpoint{
					EndpointID: EndpointID{"n", fmt.Sprint(i), "eth0"}, Name: Name{"x", fmt.Sprint(i)},
					Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})},
					Labels:    map[string]string{"app": "0", "tier": "web"},
				}
			}
			for i := range n {
				all.Changes = append(all.Changes, Change{Endpoint: endpoint(i)})
			}
			c.Apply(all)
			for i := 0; b.Loop(); i++ {
				u := c.Apply(Batch{Changes: []Change{{Endpoint: endpoint(n / 2), Deleted: i%2 == 0}}})
				if len(u.Set) != 1 {
					b.Fatalf("update %+v", u)
				}
			}
		})
	}
}

// TestCatalogIsolation: an update passes on what concerns isolation, and nothing else, in its order.
func TestCatalogIsolation(t *testing.T) {
	c := NewCatalog("")
	id := EndpointID{Node: "n", ContainerID: "c", Interface: "eth0"}
	all := []Change{
		{Service: &Service{Name: Name{Namespace: "default", Name: "web"}}},
		{Endpoint: &Endpoint{EndpointID: id}},
		{Node: &Node{Name: "n"}},
		{Namespace: &Namespace{Name: "default"}},
		{Policy: &Policy{PolicyID: PolicyID{Name: Name{Namespace: "default", Name: "deny"}}}},
	}
	u := c.Apply(Batch{Revision: 1, Snapshot: true, Changes: all})
	if !reflect.DeepEqual(u.Isolation, all[1:]) {
		t.Errorf("of a snapshot: %+v, want %+v", u.Isolation, all[1:])
	}
	gone := []Change{{Service: all[0].Service, Deleted: true}, {Endpoint: &Endpoint{EndpointID: id}, Deleted: true}}
	u = c.Apply(Batch{Revision: 2, Changes: gone})
	if !reflect.DeepEqual(u.Isolation, gone[1:]) {
		t.Errorf("of a deletion: %+v, want %+v", u.Isolation, gone[1:])
	}
}
