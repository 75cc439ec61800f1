package loader

import (
	"fmt"
	"math"
	"math/bits"
	"os"
)

// Sizes holds the entries of each map that grows with what the node carries.
type Sizes struct {
	Services    uint32 // frontends: service_stats, and services, where every VIP takes one entry more
	Slots       uint32
	Backends    uint32
	Endpoints   uint32 // endpoints (one an address) and epochs (one a container)
	Flows       uint32 // two for each flow
	SockOrigin  uint32 // sock_origin, and half as many in sock_peers
	SockChoices uint32
	Affinity    uint32
	Frags       uint32

	Identities    uint32 // subjects
	Policies      uint32 // policy_stats
	PolicyEntries uint32 // policy: one for each identity's peer that it treats apart, and direction
	Rulesets      uint32
	PortNodes     uint32
	Outcomes      uint32
	Prefixes      uint32
	Events        uint32 // bytes of the ring buffer, a power of two
}

// DefaultSizes are the sizes that bpf/maps.h has: with them 10 000 policies, and a million entries between
// 5000 identities, find room. The entries of policy take memory only where they are in use.
func DefaultSizes() Sizes {
	return Sizes{
		Services: 65536, Slots: 1048576, Backends: 524288, Endpoints: 16384,
		Flows: 524288, SockOrigin: 131072, SockChoices: 131072, Affinity: 131072, Frags: 16384,
		Identities: 65536, Policies: 16384, PolicyEntries: 1048576, Rulesets: 65536,
		PortNodes: 32768, Outcomes: 65536, Prefixes: 131072, Events: 1048576,
	}
}

// minEntries is the least that a map is scaled to.
const minEntries = 16

// maxEntries is the most: 2^26 entries of 128 bytes are 8 GiB.
const maxEntries = 1 << 26

// Scale multiplies each size by factor, within bounds.
func (s Sizes) Scale(factor float64) Sizes {
	for _, n := range s.fields() {
		scaled := math.Round(float64(*n) * factor)
		*n = uint32(min(max(scaled, minEntries), maxEntries))
	}
	s.Events = ringSize(s.Events)
	return s
}

// ringSize returns the next size that a ring buffer can have: a power of two, whole pages.
func ringSize(n uint32) uint32 {
	return max(1<<bits.Len32(n-1), uint32(os.Getpagesize()))
}

func (s *Sizes) fields() []*uint32 {
	return []*uint32{
		&s.Services, &s.Slots, &s.Backends, &s.Endpoints,
		&s.Flows, &s.SockOrigin, &s.SockChoices, &s.Affinity, &s.Frags,
		&s.Identities, &s.Policies, &s.PolicyEntries, &s.Rulesets,
		&s.PortNodes, &s.Outcomes, &s.Prefixes, &s.Events,
	}
}

// byMap returns the sizes by the name of the map. Maps that are not in it have one size.
func (s *Sizes) byMap() map[string]uint32 {
	return map[string]uint32{
		"services": 2 * s.Services, "service_stats": s.Services, "slots": s.Slots,
		"backends": s.Backends, "endpoints": s.Endpoints, "epochs": s.Endpoints,
		"flows": s.Flows, "sock_origin": s.SockOrigin, "sock_peers": s.sockPeers(), "sock_choices": s.SockChoices,
		"affinity": s.Affinity, "namespaces": s.Endpoints,
		"frags": s.Frags, "subjects": s.Identities, "policy_stats": s.Policies,
		"policy": s.PolicyEntries, "rulesets": s.Rulesets, "port_nodes": s.PortNodes,
		"outcomes": s.Outcomes, "prefixes": s.Prefixes, "events": s.Events,
		"numbers": s.numbers(),
	}
}

// sockPeers is how many sockets have a place in sock_peers: a power of two.
func (s *Sizes) sockPeers() uint32 { return 1 << (bits.Len32(max(s.SockOrigin/2, 1)) - 1) }

// numbers is how many names can have a number: those of identities, policies and networks. Twice the
// identities leaves room for those that are on their way out.
func (s *Sizes) numbers() uint32 {
	return max(2*s.Identities, s.Identities+s.Policies+s.Endpoints)
}

// withDefaults fills in what is zero and refuses what no map can have.
func (s Sizes) withDefaults() (Sizes, error) {
	fields, def := s.fields(), DefaultSizes()
	for i, d := range def.fields() {
		if *fields[i] == 0 {
			*fields[i] = *d
		}
		if *fields[i] < 2 || *fields[i] > maxEntries {
			return s, fmt.Errorf("map size %d: want 2 to %d entries", *fields[i], maxEntries)
		}
	}
	if s.Events != ringSize(s.Events) {
		return s, fmt.Errorf("ring buffer of %d bytes: want a power of two and whole pages, such as %d",
			s.Events, ringSize(s.Events))
	}
	if s.Identities <= identityFirst {
		return s, fmt.Errorf("%d identities: the first %d are taken", s.Identities, identityFirst)
	}
	return s, nil
}
