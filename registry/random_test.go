package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
)

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func some[T any](r *rand.Rand, list ...T) []T {
	var out []T
	for _, v := range list {
		if r.IntN(4) == 0 {
			out = append(out, v)
		}
	}
	return out
}

func randomLabels(r *rand.Rand) map[string]string {
	set := map[string]string{}
	for range r.IntN(4) {
		set[pick(r, "app", "tier", "zone")] = pick(r, "a", "b", "c")
	}
	if r.IntN(3) == 0 {
		set[WeightLabel] = pick(r, "0", "2", "200", "256", "257", "-1", "a lot", "")
	}
	return set
}

// The addresses that more than services have: of nodes, and of anybody.
var (
	nodeAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")}
	freeAddrs = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")}
)

// randomService gives service number n VIPs that are its own, mostly.
func randomService(r *rand.Rand, n int) Service {
	s := Service{
		Name:            Name{pick(r, "x", "y"), fmt.Sprint("s", n)},
		Selector:        randomLabels(r),
		Type:            pick(r, TypeClusterIP, TypeClusterIP, TypeNodePort, TypeLoadBalancer),
		AffinityTimeout: pick[uint32](r, 0, 0, 10800),
		InternalLocal:   r.IntN(4) == 0,
		ExternalLocal:   r.IntN(4) == 0,
		Distribution:    pick(r, DistributeEvenly, PreferSameZone, PreferSameNode),
		PublishNotReady: r.IntN(5) == 0,
		Algorithm:       pick(r, AlgorithmDefault, AlgorithmRandom, AlgorithmMaglev),
	}
	delete(s.Selector, WeightLabel)
	// Both namespaces have a service of each number: their VIPs differ in one bit.
	host := byte(2*n + 1)
	if s.Namespace == "y" {
		host++
	}
	if r.IntN(10) == 0 {
		host = 1 // which may be another's
	}
	four := netip.AddrFrom4([4]byte{10, 96, 0, host})
	six := netip.AddrFrom16([16]byte{0xfd, 15: host})
	switch r.IntN(6) {
	case 0:
		s.VIPs = []netip.Addr{four}
	case 1:
		s.VIPs = []netip.Addr{six}
	case 2:
		s.Headless = true
	case 3:
		s.Type, s.ExternalName = TypeExternalName, "www.example.com"
	default:
		s.VIPs = []netip.Addr{six, four}
	}
	s.ExternalIPs = some(r, slices.Concat(freeAddrs, nodeAddrs, s.VIPs)...)
	s.LoadBalancerIPs = some(r, freeAddrs...)
	for range 1 + r.IntN(3) {
		p := ServicePort{
			Name: pick(r, "", "p0", "p1"), Port: pick[uint16](r, 80, 81, 7000, 30000), Protocol: pick(r, TCP, UDP, SCTP),
			NodePort: pick[uint16](r, 0, 30000, 30001),
		}
		if r.IntN(2) == 0 {
			p.TargetName = pick(r, "http", "dns")
		} else {
			p.TargetPort = pick[uint16](r, 8080, 7000)
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

func randomPorts(r *rand.Rand, names ...string) (ports []EndpointPort) {
	for range r.IntN(4) {
		ports = append(ports, EndpointPort{pick(r, names...), pick(r, TCP, UDP, SCTP), pick[uint16](r, 7000, 7001)})
	}
	return ports
}

func randomNodeName(r *rand.Rand) string { return pick(r, "n1", "n1", "n2", "n3") }

func randomEndpoint(r *rand.Rand) Endpoint {
	n := byte(r.IntN(12))
	e := Endpoint{
		EndpointID: EndpointID{randomNodeName(r), fmt.Sprint("c", n), "eth0"},
		Name:       Name{pick(r, "x", "y"), fmt.Sprint("w", n)},
		Labels:     randomLabels(r),
		Ports:      randomPorts(r, "http", "dns"),
		Unready:    r.IntN(4) == 0, Terminating: r.IntN(4) == 0,
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
	return e
}

func randomSlice(r *rand.Rand) Slice {
	s := Slice{
		Name:    Name{pick(r, "x", "y"), fmt.Sprint("l", r.IntN(4))},
		Service: fmt.Sprint("s", r.IntN(5)),
		Family:  pick(r, IPv4, IPv6),
		Ports:   randomPorts(r, "", "p0", "p1"),
	}
	for range r.IntN(4) {
		host := byte(r.IntN(8)) // which may be a container's
		a := netip.AddrFrom4([4]byte{10, 244, 0, host})
		if s.Family == IPv6 {
			a = netip.AddrFrom16([16]byte{0xfd, 1, 15: host})
		}
		e := SliceEndpoint{
			Addresses: []netip.Addr{a, a.Next()}, Hostname: pick(r, "", "h1"), Node: pick(r, "", "n1", "n2"), Zone: pick(r, "", "", "za", "zb"),
			Ready: r.IntN(2) == 0, Serving: r.IntN(2) == 0, Terminating: r.IntN(2) == 0,
		}
		if r.IntN(3) == 0 {
			e.Weight = new(pick[uint16](r, 0, 3, 256))
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func randomInstance(r *rand.Rand) Instance {
	id := InstanceID{pick(r, "x", "y"), fmt.Sprint("s", r.IntN(5)), fmt.Sprint("i", r.IntN(6))}
	i := Instance{
		InstanceID: id, Host: pick(r, "", "h1", "h2"), Node: pick(r, "", "n1", "n2"), Zone: pick(r, "", "", "za", "zb"),
		Ports:    randomPorts(r, "http", "dns", "p0", "p1", ""),
		Status:   pick(r, InstanceStatuses()...),
		Override: pick(r, "", "", "", InstanceUp, InstanceOutOfService, InstanceDraining),
		Lease:    pick[uint32](r, 0, 30),
	}
	if r.IntN(2) == 0 {
		i.Status, i.Override = InstanceUp, ""
	}
	if r.IntN(3) == 0 {
		i.Weight = new(pick[uint16](r, 0, 3, 256))
	}
	host := byte(r.IntN(8)) // which may be a container's, or another instance's
	four, six := netip.AddrFrom4([4]byte{10, 244, 0, host}), netip.AddrFrom16([16]byte{0xfd, 1, 15: host})
	if r.IntN(8) == 0 {
		four = netip.MustParseAddr(pick(r, "127.0.0.1", "169.254.0.9", "0.0.0.0"))
		six = netip.MustParseAddr(pick(r, "::1", "fe80::9", "::"))
	}
	switch r.IntN(4) {
	case 0:
		i.Addresses = []netip.Addr{four}
	case 1:
		i.Addresses = []netip.Addr{six}
	default:
		i.Addresses = []netip.Addr{six, four}
	}
	return i
}

// reregister makes a random change to what is known of some instance.
func (m model) reregister(r *rand.Rand) Change {
	i := randomInstance(r)
	if known, ok := any1(r, m.instances); ok && r.IntN(3) > 0 {
		i.InstanceID = known.InstanceID
	}
	id, deleted := i.InstanceID, r.IntN(3) == 0
	switch r.IntN(4) {
	case 0:
		if m.leases[id] = true; deleted {
			delete(m.leases, id)
		}
		return Change{Lease: &InstanceLease{id}, Deleted: deleted}
	case 1:
		h := InstanceHealth{InstanceID: id, Node: "n1", Reason: pick(r, "refused", "timeout")}
		if m.health[id] = h; deleted {
			delete(m.health, id)
			h = InstanceHealth{InstanceID: id}
		}
		return Change{Health: &h, Deleted: deleted}
	}
	if deleted {
		delete(m.instances, id)
		return Change{Instance: &Instance{InstanceID: id}, Deleted: true}
	}
	m.instances[id] = i
	return Change{Instance: &i}
}

// mutate makes a random change to the model and returns it.
func (m model) mutate(r *rand.Rand) Change {
	switch r.IntN(18) {
	case 0, 1:
		s := randomService(r, r.IntN(5))
		m.services[s.Name] = s
		return Change{Service: &s}
	case 2:
		n := Name{pick(r, "x", "y"), fmt.Sprint("s", r.IntN(5))}
		delete(m.services, n)
		return Change{Service: &Service{Name: n}, Deleted: true}
	case 3:
		id := randomEndpoint(r).EndpointID
		delete(m.endpoints, id)
		return Change{Endpoint: &Endpoint{EndpointID: id}, Deleted: true}
	case 4, 5:
		s := randomSlice(r)
		m.slices[s.Name] = s
		return Change{Slice: &s}
	case 6:
		n := randomSlice(r).Name
		delete(m.slices, n)
		return Change{Slice: &Slice{Name: n}, Deleted: true}
	case 7:
		n := Node{Name: randomNodeName(r), Zone: pick(r, "", "za", "zb"), Addresses: some(r, nodeAddrs...)}
		if r.IntN(5) == 0 {
			delete(m.nodes, n.Name)
			return Change{Node: &Node{Name: n.Name}, Deleted: true}
		}
		m.nodes[n.Name] = n
		return Change{Node: &n}
	case 8, 9, 10:
		return m.retouch(r)
	case 11, 12, 13, 14:
		return m.reregister(r)
	}
	e := randomEndpoint(r)
	m.endpoints[e.EndpointID] = e
	return Change{Endpoint: &e}
}

// retouch changes one thing about an object that there is.
func (m model) retouch(r *rand.Rand) Change {
	if s, ok := any1(r, m.services); ok && r.IntN(3) == 0 {
		switch r.IntN(7) {
		case 0:
			s.AffinityTimeout++
		case 6: // what was its VIP is still its own, but shared
			if s.ExternalIPs = slices.Clone(s.VIPs); len(s.VIPs) > 0 {
				s.VIPs = []netip.Addr{s.VIPs[0].Next()}
			}
		case 1:
			s.InternalLocal = !s.InternalLocal
		case 2:
			s.PublishNotReady = !s.PublishNotReady
		case 3:
			s.Algorithm = pick(r, Algorithms()...)
		case 4:
			s.Labels = randomLabels(r)
		case 5:
			s.Distribution = pick(r, DistributeEvenly, PreferSameZone, PreferSameNode)
		}
		m.services[s.Name] = s
		return Change{Service: &s}
	}
	e, ok := any1(r, m.endpoints)
	if !ok {
		e = randomEndpoint(r)
	}
	switch r.IntN(3) {
	case 0:
		e.Unready = !e.Unready
	case 1:
		e.Terminating = !e.Terminating
	case 2:
		e.Labels = maps.Clone(e.Labels)
		e.Labels[WeightLabel] = pick(r, "0", "1", "5")
	}
	m.endpoints[e.EndpointID] = e
	return Change{Endpoint: &e}
}

// any1 returns some value of a map.
func any1[K comparable, V any](r *rand.Rand, all map[K]V) (v V, ok bool) {
	n := r.IntN(max(1, len(all)))
	for _, v = range all {
		if n--; n < 0 {
			return v, true
		}
	}
	return v, false
}
