package registry

import (
	"cmp"
	"net/netip"
	"slices"
)

// Backing is one that stands behind a service: a container, an entry of a slice or a registered instance. A
// container with two interfaces that a service selects is two.
type Backing struct {
	// Addresses at which it serves; empty: none of its own can be dialled from elsewhere, so it is nobody's backend.
	Addresses []netip.Addr
	// Host is the name of the pod or container, the host name of an instance or of a slice's entry; may be empty, and
	// need not be a DNS label.
	Host string
	Node string // that it runs on; "": not known
	Zone string // its own, or else that of its node
	// Ready: takes new flows, as far as its own conditions and publishNotReadyAddresses say. Draining: keeps those
	// that it has. Neither: not a backend.
	Ready    bool
	Draining bool
	Weight   uint16
	// Ports by the names that the service's ports have: where they lead to. Those that it has not are left out.
	Ports []EndpointPort
	// Instance is the id of a registered instance; nil: it is none.
	Instance *InstanceID
}

// Backing returns all that stand behind a service, in a fixed order; nil if there is no such service.
func (c *Catalog) Backing(n Name) []Backing {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := c.services[n]
	if s == nil {
		return nil
	}
	var list []Backing
	c.eachMember(s, func(m *member) {
		b := m.backing(s.Service)
		b.Zone = cmp.Or(b.Zone, c.nodes[b.Node].Zone)
		list = append(list, b)
	})
	slices.SortFunc(list, compareBacking)
	return list
}

// compareBacking leaves equal only what looks the same, but for the order of ports.
func compareBacking(a, b Backing) int {
	n := cmp.Or(
		slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare), cmp.Compare(a.Host, b.Host),
		cmp.Compare(a.Node, b.Node), cmp.Compare(a.Zone, b.Zone),
		slices.CompareFunc(a.Ports, b.Ports, func(a, b EndpointPort) int { return cmp.Compare(a.Port, b.Port) }),
	)
	if n != 0 || a.Instance == nil || b.Instance == nil {
		return n
	}
	return a.Instance.Compare(*b.Instance)
}

// eachMember calls do for all members of a service.
func (c *Catalog) eachMember(s *catalogService, do func(*member)) {
	if s.selected > 0 {
		for _, e := range c.selectors.candidates(s.Service) {
			if slices.Contains(e.services, s) {
				do(&e.member)
			}
		}
	}
	for _, sl := range c.slices.of[s.Name] {
		for _, m := range sl.members {
			do(m)
		}
	}
	for _, i := range c.instances.of[s.Name] {
		do(i.member)
	}
}

func (m *member) backing(s *Service) Backing {
	b := Backing{Node: m.node(), Zone: m.zone(), Weight: m.weight}
	switch {
	case m.endpoint != nil:
		b.Host = m.endpoint.Name.Name
	case m.instance != nil:
		b.Host, b.Instance = m.instance.Host, &m.instance.InstanceID
	default:
		b.Host = m.entry.Hostname
	}
	b.Ready, b.Draining = m.conditions(s.PublishNotReady)
	for _, f := range [...]Family{IPv4, IPv6} {
		if a := m.addr(f); a.IsValid() {
			b.Addresses = append(b.Addresses, a)
		}
	}
	for i := range s.Ports {
		if port := m.target(&s.Ports[i]); port != 0 {
			b.Ports = append(b.Ports, EndpointPort{Name: s.Ports[i].Name, Protocol: s.Ports[i].Protocol, Port: port})
		}
	}
	return b
}
