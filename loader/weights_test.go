package loader

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

func TestSlotCounts(t *testing.T) {
	for _, test := range []struct {
		weights []uint16
		want    []uint32
	}{
		{nil, []uint32{}},
		{[]uint16{1}, []uint32{1}},
		{[]uint16{256}, []uint32{1}},
		{[]uint16{1, 1, 1}, []uint32{1, 1, 1}},
		{[]uint16{100, 50, 150}, []uint32{2, 1, 3}},
		{[]uint16{256, 1}, []uint32{256, 1}},
	} {
		if got := slotCounts(test.weights); !slices.Equal(got, test.want) {
			t.Errorf("weights %v: %v, want %v", test.weights, got, test.want)
		}
	}
}

// TestSlotCountsBound holds slotCounts to what it says of its error, by exact arithmetic.
func TestSlotCountsBound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 6))
	bounded := 0
	for range 2000 {
		weights := make([]uint16, 1+rnd.IntN(300))
		heavy := rnd.IntN(3) // none, some or most are heavy
		sum := 0
		for i := range weights {
			weights[i] = uint16(1 + rnd.IntN(3))
			if rnd.IntN(3) < heavy {
				weights[i] = uint16(registry.MaxWeight - rnd.IntN(3))
			}
			sum += int(weights[i])
		}
		counts := slotCounts(weights)
		total, limit := 0, max(64*len(weights), 4096)
		for _, n := range counts {
			total += int(n)
		}
		if total > limit {
			t.Fatalf("%d backends: %d slots, at most %d are allowed", len(weights), total, limit)
		}
		if total == limit {
			bounded++
		}
		for i, n := range counts {
			exact := float64(total) * float64(weights[i]) / float64(sum)
			if d := float64(n) - exact; n < 1 || d > 1 || d < -1-0.012*exact || exact < 0.25 {
				t.Fatalf("%d backends: weight %d of %d has %d of %d slots, exactly %.2f",
					len(weights), weights[i], sum, n, total, exact)
			}
		}
	}
	if bounded < 100 {
		t.Errorf("only %d runs met the bound", bounded)
	}
}
