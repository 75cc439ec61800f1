package registry

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// TestCatalogAgainstModel applies random batches to random clusters and follows the updates as a dataplane would:
// what it then holds must be what the model resolves, and no update may name what has not changed. A catalog that
// starts from scratch must agree.
func TestCatalogAgainstModel(t *testing.T) {
	clusters := uint64(2000)
	if testing.Short() {
		clusters = 200
	}
	for seed := range clusters {
		r := rand.New(rand.NewPCG(seed, 7))
		m := newModel(pick(r, "n1", "n1", "n1", ""))
		c := NewCatalog(m.node)
		held := map[Frontend]Resolved{}
		for range r.IntN(40) {
			m.mutate(r)
		}
		for revision := int64(1); revision <= 20; revision++ {
			var b Batch
			if revision == 1 || r.IntN(40) == 0 {
				// The source has lost its place: some changes are seen in a snapshot only.
				for range r.IntN(5) {
					m.mutate(r)
				}
				b = m.snapshot(revision)
			} else {
				b = Batch{Revision: revision}
				for range 1 + r.IntN(4) {
					b.Changes = append(b.Changes, m.mutate(r))
				}
			}
			u := c.Apply(b)
			if u.Revision != revision || u.Snapshot != b.Snapshot {
				t.Fatalf("seed %d: update of revision %d, snapshot %t, for batch %d, %t", seed, u.Revision, u.Snapshot, revision, b.Snapshot)
			}
			follow(t, held, u)
			if d := difference(held, m.resolve()); d != "" {
				t.Fatalf("seed %d, revision %d: after the updates a dataplane holds %s", seed, revision, d)
			}
			checkReaders(t, c, m, held)
		}
		fresh := NewCatalog(m.node)
		fresh.Apply(m.snapshot(1))
		if got, want := c.Frontends(), fresh.Frontends(); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: step by step\n%+v\nfrom scratch\n%+v", seed, got, want)
		}
	}
}

// difference says how what is held differs from what should be, "" if it does not.
func difference(held, want map[Frontend]Resolved) string {
	for f, w := range want {
		if h, ok := held[f]; !ok || !slices.Equal(h.Backends, w.Backends) {
			return fmt.Sprintf("of %v (%t)\n%s\nwant\n%s", f, ok, show(h), show(w))
		}
		h := held[f]
		h.Backends, w.Backends = nil, nil
		if !reflect.DeepEqual(h, w) {
			return fmt.Sprintf("of %v\n%s\nwant\n%s", f, show(h), show(w))
		}
	}
	for f, h := range held {
		if _, ok := want[f]; !ok {
			return fmt.Sprintf("%s, want nothing", show(h))
		}
	}
	return ""
}

func show(r Resolved) string {
	s := fmt.Sprintf("%s %q shared=%t algorithm=%q affinity=%d", r.Service, r.PortName, r.Shared, r.Algorithm, r.AffinityTimeout)
	for _, b := range r.Backends {
		s += fmt.Sprintf(" %s*%d", b.AddrPort, b.Weight)
		if b.Draining {
			s += "(draining)"
		}
	}
	return s
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
	if got, want := len(c.Slices()), len(m.slices); got != want {
		t.Fatalf("%d slices, want %d", got, want)
	}
	if got, want := len(c.Nodes()), len(m.nodes); got != want {
		t.Fatalf("%d nodes, want %d", got, want)
	}
	counts := Counts{Services: len(m.services), Endpoints: len(m.endpoints), Instances: len(m.instances), Frontends: len(held)}
	for _, f := range held {
		counts.Backends += len(f.Backends)
	}
	if got := c.Counts(); got != counts {
		t.Fatalf("counts %+v, want %+v", got, counts)
	}
	for _, e := range c.endpoints {
		for _, s := range e.services {
			if c.services[s.Name] != s {
				t.Fatalf("%s knows a service %s that is no more", e.EndpointID, s.Name)
			}
		}
	}
	for n, s := range m.services {
		for node, members := range c.services[n].onNodes {
			if got := m.zoned(s, node); got != members {
				t.Fatalf("%d members of %s take the zone of node %q, want %d", members, n, node, got)
			}
		}
		if got, want := c.Members(n), m.members(s); got != want {
			t.Fatalf("behind %s stand %d, want %d", n, got, want)
		}
	}
	checkInstances(t, c, m)
	if got, want := len(c.Frontends()), len(held); got != want {
		t.Fatalf("%d frontends, want %d", got, want)
	}
	if len(c.frontends) != len(held) || len(c.dirty)+len(c.touched) != 0 {
		t.Fatalf("%d frontends, want %d; %d dirty, %d touched", len(c.frontends), len(held), len(c.dirty), len(c.touched))
	}
}

// members counts them, whatever their state.
func (m model) members(s Service) (n int) {
	for _, e := range m.endpoints {
		if m.selected(s, e) {
			n++
		}
	}
	for _, sl := range m.slices {
		if sl.Namespace == s.Namespace && sl.Service == s.Name.Name {
			n += len(sl.Endpoints)
		}
	}
	for _, i := range m.instances {
		if i.Namespace == s.Namespace && i.Service == s.Name.Name {
			n++
		}
	}
	return n
}

// zoned counts the members of a service that take the zone of a node.
func (m model) zoned(s Service, node string) (n int) {
	for _, e := range m.endpoints {
		if m.selected(s, e) && e.Node == node {
			n++
		}
	}
	for _, sl := range m.slices {
		for _, e := range sl.Endpoints {
			if sl.Namespace == s.Namespace && sl.Service == s.Name.Name && e.Node == node && e.Zone == "" {
				n++
			}
		}
	}
	for _, i := range m.instances {
		if i.Namespace == s.Namespace && i.Service == s.Name.Name && i.Node == node && i.Zone == "" {
			n++
		}
	}
	return n
}

// TestCatalogLeavesNothing empties a catalog: no index may hold on to what has gone.
func TestCatalogLeavesNothing(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := newModel("n1")
		c := NewCatalog("n1")
		for i := range int64(1000) {
			c.Apply(Batch{Revision: i, Changes: []Change{m.mutate(r)}})
		}
		last := m.snapshot(0).Changes
		for i := range last {
			last[i].Deleted = true
		}
		c.Apply(Batch{Changes: last})
		n := len(c.selectors) + len(c.frontends) + len(c.services) + len(c.endpoints) + len(c.nodes) + len(c.nodePorts) +
			len(c.slices.all) + len(c.slices.of) + len(c.instances.all) + len(c.instances.of) + len(c.topology.services) + len(c.topology.byNode)
		if n != 0 {
			t.Fatalf("seed %d: %d entries are left: %+v", seed, n, c)
		}
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
