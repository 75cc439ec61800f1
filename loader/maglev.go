package loader

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/sluice-net/sluice/registry"
)

// DefaultMaglevTableSize gives ten backends their share within a percent (a table of more than 100 slots
// a backend does, as the paper says).
const DefaultMaglevTableSize = 1021

// maglevGrown is the largest table that a service gets for having many backends: 64 KiB of slots, filled in
// half a millisecond. It holds the bound on what moves when one goes, see maglevTable, for 128 backends.
const maglevGrown = 16381

// MaglevTableSizes returns the sizes that a Maglev table can have. Each is the largest prime below a
// power of two: that is the block of slots which it takes.
func MaglevTableSizes() []uint32 {
	return []uint32{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071}
}

// checkMaglevTableSize refuses what MaglevTableSizes does not name.
func checkMaglevTableSize(size uint32) error {
	if sizes := MaglevTableSizes(); !slices.Contains(sizes, size) {
		return fmt.Errorf("size %d of Maglev tables: want one of %v", size, sizes)
	}
	return nil
}

// MaglevTable returns the table of a service with these backends: where each slot leads to. It is for
// whoever wants to know it without a dataplane. Backends must be sorted; those that drain are in no slot.
func MaglevTable(backends []registry.Backend, size uint32) ([]netip.AddrPort, error) {
	if err := checkMaglevTableSize(size); err != nil {
		return nil, err
	}
	c := choice{registry.AlgorithmMaglev, []uint32{size}}
	if err := c.tooMany(registry.Resolved{Backends: backends}); err != nil {
		return nil, err
	}
	members := make([]member, len(backends))
	for i, b := range backends {
		members[i] = member{addr: b.AddrPort, weight: weightOf(b)}
	}
	table := make([]netip.AddrPort, 0, size)
	for _, place := range choose(members, algorithmMaglev, size) {
		table = append(table, members[place].addr)
	}
	return table, nil
}

// maglevBackend is what a Maglev table depends on, of one backend.
type maglevBackend struct {
	addr   netip.AddrPort
	weight uint16 // at least 1
}

// maglevTable returns a table of size slots with the index of a backend in each. It is the one of
// Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4: each
// backend has a permutation of the slots of its own, and in turn each takes the next one of its
// permutation that is free. So the backends' shares are even, and when one goes most slots of the
// others stay with them.
//
// Weights are as in Envoy (MaglevLoadBalancer): a backend takes its k-th turn in the round after
// (k-1) * heaviest / weight rounds. In the first round each has one, so everyone has a slot.
//
// What moves of the others' slots when one of n backends goes, measured: at most 2/n of them as long as
// n*n is no more than size (of 65521 and 131071: 0.9 of it); with ten backends 5 % in 1021 slots and 0.4 %
// in 65521. Many backends want a large table, see tableFor.
//
// The table depends on the backends' order only where two have the same free slot next; the caller
// sorts them. Permutations come from address and port alone, by xxHash64: every node, and every agent
// after a restart, fills the same table. size must be a prime and no less than there are backends.
//
// It takes size * ln(size) steps, as the paper shows, where there are few backends: 10 us for ten of
// them in 1021 slots, 2 ms in 65521.
func maglevTable(backends []maglevBackend, size uint32) []uint32 {
	const free = ^uint32(0)
	type turn struct{ next, skip, weight, due uint32 }
	turns := make([]turn, len(backends))
	heaviest := uint32(0)
	for i, b := range backends {
		offset, skip := maglevSeed(b.addr, size)
		turns[i] = turn{next: offset, skip: skip, weight: uint32(b.weight)}
		heaviest = max(heaviest, turns[i].weight)
	}
	table := make([]uint32, size)
	for i := range table {
		table[i] = free
	}
	if len(backends) == 0 {
		return table[:0]
	}
	left := size
	for credit := uint32(1); ; credit++ {
		for i := range turns {
			t := &turns[i]
			// 64 bits: rounds times weight may pass 32.
			if uint64(credit)*uint64(t.weight) < uint64(t.due)*uint64(heaviest) {
				continue
			}
			t.due++
			slot := t.next
			for table[slot] != free {
				if slot += t.skip; slot >= size {
					slot -= size
				}
			}
			table[slot] = uint32(i)
			if left--; left == 0 {
				return table
			}
			if slot += t.skip; slot >= size {
				slot -= size
			}
			t.next = slot
		}
	}
}

// maglevSeed returns where a backend's permutation begins and by how much it goes on. Both come from the
// 18 bytes of address and port in network order; a nineteenth tells them apart.
func maglevSeed(addr netip.AddrPort, size uint32) (offset, skip uint32) {
	var b [19]byte
	as16 := addr.Addr().As16()
	copy(b[:], as16[:])
	b[16], b[17] = byte(addr.Port()>>8), byte(addr.Port())
	offset = uint32(xxhash.Sum64(b[:]) % uint64(size))
	b[18] = 1
	skip = uint32(xxhash.Sum64(b[:])%uint64(size-1)) + 1
	return offset, skip
}
