package loader

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// slowMaglev is the paper's listing, with whole permutations and the weights' turns counted as fractions.
func slowMaglev(backends []registry.Backend, size uint32) []netip.AddrPort {
	if len(backends) == 0 {
		return nil
	}
	permutations := make([][]uint32, len(backends))
	heaviest := uint16(0)
	for i, b := range backends {
		offset, skip := maglevSeed(b.AddrPort, size)
		for j := range size {
			permutations[i] = append(permutations[i], (offset+j*skip)%size)
		}
		heaviest = max(heaviest, b.Weight)
	}
	table := make([]netip.AddrPort, size)
	taken, turns := uint32(0), make([]int, len(backends))
	for round := 1; ; round++ {
		for i, b := range backends {
			// Due after turns * heaviest / weight rounds.
			if round*int(b.Weight) < turns[i]*int(heaviest) {
				continue
			}
			turns[i]++
			for _, slot := range permutations[i] {
				if !table[slot].IsValid() {
					table[slot] = b.AddrPort
					taken++
					break
				}
			}
			if taken == size {
				return table
			}
		}
	}
}

// someMaglev returns n backends of weight 1, sorted.
func someMaglev(n int) []maglevBackend {
	list := make([]maglevBackend, n)
	for i := range list {
		list[i] = maglevBackend{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 8080), 1}
	}
	return list
}

func TestMaglevAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 5))
	for range 200 {
		size := []uint32{13, 31, 251, 509}[rnd.IntN(4)]
		var backends []maglevBackend
		var slow []registry.Backend
		for i := range rnd.IntN(int(size) + 1) {
			a := netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})
			if rnd.IntN(2) == 0 {
				a = netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)})
			}
			b := maglevBackend{netip.AddrPortFrom(a, uint16(rnd.Uint32())), uint16(1 + rnd.IntN(registry.MaxWeight))}
			backends = append(backends, b)
			slow = append(slow, registry.Backend{AddrPort: b.addr, Weight: b.weight})
		}
		var table []netip.AddrPort
		for _, i := range maglevTable(backends, size) {
			table = append(table, backends[i].addr)
		}
		if want := slowMaglev(slow, size); !slices.Equal(table, want) {
			t.Fatalf("%d backends, %d slots: %v, want %v", len(backends), size, table, want)
		}
	}
}

// TestMaglevIsTheSameEverywhere holds the permutations' seeds fast: should they change, an agent's upgrade
// would move flows, and nodes of two versions would disagree.
func TestMaglevIsTheSameEverywhere(t *testing.T) {
	for _, test := range []struct {
		addr         string
		offset, skip uint32
	}{
		{"10.244.1.2:8080", 685, 742},
		{"[fd00:10:244:1::2]:8080", 822, 925},
	} {
		offset, skip := maglevSeed(netip.MustParseAddrPort(test.addr), 1021)
		if offset != test.offset || skip != test.skip {
			t.Errorf("%s: offset %d, skip %d; want %d, %d", test.addr, offset, skip, test.offset, test.skip)
		}
	}
}

// TestMaglevBalance: backends of one weight differ by one slot at most. Of several weights each has its
// share within two slots; the slot that each has in the first round is paid for by all the others.
func TestMaglevBalance(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 5))
	for _, size := range MaglevTableSizes() {
		for _, n := range []int{1, 2, 3, 10, 100, 250} {
			backends := someMaglev(n)
			counts := shares(maglevTable(backends, size), n)
			if lo, hi := slices.Min(counts), slices.Max(counts); hi-lo > 1 || lo < 1 {
				t.Errorf("%d backends, %d slots: each has %d to %d", n, size, lo, hi)
			}
			sum := 0
			for i := range backends {
				backends[i].weight = uint16(1 + rnd.IntN(registry.MaxWeight))
				sum += int(backends[i].weight)
			}
			for i, have := range shares(maglevTable(backends, size), n) {
				// A turn begun is a slot, and so is the first one that all have.
				exact := float64(size) * float64(backends[i].weight) / float64(sum)
				if d := float64(have) - exact; d > 2 || d < -2-exact*float64(n)/float64(size) {
					t.Errorf("%d backends, %d slots: weight %d of %d has %d, exactly %.1f",
						n, size, backends[i].weight, sum, have, exact)
				}
			}
		}
	}
}

// shares counts the slots of each of n backends.
func shares(table []uint32, n int) []int {
	counts := make([]int, n)
	for _, i := range table {
		counts[i]++
	}
	return counts
}

// TestMaglevDisruption: of n backends one goes, and at most 2/n of the others' slots move: in the tables that
// services get for so many, and in larger ones.
func TestMaglevDisruption(t *testing.T) {
	for _, least := range []uint32{251, DefaultMaglevTableSize, 65521} {
		c := newChoice(registry.AlgorithmMaglev, least)
		for n := 2; n <= 128; n += 1 + n/40 {
			backends, size := someMaglev(n), c.tableFor(n, 0)
			if kept := c.tableFor(n-1, size); kept != size {
				t.Fatalf("%d slots for %d backends become %d when one goes", size, n, kept)
			}
			before := maglevTable(backends, size)
			for gone := 0; gone < n; gone += max(1, n/4) {
				moved, others := disruption(backends, before, gone, size)
				if n*moved > 2*others {
					t.Errorf("%d slots: backend %d of %d goes, %d of the others' %d slots move", size, gone, n, moved, others)
				}
			}
		}
	}
}

func TestMaglevTableFor(t *testing.T) {
	small, large := newChoice(registry.AlgorithmMaglev, 1021), newChoice(registry.AlgorithmMaglev, 65521)
	for _, test := range []struct {
		c         choice
		n         int
		has, want uint32
	}{
		{small, 0, 0, 1021}, {small, 10, 0, 1021}, {small, 31, 0, 1021},
		{small, 32, 0, 2039}, {small, 32, 1021, 2039}, // it grows
		{small, 31, 2039, 2039}, {small, 1, 2039, 2039}, // and does not shrink
		{small, 100, 0, 16381}, {small, 127, 0, 16381}, {small, 200, 0, 16381}, {small, 100000, 0, 16381},
		{small, 10, 251, 1021}, {small, 10, 509, 1021}, // another configuration's
		{small, 10, 65521, 16381}, {large, 10, 1021, 65521}, {large, 1000, 65521, 65521}, {large, 1, 131071, 65521},
	} {
		if got := test.c.tableFor(test.n, test.has); got != test.want {
			t.Errorf("%d backends in %d slots at least, %d now: %d slots, want %d",
				test.n, test.c.tables[0], test.has, got, test.want)
		}
	}
}

// disruption counts how many slots of the other backends move when one goes.
func disruption(backends []maglevBackend, before []uint32, gone int, size uint32) (moved, others int) {
	left := slices.Delete(slices.Clone(backends), gone, gone+1)
	for slot, i := range maglevTable(left, size) {
		if was := before[slot]; was != uint32(gone) {
			others++
			if backends[was] != left[i] {
				moved++
			}
		}
	}
	return moved, others
}

func BenchmarkMaglev(b *testing.B) {
	for _, test := range []struct {
		size uint32
		n    int
	}{{1021, 10}, {1021, 100}, {16381, 100}, {65521, 10}, {65521, 1000}} {
		backends := someMaglev(test.n)
		b.Run(fmt.Sprintf("%d backends, %d slots", test.n, test.size), func(b *testing.B) {
			for b.Loop() {
				maglevTable(backends, test.size)
			}
		})
	}
}
