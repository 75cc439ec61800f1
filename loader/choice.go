package loader

import (
	"fmt"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// Which backend each slot of a run leads to.

// choice is how runs are filled on this node.
type choice struct {
	algorithm registry.Algorithm // of services that name none
	tables    []uint32           // the sizes that Maglev tables have, ascending; see tableFor
}

// newChoice lets tables have the least size and, as far as a service's backends need it, more.
func newChoice(a registry.Algorithm, least uint32) choice {
	c := choice{a, []uint32{least}}
	for _, size := range MaglevTableSizes() {
		if size > least && size <= maglevGrown {
			c.tables = append(c.tables, size)
		}
	}
	return c
}

// largest is the size of the largest Maglev tables.
func (c choice) largest() uint32 { return c.tables[len(c.tables)-1] }

// tableFor returns how many slots the Maglev table of n backends is to have: n*n at least, or the most that
// there are, for so few of the other backends' slots move when one goes; see maglevTable. In a table of
// another size nearly all are elsewhere, so that a service keeps the size that it has when backends go.
func (c choice) tableFor(n int, has uint32) uint32 {
	for _, size := range c.tables {
		if size >= has && uint64(size) >= uint64(n)*uint64(n) {
			return size
		}
	}
	return c.largest()
}

// smaller returns the size before that one, if it has a slot for each of n backends; 0: there is none.
func (c choice) smaller(table uint32, n int) uint32 {
	if i := slices.Index(c.tables, table); i > 0 && uint64(c.tables[i-1]) >= uint64(n) {
		return c.tables[i-1]
	}
	return 0
}

// tableOf returns how many slots the frontend's Maglev table is to have, when h is what it has; 0: none.
func (s *syncer) tableOf(r registry.Resolved, h *held) uint32 {
	if s.algorithmOf(r) != algorithmMaglev {
		return 0
	}
	has := uint32(0)
	if h != nil && !h.unsound && h.algorithm == algorithmMaglev {
		has = h.run.count
	}
	return s.choice.tableFor(serving(r), has)
}

// serving counts the backends that may be chosen.
func serving(r registry.Resolved) (n int) {
	for _, b := range r.Backends {
		if !b.Draining {
			n++
		}
	}
	return n
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

// tooMany returns an error when the frontend asks for a Maglev table and has more backends than one has slots.
func (c choice) tooMany(r registry.Resolved) error {
	if c.asked(r) != registry.AlgorithmMaglev || uint32(len(r.Backends)) <= c.largest() {
		return nil
	}
	n := serving(r)
	if n <= int(c.largest()) {
		return nil
	}
	return fmt.Errorf("%d backends do not fit into a Maglev table of %d slots; they are chosen at random "+
		"until services.maglevTableSize is larger", n, c.largest())
}

// content returns the backend ids that fill the frontend's run. At random, each backend has slots by
// its weight, see slotCounts; a Maglev table of so many slots is maglevTable's. Who drains is in none.
func (h *held) content(table uint32) []uint32 {
	places := choose(h.members, h.algorithm, table)
	for i, place := range places {
		places[i] = h.members[place].id
	}
	return places
}

// choose returns the places in members, which are sorted, of those that fill the run; of a Maglev table it
// is told how many slots.
func choose(members []member, algorithm uint8, slots uint32) []uint32 {
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
		table := maglevTable(backends, slots)
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
