package loader

import (
	"fmt"
	"math"
)

// Sizes holds the entries of each map that grows with what the node carries.
type Sizes struct {
	Services    uint32 // services and service_stats; every VIP takes one entry more
	Slots       uint32
	Backends    uint32
	Endpoints   uint32 // endpoints (one an address) and epochs (one a container)
	Flows       uint32 // two for each flow
	SockOrigin  uint32
	SockChoices uint32
	Frags       uint32
}

// DefaultSizes are the sizes that bpf/maps.h has.
func DefaultSizes() Sizes {
	return Sizes{
		Services: 65536, Slots: 1048576, Backends: 262144, Endpoints: 16384,
		Flows: 524288, SockOrigin: 131072, SockChoices: 131072, Frags: 16384,
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
	return s
}

func (s *Sizes) fields() []*uint32 {
	return []*uint32{
		&s.Services, &s.Slots, &s.Backends, &s.Endpoints,
		&s.Flows, &s.SockOrigin, &s.SockChoices, &s.Frags,
	}
}

// byMap returns the sizes by the name of the map. Maps that are not in it have one size.
func (s *Sizes) byMap() map[string]uint32 {
	return map[string]uint32{
		"services": s.Services, "service_stats": s.Services, "slots": s.Slots,
		"backends": s.Backends, "endpoints": s.Endpoints, "epochs": s.Endpoints,
		"flows": s.Flows, "sock_origin": s.SockOrigin, "sock_choices": s.SockChoices,
		"frags": s.Frags,
	}
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
	return s, nil
}
