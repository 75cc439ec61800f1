package registry

import (
	"net/netip"
	"slices"
	"strconv"
)

// model is the registry as plain lists, seen from a node. It resolves everything anew each time, in the words of
// the Kubernetes documentation and of the KEPs that are named.
type model struct {
	node      string
	services  map[Name]Service
	slices    map[Name]Slice
	endpoints map[EndpointID]Endpoint
	instances map[InstanceID]Instance
	leases    map[InstanceID]bool
	health    map[InstanceID]InstanceHealth
	nodes     map[string]Node
}

func newModel(node string) model {
	return model{
		node: node, services: map[Name]Service{}, slices: map[Name]Slice{},
		endpoints: map[EndpointID]Endpoint{}, nodes: map[string]Node{},
		instances: map[InstanceID]Instance{}, leases: map[InstanceID]bool{}, health: map[InstanceID]InstanceHealth{},
	}
}

// resolve returns all frontends there are. Services come in the order of their names, and of each its VIPs first:
// the first that names a frontend has it.
func (m model) resolve() map[Frontend]Resolved {
	var names []Name
	for n := range m.services {
		names = append(names, n)
	}
	slices.SortFunc(names, CompareNames)
	out := map[Frontend]Resolved{}
	for _, n := range names {
		s := m.services[n]
		// "type: ExternalName" and "clusterIP: None" are DNS's business alone.
		if s.Headless || s.Type == TypeExternalName {
			continue
		}
		var own []netip.Addr
		if m.node != "" {
			own = m.nodes[m.node].Addresses
		}
		m.frontends(out, s, s.VIPs, false, false)
		m.frontends(out, s, s.ExternalIPs, true, false)
		m.frontends(out, s, s.LoadBalancerIPs, true, false)
		m.frontends(out, s, own, true, true)
	}
	return out
}

func (m model) frontends(out map[Frontend]Resolved, s Service, addrs []netip.Addr, shared, node bool) {
	for _, a := range addrs {
		// A service of one family (ipFamilies) has nothing of the other.
		if !slices.ContainsFunc(s.VIPs, func(vip netip.Addr) bool { return vip.Is4() == a.Is4() }) {
			continue
		}
		for _, p := range s.Ports {
			f := Frontend{a, p.Port, p.Protocol}
			if node {
				f.Port = p.NodePort
			}
			if _, taken := out[f]; taken || f.Port == 0 {
				continue
			}
			out[f] = Resolved{
				Frontend: f, Service: s.Name, PortName: p.Name, Shared: shared,
				Algorithm: s.Algorithm, AffinityTimeout: s.AffinityTimeout,
				// KEP-2086: internalTrafficPolicy is about the cluster IP. KEP-1669: pods that dial an external
				// address of their own cluster reach all backends.
				Backends: m.backends(s, p, a.Is4(), s.InternalLocal && !shared),
			}
		}
	}
}

// listed is one entry of an EndpointSlice as the control plane of Kubernetes would write it.
type listed struct {
	addr                        netip.AddrPort
	node, zone                  string
	weight                      int
	ready, serving, terminating bool
}

// listing returns the entries for one port of a service in one family.
func (m model) listing(s Service, p ServicePort, four bool) []listed {
	var list []listed
	for _, e := range m.endpoints {
		if !m.selected(s, e) {
			continue
		}
		l := listed{
			node: e.Node, zone: m.nodes[e.Node].Zone, weight: 1,
			// KEP-1672: "ready" is never true of what terminates, unless publishNotReadyAddresses says so.
			ready:   s.PublishNotReady || !e.Unready && !e.Terminating,
			serving: !e.Unready, terminating: e.Terminating,
		}
		if w, err := strconv.Atoi(e.Labels["sluice.net/weight"]); err == nil && w >= 0 && w <= 256 {
			l.weight = w
		}
		port := p.TargetPort
		if p.TargetName != "" {
			port = numbered(e.Ports, p.TargetName, p.Protocol)
		}
		for _, a := range e.Addresses {
			if a.Is4() == four && port != 0 {
				l.addr = netip.AddrPortFrom(a, port)
				list = append(list, l)
			}
		}
	}
	for _, sl := range m.slices {
		port := numbered(sl.Ports, p.Name, p.Protocol)
		if sl.Namespace != s.Namespace || sl.Service != s.Name.Name || (sl.Family == IPv4) != four || port == 0 {
			continue
		}
		for _, e := range sl.Endpoints {
			l := listed{
				addr: netip.AddrPortFrom(e.Addresses[0], port), node: e.Node, zone: e.Zone, weight: 1,
				ready: e.Ready, serving: e.Serving, terminating: e.Terminating,
			}
			if l.zone == "" {
				l.zone = m.nodes[e.Node].Zone
			}
			if e.Weight != nil {
				l.weight = int(*e.Weight)
			}
			list = append(list, l)
		}
	}
	return append(list, m.registered(s, p, four)...)
}

// registered returns the entries of the instances of a service's name.
func (m model) registered(s Service, p ServicePort, four bool) (list []listed) {
	for _, i := range m.instances {
		if i.Namespace != s.Namespace || i.Service != s.Name.Name {
			continue
		}
		status := i.Status
		if i.Override != "" {
			status = i.Override
		}
		_, failing := m.health[i.InstanceID]
		l := listed{
			node: i.Node, zone: i.Zone, weight: 1,
			ready:   s.PublishNotReady || status == "UP" && !failing,
			serving: !failing, terminating: status == "DRAINING",
		}
		if l.zone == "" {
			l.zone = m.nodes[i.Node].Zone
		}
		if i.Weight != nil {
			l.weight = int(*i.Weight)
		}
		for _, a := range i.Addresses {
			if port := instancePort(i, p); a.Is4() == four && !nobodys(a) && port != 0 {
				l.addr = netip.AddrPortFrom(a, port)
				list = append(list, l)
			}
		}
	}
	return list
}

func nobodys(a netip.Addr) bool {
	return a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast()
}

// instancePort follows the order that the catalog promises: the service's word by name, by number, the instance's own.
func instancePort(i Instance, p ServicePort) uint16 {
	byTarget, byName, first := uint16(0), uint16(0), uint16(0)
	if p.TargetName != "" {
		byTarget = numbered(i.Ports, p.TargetName, p.Protocol)
	}
	if p.Name != "" {
		byName = numbered(i.Ports, p.Name, p.Protocol)
	}
	for _, port := range slices.Backward(i.Ports) {
		if port.Protocol == p.Protocol {
			first = port.Port
		}
	}
	switch {
	case byTarget != 0:
		return byTarget
	case byName != 0:
		return byName
	case p.TargetPort != 0 && p.TargetPort != p.Port, first == 0:
		return p.TargetPort
	}
	return first
}

func (m model) selected(s Service, e Endpoint) bool {
	matches := len(s.Selector) > 0 && e.Name.Namespace == s.Namespace
	for k, v := range s.Selector {
		got, ok := e.Labels[k]
		matches = matches && ok && got == v
	}
	return matches
}

func numbered(ports []EndpointPort, name string, proto Protocol) uint16 {
	for _, p := range ports {
		if p.Name == name && p.Protocol == proto {
			return p.Port
		}
	}
	return 0
}

func only(list []listed, which func(listed) bool) []listed {
	var out []listed
	for _, l := range list {
		if which(l) {
			out = append(out, l)
		}
	}
	return out
}

func (m model) backends(s Service, p ServicePort, four, local bool) []Backend {
	list := m.listing(s, p, four)
	here := func(l listed) bool { return m.node != "" && l.node == m.node }
	inZone := func(l listed) bool {
		zone := m.nodes[m.node].Zone
		return m.node != "" && zone != "" && l.zone == zone
	}
	if local {
		list = only(list, here)
	}
	ready := only(list, func(l listed) bool { return l.ready })
	reach := func(listed) bool { return true }
	switch nearby := func(l listed) bool { return here(l) || inZone(l) }; {
	case local:
	// KEP-3015: "prefer same node, and fall back to same zone, then to any".
	case s.Distribution == PreferSameNode && len(only(ready, here)) > 0:
		reach = here
	case s.Distribution == PreferSameNode && len(only(ready, inZone)) > 0:
		reach = nearby
	// KEP-4444: PreferClose, since then called PreferSameZone.
	case s.Distribution == PreferSameZone && len(only(ready, inZone)) > 0:
		reach = inZone
	}
	// KEP-1669: "when there are no ready endpoints, use those that are serving and terminating".
	ending := only(list, func(l listed) bool { return !l.ready && l.serving && l.terminating && reach(l) })
	chosen := only(ready, reach)
	if len(ready) == 0 {
		chosen, ending = ending, nil
	}
	return weigh(chosen, ending)
}

// weigh makes backends of those that take new flows and those that do not.
func weigh(chosen, ending []listed) []Backend {
	sums, total := map[netip.AddrPort]int{}, 0
	for _, l := range chosen {
		sums[l.addr] += l.weight
		total += l.weight
	}
	var out []Backend
	for a, w := range sums {
		switch {
		case total == 0:
			out = append(out, Backend{AddrPort: a, Weight: 1})
		case w == 0:
			out = append(out, Backend{AddrPort: a, Draining: true})
		default:
			out = append(out, Backend{AddrPort: a, Weight: uint16(min(w, 256))})
		}
	}
	for _, l := range ending {
		if _, known := sums[l.addr]; !known {
			sums[l.addr] = 0
			out = append(out, Backend{AddrPort: l.addr, Draining: true})
		}
	}
	slices.SortFunc(out, Backend.Compare)
	return out
}

// snapshot is the model as a batch. Maps are walked in random order, and so come the changes.
func (m model) snapshot(revision int64) Batch {
	b := Batch{Revision: revision, Snapshot: true}
	for _, s := range m.services {
		b.Changes = append(b.Changes, Change{Service: &s})
	}
	for _, s := range m.slices {
		b.Changes = append(b.Changes, Change{Slice: &s})
	}
	for _, e := range m.endpoints {
		b.Changes = append(b.Changes, Change{Endpoint: &e})
	}
	for _, n := range m.nodes {
		b.Changes = append(b.Changes, Change{Node: &n})
	}
	for _, i := range m.instances {
		b.Changes = append(b.Changes, Change{Instance: &i})
	}
	for id := range m.leases {
		b.Changes = append(b.Changes, Change{Lease: &InstanceLease{id}})
	}
	for _, h := range m.health {
		b.Changes = append(b.Changes, Change{Health: &h})
	}
	return b
}
