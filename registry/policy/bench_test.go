package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// A large cluster: 100 namespaces, two of each team, of 50 workloads each that differ. Each workload has
// a policy for ingress and one for egress, which name its team: 100 peers.
const (
	benchNamespaces = 100
	benchWorkloads  = 50 // of a namespace
)

func benchEndpoint(ns, n, replica int) *registry.Endpoint {
	return &registry.Endpoint{
		EndpointID: registry.EndpointID{Node: thisNode, ContainerID: fmt.Sprintf("c-%d-%d-%d", ns, n, replica), Interface: "eth0"},
		Name:       registry.Name{Namespace: fmt.Sprint("ns", ns), Name: fmt.Sprint("pod", n)},
		Network:    "net",
		Addresses:  []netip.Addr{netip.AddrFrom4([4]byte{10, byte(replica), byte(ns), byte(n)})},
		Labels:     map[string]string{"app": fmt.Sprint("app", n), "tier": fmt.Sprint("tier", n%3), "pod-template-hash": fmt.Sprint("h", ns, n)},
		Ports:      []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
	}
}

func benchPolicy(ns, n int, d registry.Direction, port uint16) *registry.Policy {
	p := &registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: fmt.Sprint("ns", ns), Name: fmt.Sprint("p", n, d)}},
		Subject:  registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{"app": fmt.Sprint("app", n)}}},
		Isolates: []registry.Direction{d},
	}
	rules := []registry.Rule{{
		Action: registry.Allow,
		Peers: []registry.Peer{{Pods: &registry.PodSelector{
			Namespaces: &registry.Selector{MatchLabels: map[string]string{"team": fmt.Sprint("team", ns/2)}},
		}}},
		Ports: []registry.PolicyPort{
			{Protocol: registry.TCP, Port: port, EndPort: port}, {Protocol: registry.TCP, Name: "http"},
			{Protocol: registry.UDP, Port: 53, EndPort: 53},
		},
	}}
	if d == registry.Ingress {
		p.Ingress = rules
	} else {
		p.Egress = rules
	}
	return p
}

func benchChanges() []registry.Change {
	var list []registry.Change
	for ns := range benchNamespaces {
		list = append(list, registry.Change{Namespace: &registry.Namespace{
			Name: fmt.Sprint("ns", ns), Labels: map[string]string{"team": fmt.Sprint("team", ns/2)},
		}})
		for n := range benchWorkloads {
			list = append(list, registry.Change{Endpoint: benchEndpoint(ns, n, 0)},
				registry.Change{Policy: benchPolicy(ns, n, registry.Ingress, 80)},
				registry.Change{Policy: benchPolicy(ns, n, registry.Egress, 80)})
		}
	}
	return list
}

func benchEngine(b *testing.B) *Engine {
	b.Helper()
	e := New(thisNode)
	e.Apply(benchChanges(), true)
	entries := 0
	for _, q := range e.Identities() {
		entries += len(e.Rules(q.ID, registry.Ingress).Set) + len(e.Rules(q.ID, registry.Egress).Set)
	}
	if entries < 990_000 {
		b.Fatalf("%d entries", entries)
	}
	return e
}

// BenchmarkApplySnapshot compiles the whole cluster: a million pairs of subject and peer.
func BenchmarkApplySnapshot(b *testing.B) {
	changes := benchChanges()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for b.Loop() {
		e := New(thisNode)
		deltas := e.Apply(changes, true)
		b.StopTimer()
		b.ReportMetric(float64(heap()-before)/(1<<20), "MB")
		runtime.KeepAlive(e)
		runtime.KeepAlive(deltas)
		b.StartTimer()
	}
}

// BenchmarkApplySame compiles a snapshot that changes nothing.
func BenchmarkApplySame(b *testing.B) {
	e := benchEngine(b)
	for b.Loop() {
		if d := e.Apply(benchChanges(), true); len(d) > 0 {
			b.Fatal("the same again changes something")
		}
	}
}

// BenchmarkApplyPolicy changes a port of one policy: a hundred pairs.
func BenchmarkApplyPolicy(b *testing.B) {
	e := benchEngine(b)
	for i := 0; b.Loop(); i++ {
		d := e.Apply([]registry.Change{{Policy: benchPolicy(7, 7, registry.Ingress, uint16(1000+i%2))}}, false)
		if len(d) != 1 || len(d[0].Rules) != 1 || len(d[0].Rules[0].Set) < 99 {
			b.Fatalf("%+v", d)
		}
	}
}

// BenchmarkApplyBlock makes a block come and go that covers the 50 containers of a namespace: as many
// identities, with all entries that they have part in, split and merge.
func BenchmarkApplyBlock(b *testing.B) {
	e := benchEngine(b)
	with := benchPolicy(7, 7, registry.Egress, 80)
	with.Egress[0].Peers = append(with.Egress[0].Peers, registry.Peer{Block: &registry.IPBlock{CIDR: netip.MustParsePrefix("10.0.7.0/24")}})
	without := benchPolicy(7, 7, registry.Egress, 80)
	for i := 0; b.Loop(); i++ {
		p := with
		if i%2 == 1 {
			p = without
		}
		e.Apply([]registry.Change{{Policy: p}}, false)
	}
}

// BenchmarkAttachKnown attaches and detaches a container of an identity that is known.
func BenchmarkAttachKnown(b *testing.B) {
	e := benchEngine(b)
	ep := *benchEndpoint(7, 7, 1)
	for b.Loop() {
		if d := e.Attach(ep); len(d.Addresses) != 1 || len(d.New) > 0 {
			b.Fatalf("%+v", d)
		}
		e.Detach(ep.EndpointID)
	}
}

// BenchmarkAttachNew attaches and detaches a container of an identity of its own: 100 peers see it, in
// both directions.
func BenchmarkAttachNew(b *testing.B) {
	e := benchEngine(b)
	ep := *benchEndpoint(7, 7, 1)
	ep.Labels = map[string]string{"app": "app7", "new": "yes"}
	for b.Loop() {
		if d := e.Attach(ep); len(d.New) != 1 || len(d.Rules) < 200 {
			b.Fatalf("%d new, %d rules", len(d.New), len(d.Rules))
		}
		e.Detach(ep.EndpointID)
	}
}

// BenchmarkLookup finds the identity of an address.
func BenchmarkLookup(b *testing.B) {
	e := benchEngine(b)
	a := netip.MustParseAddr("10.0.7.7")
	for b.Loop() {
		if e.Lookup(a).Workload == nil {
			b.Fatal("not found")
		}
	}
}
