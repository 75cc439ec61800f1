package registry

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// describeBackends writes backends as the rows below do: the last byte of the address, *WEIGHT if it is not 1,
// and a "~" before those that drain.
func describeBackends(list []Backend) string {
	var words []string
	for _, b := range list {
		raw := b.Addr().As16()
		word := fmt.Sprint(raw[15])
		if b.Draining {
			word = "~" + word
		} else if b.Weight != DefaultWeight {
			word += fmt.Sprint("*", b.Weight)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// TestChosen has a row for each rule of who is chosen. The backends are endpoints 1, 2 ... on nodes named in
// order; the client is on node "here", which is in zone "za" as is "near"; "far" is in "zb" and "lost" in none.
func TestChosen(t *testing.T) {
	const (
		unready     = "unready"
		terminating = "terminating"
		both        = "unready terminating"
	)
	preferNode := func(s *Service) { s.Distribution = PreferSameNode }
	preferZone := func(s *Service) { s.Distribution = PreferSameZone }
	local := func(s *Service) { s.InternalLocal = true }
	for _, c := range []struct {
		what     string
		service  func(*Service)
		backends []string // NODE [CONDITIONS] [weight=W]
		vip      string
		shared   string // behind the external IP; "": the same
	}{
		{"ready ones share", nil, []string{"here", "near", "far"}, "1 2 3", ""},
		{"unready ones are left out", nil, []string{"here", "here " + unready}, "1", ""},
		{"terminating ones keep what they have", nil, []string{"here", "here " + terminating}, "1 ~2", ""},
		{"terminating ones that do not serve keep nothing", nil, []string{"here", "here " + both}, "1", ""},
		{"if none is ready, those that are terminating serve", nil, []string{"here " + unready, "far " + terminating}, "2", ""},
		{"nobody is left", nil, []string{"here " + unready, "far " + both}, "", ""},
		{"not ready, but published", func(s *Service) { s.PublishNotReady = true },
			[]string{"here " + unready, "here " + terminating, "here " + both, "here"}, "1 2 3 4", ""},
		{"weights", nil, []string{"here weight=3", "here", "here weight=256"}, "1*3 2 3*256", ""},
		{"weight 0 keeps what it has", nil, []string{"here weight=0", "here weight=2"}, "~1 2*2", ""},
		{"all have weight 0", nil, []string{"here weight=0", "here weight=0"}, "1 2", ""},
		{"all that are ready have weight 0", nil, []string{"here weight=0", "here weight=5 " + terminating}, "1 ~2", ""},
		{"weights among those that are terminating", nil,
			[]string{"here weight=0 " + terminating, "here weight=5 " + terminating}, "~1 2*5", ""},
		{"a weight that is none", nil, []string{"here weight=257", "here weight=heavy", "here weight=-1"}, "1 2 3", ""},
		{"internalTrafficPolicy: Local", local, []string{"here", "near"}, "1", "1 2"},
		{"local, none there", local, []string{"near", "far"}, "", "1 2"},
		{"local, terminating there", local, []string{"here " + terminating, "near"}, "1", "~1 2"},
		{"local, some terminating there", local, []string{"here " + terminating, "here", "near " + terminating}, "~1 2", "~1 2 ~3"},
		{"externalTrafficPolicy: Local is for clients outside", func(s *Service) { s.ExternalLocal = true },
			[]string{"here", "far"}, "1 2", ""},
		{"same node", preferNode, []string{"here", "near", "far"}, "1", ""},
		{"same node, else zone", preferNode, []string{"here " + unready, "near", "far"}, "2", ""},
		{"same node, else zone, else all", preferNode, []string{"here " + unready, "far", "lost"}, "2 3", ""},
		{"same zone", preferZone, []string{"here", "near", "far", "lost"}, "1 2", ""},
		{"same zone, else all", preferZone, []string{"near " + terminating, "far", "lost"}, "~1 2 3", ""},
		{"terminating ones elsewhere are out of the topology", preferZone,
			[]string{"near", "far " + terminating}, "1", ""},
		{"the last that serve are chosen wherever they are", preferNode,
			[]string{"here " + terminating, "far " + terminating}, "1 2", ""},
		{"the near has weight 0", preferNode, []string{"here weight=0", "far"}, "1", ""},
		{"local, then nothing is nearer", func(s *Service) { s.InternalLocal, s.Distribution = true, PreferSameZone },
			[]string{"here", "near", "far"}, "1", "1 2"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := Service{
				Name: Name{"x", "s"}, Selector: map[string]string{"app": "s"},
				VIPs:        []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd96::1")},
				ExternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
			}
			for _, p := range []Protocol{TCP, UDP, SCTP} {
				s.Ports = append(s.Ports, ServicePort{Name: p.String(), Port: 80, Protocol: p, TargetPort: 8080})
			}
			if c.service != nil {
				c.service(&s)
			}
			b := Batch{Revision: 1, Snapshot: true, Changes: []Change{
				{Service: &s}, {Node: &Node{Name: "here", Zone: "za"}}, {Node: &Node{Name: "near", Zone: "za"}},
				{Node: &Node{Name: "far", Zone: "zb"}}, {Node: &Node{Name: "lost"}},
			}}
			for i, words := range c.backends {
				b.Changes = append(b.Changes, Change{Endpoint: rowEndpoint(i+1, strings.Fields(words))})
			}
			u := NewCatalog("here").Apply(b)
			if len(u.Set) != 12 {
				t.Fatalf("%d frontends, want 12", len(u.Set))
			}
			for _, r := range u.Set {
				want := c.vip
				if r.Shared && c.shared != "" {
					want = c.shared
				}
				if got := describeBackends(r.Backends); got != want {
					t.Errorf("%s, %s: %q, want %q", r.Addr, r.Protocol, got, want)
				}
			}
		})
	}
}

func rowEndpoint(n int, words []string) *Endpoint {
	e := &Endpoint{
		EndpointID: EndpointID{words[0], fmt.Sprint(n), "eth0"}, Name: Name{"x", fmt.Sprint(n)},
		Labels:    map[string]string{"app": "s"},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), netip.AddrFrom16([16]byte{0xfd, 15: byte(n)})},
	}
	for _, word := range words[1:] {
		switch weight, ok := strings.CutPrefix(word, "weight="); {
		case ok:
			e.Labels[WeightLabel] = weight
		case word == "unready":
			e.Unready = true
		case word == "terminating":
			e.Terminating = true
		}
	}
	return e
}

// TestChosenLocalSlice: with internalTrafficPolicy: Local the node decides, whatever zone a slice gives its endpoint.
func TestChosenLocalSlice(t *testing.T) {
	s := Service{
		Name: Name{"x", "s"}, VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, InternalLocal: true,
		Distribution: PreferSameZone, Ports: []ServicePort{{Port: 80, Protocol: TCP}},
	}
	entry := func(n byte, zone string) SliceEndpoint {
		return SliceEndpoint{
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, n})}, Node: "here", Zone: zone, Ready: true,
		}
	}
	sl := Slice{
		Name: Name{"x", "s-1"}, Service: "s", Family: IPv4, Ports: []EndpointPort{{Protocol: TCP, Port: 8080}},
		Endpoints: []SliceEndpoint{entry(1, "za"), entry(2, "zb")},
	}
	u := NewCatalog("here").Apply(Batch{Revision: 1, Snapshot: true, Changes: []Change{
		{Service: &s}, {Slice: &sl}, {Node: &Node{Name: "here", Zone: "za"}},
	}})
	if len(u.Set) != 1 || describeBackends(u.Set[0].Backends) != "1 2" {
		t.Errorf("update %+v, want both", u)
	}
}

// TestSharedAddress: an address can be one service's VIP and shared by another at other ports, and services can
// share a VIP. Of the same port the service first by name has it.
func TestSharedAddress(t *testing.T) {
	a := netip.MustParseAddr("10.96.0.1")
	service := func(name string, vip string, port uint16, external ...netip.Addr) Change {
		return Change{Service: &Service{
			Name: Name{"x", name}, VIPs: []netip.Addr{netip.MustParseAddr(vip)}, ExternalIPs: external,
			Ports: []ServicePort{{Port: port, Protocol: TCP, TargetPort: 1}},
		}}
	}
	c := NewCatalog("")
	c.Apply(Batch{Revision: 1, Snapshot: true, Changes: []Change{
		service("d", "10.96.0.1", 81), service("c", "10.96.0.1", 80), service("b", "10.96.0.2", 82, a), service("a", "10.96.0.3", 80, a),
	}})
	var got []string
	for _, r := range c.Frontends() {
		if r.Addr == a {
			got = append(got, fmt.Sprintf("%d %s %t", r.Port, r.Service.Name, r.Shared))
		}
	}
	if want := []string{"80 a true", "81 d false", "82 b true"}; !slices.Equal(got, want) {
		t.Errorf("%s is %q, want %q", a, got, want)
	}
	u := c.Apply(Batch{Revision: 2, Changes: []Change{{Service: &Service{Name: Name{"x", "a"}}, Deleted: true}}})
	if len(u.Set) != 1 || u.Set[0].Service.Name != "c" || u.Set[0].Shared || len(u.Delete) != 1 {
		t.Errorf("update %+v, want port 80 to become c's and 10.96.0.3 to go", u)
	}
}

// TestNodePorts: node ports follow the own node's addresses, of the service's families.
func TestNodePorts(t *testing.T) {
	c := NewCatalog("here")
	s := Service{
		Name: Name{"x", "s"}, Type: TypeNodePort, VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []ServicePort{{Port: 80, Protocol: UDP, TargetPort: 1, NodePort: 30080}, {Port: 81, Protocol: UDP, TargetPort: 1}},
	}
	node := func(name string, addrs ...string) Change {
		n := Node{Name: name}
		for _, a := range addrs {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
		return Change{Node: &n}
	}
	c.Apply(Batch{Revision: 1, Snapshot: true, Changes: []Change{{Service: &s}, node("there", "192.0.2.9")}})
	for i, step := range []struct {
		change      Change
		set, delete string
	}{
		{node("here", "192.0.2.1", "2001:db8::1"), "192.0.2.1:30080", ""},
		{node("here", "192.0.2.1"), "", ""},
		{node("there", "192.0.2.8"), "", ""},
		{node("here", "192.0.2.2", "192.0.2.3", "192.0.2.1"), "192.0.2.2:30080 192.0.2.3:30080", ""},
		{node("here", "192.0.2.3"), "", "192.0.2.1:30080 192.0.2.2:30080"},
		{Change{Node: &Node{Name: "here"}, Deleted: true}, "", "192.0.2.3:30080"},
		{node("here", "192.0.2.3"), "192.0.2.3:30080", ""},
		{Change{Service: &Service{Name: s.Name}, Deleted: true}, "", "10.96.0.1:80 10.96.0.1:81 192.0.2.3:30080"},
	} {
		u := c.Apply(Batch{Revision: int64(i) + 2, Changes: []Change{step.change}})
		var set, gone []string
		for _, r := range u.Set {
			set = append(set, netip.AddrPortFrom(r.Addr, r.Port).String())
			if !r.Shared {
				t.Errorf("step %d: %s is not shared", i, r.Addr)
			}
		}
		for _, f := range u.Delete {
			gone = append(gone, netip.AddrPortFrom(f.Addr, f.Port).String())
		}
		if strings.Join(set, " ") != step.set || strings.Join(gone, " ") != step.delete {
			t.Errorf("step %d: sets %q and deletes %q, want %q and %q", i, set, gone, step.set, step.delete)
		}
	}
}

// TestCatalogStandsJunk applies objects that no store would take, but that somebody may have written: what comes out
// of them can be acted upon, and it does not depend on the way there.
func TestCatalogStandsJunk(t *testing.T) {
	addrs := []netip.Addr{
		{}, netip.MustParseAddr("::"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::ffff:10.0.0.1"),
		netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("fd00::1"),
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 11))
		m := newModel("n1")
		c := NewCatalog("n1")
		for i := range int64(40) {
			change := m.mutate(r)
			switch {
			case change.Deleted:
			case change.Service != nil:
				spoilService(r, change.Service, addrs)
				m.services[change.Service.Name] = *change.Service
			case change.Slice != nil:
				spoilSlice(r, change.Slice, addrs)
				m.slices[change.Slice.Name] = *change.Slice
			case change.Endpoint != nil:
				change.Endpoint.Addresses, change.Endpoint.Ports = some(r, addrs...), randomPorts(r, "")
				m.endpoints[change.Endpoint.EndpointID] = *change.Endpoint
			case change.Node != nil:
				change.Node.Addresses = some(r, addrs...)
				m.nodes[change.Node.Name] = *change.Node
			}
			c.Apply(Batch{Revision: i, Changes: []Change{change}})
		}
		for _, f := range c.Frontends() {
			checkSane(t, f)
		}
		fresh := NewCatalog("n1")
		fresh.Apply(m.snapshot(1))
		if got, want := c.Frontends(), fresh.Frontends(); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: step by step\n%+v\nfrom scratch\n%+v", seed, got, want)
		}
	}
}

func spoilService(r *rand.Rand, s *Service, addrs []netip.Addr) {
	s.VIPs, s.ExternalIPs, s.LoadBalancerIPs = some(r, addrs...), some(r, addrs...), some(r, addrs...)
	s.Distribution, s.Algorithm = pick(r, s.Distribution, "PreferNobody"), pick(r, s.Algorithm, "oracle")
	s.Ports = append(slices.Clone(s.Ports), s.Ports...)
	for i := range s.Ports {
		p := &s.Ports[i]
		p.Port, p.TargetPort, p.NodePort = pick(r, p.Port, 0), pick(r, p.TargetPort, 0), pick(r, p.NodePort, 0)
	}
}

func spoilSlice(r *rand.Rand, s *Slice, addrs []netip.Addr) {
	s.Family = pick(r, s.Family, 0, 5)
	for i := range s.Endpoints {
		s.Endpoints[i].Addresses = some(r, addrs...)
		s.Endpoints[i].Weight = pick(r, nil, new(uint16(0)), new(uint16(257)), new(uint16(65535)))
	}
}

// checkSane fails the test unless a dataplane can act on a frontend.
func checkSane(t *testing.T, f Resolved) {
	t.Helper()
	good := func(a netip.Addr) bool { return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() }
	if !good(f.Addr) || f.Port == 0 || f.Algorithm == "oracle" {
		t.Fatalf("frontend %+v", f)
	}
	for i, b := range f.Backends {
		switch {
		case !good(b.Addr()) || b.Port() == 0 || b.Addr().Is4() != f.Addr.Is4():
			t.Fatalf("%s: backend %s", f.Addr, b.AddrPort)
		case b.Draining != (b.Weight == 0) || b.Weight > MaxWeight:
			t.Fatalf("%s: backend %s of weight %d, draining %t", f.Addr, b.AddrPort, b.Weight, b.Draining)
		case i > 0 && f.Backends[i-1].Compare(b) >= 0:
			t.Fatalf("%s: backends out of order: %v", f.Addr, f.Backends)
		}
	}
}
