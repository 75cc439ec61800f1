package registry

import (
	"net/netip"
	"slices"
)

// claim is one port of one VIP of a service, with the backends that its endpoints make up.
type claim struct {
	Frontend
	service Name
	port    ServicePort
	// refs counts the endpoints behind each backend: two may share an address.
	refs     map[netip.AddrPort]int
	backends []netip.AddrPort // sorted; as of the last settle; never modified, only replaced
	changed  map[netip.AddrPort]struct{}
}

// newClaims returns a claim for each port of each VIP. A port that is listed twice counts once.
func newClaims(s *Service) []*claim {
	claims := make([]*claim, 0, len(s.VIPs)*len(s.Ports))
	seen := make(map[Frontend]struct{}, cap(claims))
	for _, vip := range s.VIPs {
		for _, p := range s.Ports {
			f := Frontend{Addr: vip.Unmap(), Port: p.Port, Protocol: p.Protocol}
			if _, dup := seen[f]; dup {
				continue
			}
			seen[f] = struct{}{}
			claims = append(claims, &claim{
				Frontend: f, service: s.Name, port: p,
				refs:    map[netip.AddrPort]int{},
				changed: map[netip.AddrPort]struct{}{},
			})
		}
	}
	return claims
}

// target returns the backend that an endpoint is for this claim: none when it has no address of
// the VIP's family or no port of the wanted name.
func (cl *claim) target(e *Endpoint) (netip.AddrPort, bool) {
	port := cl.port.TargetPort
	if cl.port.TargetName != "" {
		i := slices.IndexFunc(e.Ports, func(p EndpointPort) bool {
			return p.Name == cl.port.TargetName && p.Protocol == cl.port.Protocol
		})
		if i < 0 {
			return netip.AddrPort{}, false
		}
		port = e.Ports[i].Port
	}
	if port == 0 {
		return netip.AddrPort{}, false
	}
	for _, a := range e.Addresses {
		if a.IsValid() && FamilyOf(a) == FamilyOf(cl.Addr) {
			return netip.AddrPortFrom(a.Unmap(), port), true
		}
	}
	return netip.AddrPort{}, false
}

func (cl *claim) add(e *Endpoint) {
	if t, ok := cl.target(e); ok {
		cl.refs[t]++
		cl.changed[t] = struct{}{}
	}
}

func (cl *claim) remove(e *Endpoint) {
	t, ok := cl.target(e)
	if !ok {
		return
	}
	if cl.refs[t]--; cl.refs[t] == 0 {
		delete(cl.refs, t)
	}
	cl.changed[t] = struct{}{}
}

func (cl *claim) touched() bool { return len(cl.changed) > 0 }

// settle brings backends up to date with refs: one merge of the old list with what changed.
func (cl *claim) settle() {
	var added, gone []netip.AddrPort
	for t := range cl.changed {
		_, was := slices.BinarySearchFunc(cl.backends, t, netip.AddrPort.Compare)
		switch is := cl.refs[t] > 0; {
		case is && !was:
			added = append(added, t)
		case was && !is:
			gone = append(gone, t)
		}
	}
	clear(cl.changed)
	if len(added) == 0 && len(gone) == 0 {
		return
	}
	slices.SortFunc(added, netip.AddrPort.Compare)
	slices.SortFunc(gone, netip.AddrPort.Compare)
	list := make([]netip.AddrPort, 0, len(cl.backends)+len(added)-len(gone))
	for _, b := range cl.backends {
		if len(gone) > 0 && gone[0] == b {
			gone = gone[1:]
			continue
		}
		for len(added) > 0 && added[0].Compare(b) < 0 {
			list, added = append(list, added[0]), added[1:]
		}
		list = append(list, b)
	}
	cl.backends = append(list, added...)
}

func (cl *claim) resolved() Resolved {
	return Resolved{
		Frontend: cl.Frontend, Service: cl.service, PortName: cl.port.Name, Backends: Evenly(cl.backends...),
	}
}
