package registry

import (
	"net/netip"
	"slices"
)

// candidate is a member as a backend of one port.
type candidate struct {
	netip.AddrPort
	weight  uint16
	ready   bool
	leaving bool
	place   place
}

// place says how near a member is, as far as the service cares. The nearer, the lower.
type place uint8

const (
	sameNode place = iota
	sameZone
	elsewhere
)

// choose appends the backends that one port of a service has for a client on this node, by address. It follows
// kube-proxy's CategorizeEndpoints: those that are ready, of them the nearest if the service prefers that
// (KEP-4444, KEP-3015), and where none is ready those that are terminating and still serve (KEP-1669). With
// local set only members on this node count, however near others are (KEP-2086).
//
// Besides the chosen it returns, as draining, those that keep what they have: the terminating that serve, and
// the chosen of weight 0 while others have more.
func (c *Catalog) choose(list []Backend, s *catalogService, p *pool) []Backend {
	all := c.candidates(s, p)
	nearest, ready := elsewhere, false
	for i := range all {
		if all[i].ready {
			nearest, ready = min(nearest, all[i].place), true
		}
	}
	first, weighted := len(list), false
	for i := 0; i < len(all); {
		b, chosen, draining := Backend{AddrPort: all[i].AddrPort}, false, false
		for ; i < len(all) && all[i].AddrPort == b.AddrPort; i++ {
			m := &all[i]
			near := m.place <= nearest
			switch {
			case m.ready && near, m.leaving && !ready:
				chosen = true
				b.Weight = min(b.Weight+m.weight, MaxWeight)
			case m.leaving && near:
				draining = true
			}
		}
		if b.Draining = !chosen; chosen || draining {
			list = append(list, b)
			weighted = weighted || b.Weight > 0
		}
	}
	for i := range list[first:] {
		switch b := &list[first+i]; {
		case b.Draining || b.Weight > 0:
		case weighted:
			b.Draining = true
		default:
			b.Weight = DefaultWeight
		}
	}
	return list
}

// candidates returns the members that have a port for the pool, by address. They are overwritten by the next call.
func (c *Catalog) candidates(s *catalogService, p *pool) []candidate {
	list, sorted := c.scratch[:0], true
	seats := s.roster(p.family).seats
	for i := range seats {
		t := &seats[i]
		if p.local && !t.local {
			continue
		}
		port := p.port.TargetPort
		if !t.direct || p.port.TargetName != "" {
			port = t.member.target(p.port)
		}
		if port == 0 || !t.ready && !t.leaving {
			continue
		}
		m := candidate{
			AddrPort: netip.AddrPortFrom(t.addr, port), weight: t.weight,
			ready: t.ready, leaving: t.leaving, place: elsewhere,
		}
		if s.prefers() && !p.local {
			m.place = c.placeOf(s, t)
		}
		// Seats are in the order of addresses, but members that share one may have different ports.
		if n := len(list); n > 0 && list[n-1].Addr() == t.addr && list[n-1].Port() > port {
			sorted = false
		}
		list = append(list, m)
	}
	if !sorted {
		slices.SortFunc(list, func(a, b candidate) int { return a.AddrPort.Compare(b.AddrPort) })
	}
	c.scratch = list
	return list
}

// placeOf says how near a member is to this node. A node without a zone is in none, and so is a member.
func (c *Catalog) placeOf(s *catalogService, t *seat) place {
	if t.local && s.Distribution == PreferSameNode {
		return sameNode
	}
	own := c.nodes[c.node].Zone
	if own == "" {
		return elsewhere
	}
	zone := t.member.zone()
	if zone == "" {
		zone = c.nodes[t.member.node()].Zone
	}
	if zone == own {
		return sameZone
	}
	return elsewhere
}
