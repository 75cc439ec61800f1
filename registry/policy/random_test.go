package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// world makes random clusters, in a space small enough for things to meet.
type world struct {
	*rand.Rand
	cluster
	containers int // made so far
}

const thisNode = "here"

var (
	someNamespaces = []string{"x", "y", "z"}
	someKeys       = []string{"app", "tier", "env"}
	someValues     = []string{"a", "b", ""}
	someNetworks   = []string{"blue", "red"}
	somePortNames  = []string{"web", "dns"}
	someNumbers    = []uint16{0, 1, 79, 80, 81, 8080, 65534, 65535}
	someProtocols  = []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP}
	someBlocks     = []string{
		"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/28", "10.0.0.0/29", "10.0.0.8/29", "10.0.0.4/30", "10.0.0.5/32", "192.0.2.0/24",
		"192.0.2.7/32", "::/0", "fd00::/64", "fd00::/124", "fd00::8/125", "fd00::5/128", "2001:db8::/32",
	}
	nodeAddresses = []netip.Addr{netip.MustParseAddr("10.0.0.15"), netip.MustParseAddr("fd00::f")}
	strangers     = []netip.Addr{
		netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("198.51.100.1"),
		netip.MustParseAddr("10.0.0.14"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("3fff::1"), netip.MustParseAddr("fd00::e"),
	}
)

func newWorld(seed uint64) *world {
	return &world{Rand: rand.New(rand.NewPCG(seed, 1)), cluster: cluster{namespaces: map[string]map[string]string{}}}
}

func pick[T any](w *world, list []T) T { return list[w.IntN(len(list))] }

func (w *world) oneIn(n int) bool { return w.IntN(n) == 0 }

func (w *world) labels() map[string]string {
	set := map[string]string{}
	for _, k := range someKeys {
		if !w.oneIn(3) {
			set[k] = pick(w, someValues)
		}
	}
	return set
}

// v4 and v6 are the n-th container's addresses.
func v4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

func v6(n int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(n)}) }

// endpoint makes the n-th container.
func (w *world) endpoint(n int) registry.Endpoint {
	id := registry.EndpointID{Node: pick(w, []string{thisNode, "there"}), ContainerID: fmt.Sprint("c", n), Interface: "eth0"}
	return w.relabelled(registry.Endpoint{EndpointID: id, Addresses: []netip.Addr{v4(n), v6(n)}})
}

// relabelled gives a container another workload.
func (w *world) relabelled(ep registry.Endpoint) registry.Endpoint {
	ep.Name = registry.Name{Namespace: pick(w, someNamespaces), Name: ep.ContainerID}
	ep.Network = someNetworks[0]
	if w.oneIn(4) {
		ep.Network = someNetworks[1]
	}
	ep.Labels, ep.Ports = w.labels(), nil
	for range w.IntN(3) {
		ep.Ports = append(ep.Ports, registry.EndpointPort{
			Name: pick(w, somePortNames), Protocol: pick(w, someProtocols), Port: pick(w, someNumbers),
		})
	}
	return ep
}

func (w *world) selector(keys ...string) registry.Selector {
	var s registry.Selector
	for range w.IntN(3) {
		k := pick(w, append(slices.Clone(someKeys), keys...))
		values := someValues
		switch k {
		case registry.NetworkLabel:
			values = someNetworks
		case registry.NamespaceLabel:
			values = someNamespaces
		}
		if w.oneIn(2) {
			if s.MatchLabels == nil {
				s.MatchLabels = map[string]string{}
			}
			s.MatchLabels[k] = pick(w, values)
			continue
		}
		r := registry.Requirement{Key: k, Operator: pick(w, []registry.Operator{registry.In, registry.NotIn, registry.Exists, registry.DoesNotExist})}
		if r.Operator == registry.In || r.Operator == registry.NotIn {
			r.Values = []string{pick(w, values)}
			if w.oneIn(2) {
				r.Values = append(r.Values, pick(w, values))
			}
		}
		s.Expressions = append(s.Expressions, r)
	}
	return s
}

func (w *world) namespaceSelector() *registry.Selector {
	if w.oneIn(2) {
		return nil
	}
	s := w.selector(registry.NamespaceLabel)
	return &s
}

func (w *world) peer(tier registry.Tier) registry.Peer {
	if w.oneIn(3) && tier == registry.TierNamespaced {
		b := &registry.IPBlock{CIDR: netip.MustParsePrefix(pick(w, someBlocks))}
		for range 6 {
			x := netip.MustParsePrefix(pick(w, someBlocks))
			if b.CIDR.Overlaps(x) && x.Bits() > b.CIDR.Bits() {
				b.Except = append(b.Except, x)
			}
		}
		return registry.Peer{Block: b}
	}
	s := &registry.PodSelector{Namespaces: w.namespaceSelector(), Pods: w.selector(registry.NetworkLabel, registry.NetworkLabel)}
	if tier != registry.TierNamespaced && w.oneIn(3) {
		for _, keys := range []*[]string{&s.SameLabels, &s.NotSameLabels} {
			for range w.IntN(3) {
				*keys = append(*keys, pick(w, append(slices.Clone(someKeys), registry.NamespaceLabel)))
			}
		}
	}
	return registry.Peer{Pods: s}
}

func (w *world) ports(tier registry.Tier) []registry.PolicyPort {
	var list []registry.PolicyPort
	for range w.IntN(4) {
		p := registry.PolicyPort{Protocol: pick(w, someProtocols)}
		switch w.IntN(4) {
		case 0:
			p.Name = pick(w, somePortNames)
			if tier != registry.TierNamespaced {
				p.Protocol = 0
			}
		case 1:
			p.EndPort = 65535
		default:
			a, b := pick(w, someNumbers), pick(w, someNumbers)
			p.Port, p.EndPort = min(a, b), max(a, b)
			if w.oneIn(2) {
				p.EndPort = p.Port
			}
		}
		list = append(list, p)
	}
	return list
}

func (w *world) rules(tier registry.Tier) []registry.Rule {
	var list []registry.Rule
	for range w.IntN(3) {
		r := registry.Rule{Action: registry.Allow, Ports: w.ports(tier)}
		n := w.IntN(3)
		switch tier {
		case registry.TierAdmin:
			r.Action = pick(w, []registry.Action{registry.Allow, registry.Deny, registry.Pass})
			n++
		case registry.TierBaseline:
			r.Action = pick(w, []registry.Action{registry.Allow, registry.Deny})
			n++
		}
		for range n {
			r.Peers = append(r.Peers, w.peer(tier))
		}
		list = append(list, r)
	}
	return list
}

func (w *world) policy(n int) *registry.Policy {
	tier := pick(w, []registry.Tier{
		registry.TierNamespaced, registry.TierNamespaced, registry.TierNamespaced, registry.TierAdmin, registry.TierBaseline,
	})
	p := &registry.Policy{PolicyID: registry.PolicyID{Tier: tier, Name: registry.Name{Name: fmt.Sprint("p", n)}}, Audit: w.oneIn(5)}
	p.Ingress, p.Egress = w.rules(tier), w.rules(tier)
	p.Subject.Pods = w.selector(registry.NetworkLabel)
	if tier != registry.TierNamespaced {
		p.Subject.Namespaces = w.namespaceSelector()
		p.Priority = int32(w.IntN(3))
		return p
	}
	p.Namespace = pick(w, someNamespaces)
	p.Isolates = pick(w, [][]registry.Direction{{registry.Ingress}, {registry.Egress}, {registry.Ingress, registry.Egress}})
	return p
}

// fill makes a whole cluster.
func (w *world) fill() {
	for _, ns := range someNamespaces {
		if w.oneIn(2) {
			w.namespaces[ns] = w.labels()
		}
	}
	for range 2 + w.IntN(7) {
		w.containers++
		w.endpoints = append(w.endpoints, w.endpoint(w.containers))
	}
	for n := range 1 + w.IntN(12) {
		w.policies = append(w.policies, w.policy(n))
	}
}

// changes names everything there is.
func (c *cluster) changes() []registry.Change {
	list := []registry.Change{{Node: &registry.Node{Name: thisNode, Addresses: nodeAddresses}}}
	for name, labels := range c.namespaces {
		list = append(list, registry.Change{Namespace: &registry.Namespace{Name: name, Labels: labels}})
	}
	for i := range c.endpoints {
		ep := c.endpoints[i]
		list = append(list, registry.Change{Endpoint: &ep})
	}
	for _, p := range c.policies {
		list = append(list, registry.Change{Policy: p})
	}
	return list
}

// addresses returns all those worth probing.
func (c *cluster) addresses() []netip.Addr {
	list := slices.Clone(strangers)
	for i := range c.endpoints {
		list = append(list, c.endpoints[i].Addresses...)
	}
	return list
}

// probe makes a packet to or from a container.
func (w *world) probe() probe {
	p := probe{
		subject: pick(w, pick(w, w.endpoints).Addresses), direction: pick(w, []registry.Direction{registry.Ingress, registry.Egress}),
		proto: pick(w, []uint8{6, 6, 17, 132, 1}), port: pick(w, someNumbers),
	}
	if w.oneIn(2) {
		p.port += uint16(w.IntN(3)) - 1
	}
	for p.peer = p.subject; p.peer == p.subject || p.peer.Is4() != p.subject.Is4(); {
		p.peer = pick(w, w.addresses())
	}
	return p
}
