package registry

import (
	"net/netip"
	"slices"
)

// member is what may be a backend of services: a container's interface, an entry of a slice or an instance. It never
// changes; a new version of its object makes a new member.
type member struct {
	endpoint *Endpoint // one of endpoint, instance and entry is set
	instance *Instance
	slice    *Slice // of entry
	entry    *SliceEndpoint
	weight   uint16
	failing  bool // the instance's checks fail
	gone     bool // its object was deleted or has a new version: rosters forget it
}

// endpointMember makes a member of a container. A label that is no weight means DefaultWeight: a slip of the pen
// must not take the container out of its services.
func endpointMember(e *Endpoint) member {
	m := member{endpoint: e, weight: DefaultWeight}
	if text, ok := e.Labels[WeightLabel]; ok {
		if w, err := ParseWeight(text); err == nil {
			m.weight = w
		}
	}
	return m
}

func sliceMember(s *Slice, e *SliceEndpoint) member {
	m := member{slice: s, entry: e, weight: DefaultWeight}
	if e.Weight != nil && *e.Weight <= MaxWeight {
		m.weight = *e.Weight
	}
	return m
}

func instanceMember(i *Instance, failing bool) member {
	m := member{instance: i, failing: failing, weight: DefaultWeight}
	if i.Weight != nil && *i.Weight <= MaxWeight {
		m.weight = *i.Weight
	}
	return m
}

// node returns the name of the node that it runs on; "" when that is not known.
func (m *member) node() string {
	switch {
	case m.endpoint != nil:
		return m.endpoint.Node
	case m.instance != nil:
		return m.instance.Node
	}
	return m.entry.Node
}

// zone returns the zone that was given for it alone; "": that of its node.
func (m *member) zone() string {
	switch {
	case m.endpoint != nil:
		return ""
	case m.instance != nil:
		return m.instance.Zone
	}
	return m.entry.Zone
}

// conditions says whether it may take new flows, and whether it is about to end but still answers. With
// publishNotReadyAddresses whatever is selected or registered may take flows; a slice has that in its conditions
// already (KEP-1672, and kube-proxy looks at no more than these).
func (m *member) conditions(publish bool) (ready, leaving bool) {
	if e := m.endpoint; e != nil {
		ready = publish || !e.Unready && !e.Terminating
		return ready, !ready && !e.Unready && e.Terminating
	}
	if i := m.instance; i != nil {
		ready = publish || i.Effective() == InstanceUp && !m.failing
		return ready, !ready && i.Effective() == InstanceDraining && !m.failing
	}
	ready = m.entry.Ready
	return ready, !ready && m.entry.Serving && m.entry.Terminating
}

// addr returns its address of one family; invalid: none.
func (m *member) addr(f Family) netip.Addr {
	var addrs []netip.Addr
	switch {
	case m.endpoint != nil:
		addrs = m.endpoint.Addresses
	case m.instance != nil:
		addrs = m.instance.Dialable()
	case m.slice.Family == f:
		addrs = m.entry.Addresses[:min(1, len(m.entry.Addresses))]
	}
	for _, a := range addrs {
		if usable(a, f) {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

// Dialable returns those of an instance's addresses that mean the same host to everybody: no loopback, link-local,
// multicast or unspecified ones. An instance without any is registered, but nobody's backend, and nobody checks it.
func (i *Instance) Dialable() []netip.Addr {
	every := func(a netip.Addr) bool {
		a = a.Unmap()
		return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
	}
	if !slices.ContainsFunc(i.Addresses, func(a netip.Addr) bool { return !every(a) || a.Is4In6() }) {
		return i.Addresses
	}
	var list []netip.Addr
	for _, a := range i.Addresses {
		if every(a) {
			list = append(list, a.Unmap())
		}
	}
	return list
}

// usable says whether an address of one family can be dialled; stored data may hold others.
func usable(a netip.Addr, f Family) bool {
	return a.IsValid() && a.Zone() == "" && !a.Unmap().IsUnspecified() && FamilyOf(a) == f
}

// target returns the port that a service's port leads to at this member; 0: it has none of that name.
// A slice names its ports as the service does, a container as the service's targetPort does.
func (m *member) target(p *ServicePort) uint16 {
	switch {
	case m.instance != nil:
		return m.instance.target(p)
	case m.endpoint == nil:
		return portNamed(m.slice.Ports, p.Name, p.Protocol)
	case p.TargetName == "":
		return p.TargetPort
	}
	return portNamed(m.endpoint.Ports, p.TargetName, p.Protocol)
}

// target is the port of the name that the service asks for, of the name that the service gives its own, or the
// number that the service names; one that says nothing of all this leaves the port to the instance.
func (i *Instance) target(p *ServicePort) uint16 {
	for _, name := range [...]string{p.TargetName, p.Name} {
		if name == "" {
			continue
		}
		if port := portNamed(i.Ports, name, p.Protocol); port != 0 {
			return port
		}
	}
	if p.TargetPort != 0 && p.TargetPort != p.Port {
		return p.TargetPort
	}
	for _, port := range i.Ports {
		if port.Protocol == p.Protocol && port.Port != 0 {
			return port.Port
		}
	}
	return p.TargetPort
}

func portNamed(ports []EndpointPort, name string, protocol Protocol) uint16 {
	for _, port := range ports {
		if port.Name == name && port.Protocol == protocol {
			return port.Port
		}
	}
	return 0
}

// roster holds the members of a service that have an address of one family, in the order of addresses.
type roster struct {
	seats []seat
	added []seat       // since the last settle
	gone  []netip.Addr // of members that went since then
}

// seat is a member with what choosing looks at, so that a walk along the roster stays in one piece of memory.
type seat struct {
	addr    netip.Addr
	member  *member
	weight  uint16
	ready   bool
	leaving bool // serves what it has, and is about to end
	local   bool // runs on the catalog's node
	direct  bool // a container: a numeric targetPort needs no look at it
}

func compareSeats(a, b seat) int { return a.addr.Compare(b.addr) }

// settle brings seats up to date with one pass at most.
func (r *roster) settle() {
	if len(r.gone) > 0 {
		r.remove()
	}
	added := slices.DeleteFunc(r.added, func(s seat) bool { return s.member.gone })
	slices.SortFunc(added, compareSeats)
	i, w := len(r.seats)-1, len(r.seats)+len(added)-1
	r.seats = slices.Grow(r.seats, len(added))[:w+1]
	for len(added) > 0 { // from the end, so that nothing is in the way
		last := added[len(added)-1]
		if i >= 0 && compareSeats(r.seats[i], last) > 0 {
			r.seats[w] = r.seats[i]
			i--
		} else {
			r.seats[w] = last
			added = added[:len(added)-1]
		}
		w--
	}
	r.added, r.gone = nil, nil
}

// remove drops the seats of members that are gone.
func (r *roster) remove() {
	slices.SortFunc(r.gone, netip.Addr.Compare)
	from, _ := slices.BinarySearchFunc(r.seats, r.gone[0], func(s seat, a netip.Addr) int { return s.addr.Compare(a) })
	kept, gone := from, r.gone
	for _, s := range r.seats[from:] {
		for len(gone) > 0 && gone[0].Less(s.addr) {
			gone = gone[1:]
		}
		if len(gone) > 0 && gone[0] == s.addr && s.member.gone {
			continue
		}
		r.seats[kept] = s
		kept++
	}
	clear(r.seats[kept:])
	r.seats = r.seats[:kept]
}
