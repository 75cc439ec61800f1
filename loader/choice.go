package loader

import (
	"fmt"

	"github.com/sluice-net/sluice/registry"
)

// Which backend each slot of a run leads to.

// choice is how runs are filled on this node.
type choice struct {
	algorithm  registry.Algorithm // of services that name none
	maglevSize uint32
}

// algorithmOf returns how the frontend's run is filled. More backends than a Maglev table has slots
// are chosen among at random, as tooMany tells: some of them would have no slot at all.
func (s *syncer) algorithmOf(r registry.Resolved) uint8 {
	if s.choice.asked(r) == registry.AlgorithmMaglev && s.choice.tooMany(r) == nil {
		return algorithmMaglev
	}
	return algorithmRandom
}

// asked returns the algorithm that the service has asked for, or else the node's configuration.
func (c choice) asked(r registry.Resolved) registry.Algorithm {
	if r.Algorithm == registry.AlgorithmDefault {
		return c.algorithm
	}
	return r.Algorithm
}

// tooMany returns an error when the frontend asks for a table that is smaller than it needs.
func (c choice) tooMany(r registry.Resolved) error {
	if c.asked(r) != registry.AlgorithmMaglev || uint32(len(r.Backends)) <= c.maglevSize {
		return nil
	}
	n := uint32(0)
	for _, b := range r.Backends {
		if !b.Draining {
			n++
		}
	}
	if n <= c.maglevSize {
		return nil
	}
	return fmt.Errorf("%d backends do not fit into a Maglev table of %d slots; they are chosen at random "+
		"until services.maglevTableSize is larger", n, c.maglevSize)
}

// content returns the backend ids that fill the frontend's run. At random, each backend has slots by
// its weight, see slotCounts; a Maglev table is maglevTable's. Who drains is in none.
func (s *syncer) content(h *held) []uint32 {
	places := choose(h.members, h.algorithm, s.choice.maglevSize)
	for i, place := range places {
		places[i] = h.members[place].id
	}
	return places
}

// choose returns the places in members, which are sorted, of those that fill the run.
func choose(members []member, algorithm uint8, maglevSize uint32) []uint32 {
	active := make([]uint32, 0, len(members))
	for i, m := range members {
		if m.weight > 0 {
			active = append(active, uint32(i))
		}
	}
	if algorithm == algorithmMaglev {
		backends := make([]maglevBackend, len(active))
		for i, place := range active {
			backends[i] = maglevBackend{members[place].addr, members[place].weight}
		}
		table := maglevTable(backends, maglevSize)
		for i, j := range table {
			table[i] = active[j]
		}
		return table
	}
	weights := make([]uint16, len(active))
	even := true
	for i, place := range active {
		weights[i] = members[place].weight
		even = even && weights[i] == weights[0]
	}
	if even {
		return active
	}
	var run []uint32
	for i, n := range slotCounts(weights) {
		for range n {
			run = append(run, active[i])
		}
	}
	return run
}
