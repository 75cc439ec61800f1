package policy

import (
	"cmp"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// The protocols with ports, in the order in which arrays of this package hold them.
const (
	tcp = iota
	udp
	sctp
	portProtocols
)

// protocolIndex returns the index of a protocol, or -1 if it has no ports.
func protocolIndex(p registry.Protocol) int {
	switch p {
	case registry.TCP:
		return tcp
	case registry.UDP:
		return udp
	case registry.SCTP:
		return sctp
	}
	return -1
}

// portRange is a range of ports, both ends included.
type portRange struct{ first, last uint16 }

// portRanges are sorted and do not touch, by protocol.
type portRanges [portProtocols][]portRange

// covers reports whether a port is among them.
func (r *portRanges) covers(protocol int, port uint16) bool {
	list := r[protocol]
	i, found := slices.BinarySearchFunc(list, port, func(x portRange, port uint16) int {
		return cmp.Compare(x.first, port)
	})
	return found || i > 0 && port <= list[i-1].last
}

func (r *portRanges) add(protocol registry.Protocol, x portRange) {
	if i := protocolIndex(protocol); i >= 0 && x.first <= x.last {
		r[i] = append(r[i], x)
	}
}

// normalize sorts the ranges and joins those that touch.
func (r *portRanges) normalize() {
	for i, list := range r {
		slices.SortFunc(list, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
		var joined []portRange
		for _, x := range list {
			if n := len(joined); n > 0 && uint32(x.first) <= uint32(joined[n-1].last)+1 {
				joined[n-1].last = max(joined[n-1].last, x.last)
			} else {
				joined = append(joined, x)
			}
		}
		r[i] = joined
	}
}

// portSet is what a rule says of ports.
type portSet struct {
	all     bool // whatever protocol it is, with ports or without
	numbers portRanges
	named   []registry.PolicyPort
}

func newPortSet(ports []registry.PolicyPort) portSet {
	s := portSet{all: len(ports) == 0}
	for _, p := range ports {
		if p.Name != "" {
			s.named = append(s.named, p)
		} else {
			s.numbers.add(p.Protocol, portRange{p.Port, p.EndPort})
		}
	}
	s.numbers.normalize()
	return s
}

// resolve returns the ports with the names resolved by whoever receives: nil, or ports without that
// name, make a name mean no port.
func (s *portSet) resolve(ports []registry.EndpointPort) *portRanges {
	if len(s.named) == 0 || len(ports) == 0 {
		return &s.numbers
	}
	var r portRanges
	for i := range r {
		r[i] = slices.Clone(s.numbers[i])
	}
	for _, p := range s.named {
		for _, have := range ports {
			if have.Name == p.Name && (p.Protocol == 0 || p.Protocol == have.Protocol) {
				r.add(have.Protocol, portRange{have.Port, have.Port})
			}
		}
	}
	r.normalize()
	return &r
}
