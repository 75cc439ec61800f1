package registry

import (
	"cmp"
	"net/netip"
	"slices"
)

// candidate is a member as a backend of one port. It holds no pointers: filling a list of them costs no barriers.
type candidate struct {
	seat    int32 // in the roster
	port    uint16
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

// choose returns the backends that one port of a service has for a client on this node, by address; nil for none.
// It follows kube-proxy's CategorizeEndpoints: those that are ready, of them the nearest if the service prefers that
// (KEP-4444, KEP-3015), and where none is ready those that are terminating and still serve (KEP-1669). With
// local set only members on this node count, however near others are (KEP-2086).
//
// Besides the chosen it returns, as draining, those that keep what they have: the terminating that serve, and
// the chosen of weight 0 while others have more.
func (c *Catalog) choose(s *catalogService, p *pool) []Backend {
	seats := s.roster(p.family).seats
	all := c.candidates(s, p, seats)
	if len(all) == 0 {
		return nil
	}
	nearest, ready := elsewhere, false
	for i := range all {
		if all[i].ready {
			nearest, ready = min(nearest, all[i].place), true
		}
	}
	list, weighted := make([]Backend, 0, len(all)), false
	for i := 0; i < len(all); {
		addr, port := &seats[all[i].seat].addr, all[i].port
		weight, chosen, draining := uint16(0), false, false
		for ; i < len(all) && all[i].port == port && seats[all[i].seat].addr == *addr; i++ {
			m := &all[i]
			near := m.place <= nearest
			switch {
			case m.ready && near, m.leaving && !ready:
				chosen = true
				weight = min(weight+seats[m.seat].weight, MaxWeight)
			case m.leaving && near:
				draining = true
			}
		}
		if chosen || draining {
			list = append(list, Backend{AddrPort: netip.AddrPortFrom(*addr, port), Weight: weight, Draining: !chosen})
			weighted = weighted || weight > 0
		}
	}
	return level(list, weighted)
}

// level makes backends of weight 0 draining where others are weighted, and else gives each the same.
func level(list []Backend, weighted bool) []Backend {
	if len(list) == 0 {
		return nil
	}
	for i := range list {
		switch b := &list[i]; {
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
func (c *Catalog) candidates(s *catalogService, p *pool, seats []seat) []candidate {
	list, sorted := c.scratch[:0], true
	prefers, zone := s.prefers() && !p.local, c.own().Zone
	for i := range seats {
		t := &seats[i]
		if p.local && !t.local || !t.ready && !t.leaving {
			continue
		}
		port := p.port.TargetPort
		if !t.direct || p.port.TargetName != "" {
			port = t.member.target(p.port)
		}
		if port == 0 {
			continue
		}
		m := candidate{seat: int32(i), port: port, ready: t.ready, leaving: t.leaving, place: elsewhere}
		if prefers {
			m.place = c.placeOf(s, t, zone)
		}
		// Seats are in the order of addresses, but members that share one may have different ports.
		if n := len(list); n > 0 && list[n-1].port > port && seats[list[n-1].seat].addr == t.addr {
			sorted = false
		}
		list = append(list, m)
	}
	if !sorted {
		slices.SortFunc(list, func(a, b candidate) int {
			return cmp.Or(seats[a.seat].addr.Compare(seats[b.seat].addr), cmp.Compare(a.port, b.port))
		})
	}
	c.scratch = list
	return list
}

// placeOf says how near a member is to this node, which is in the zone own. A node without a zone is in none, and
// so is what runs there.
func (c *Catalog) placeOf(s *catalogService, t *seat, own string) place {
	if t.local && s.Distribution == PreferSameNode {
		return sameNode
	}
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
