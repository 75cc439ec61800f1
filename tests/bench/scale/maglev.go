package scale

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// maglevTables measures how even Maglev tables are, what of them moves when one backend goes, and what making one
// takes, beside what the paper says (Eisenbud et al., NSDI 2016).
func maglevTables(ctx context.Context, env part.Env) error {
	worst := 0.0
	for _, size := range []uint32{1021, 65521} {
		for _, n := range []int{2, 5, 10, 20, 50, 100, 200, 500} {
			if env.Quick && n > 100 {
				continue
			}
			t, err := maglevTable(ctx, size, n, env.Rounds)
			if err != nil {
				return err
			}
			name := sheet.Of(Name, "grow", "maglev_table", "slots", size, "backends", n)
			for round, took := range t.took {
				env.Sheet.Add(name, round, 1, sheet.Value{Unit: "ns/op", Value: float64(took)},
					sheet.Value{Unit: "most/least", Value: t.uneven},
					sheet.Value{Unit: "moved-percent", Value: 100 * t.moved}, sheet.Value{Unit: "moved-worst-percent", Value: 100 * t.worst})
			}
			if size > 100*uint32(n) {
				worst = max(worst, t.uneven)
			}
		}
	}
	// 3.4: M > 100 N gives "at most a 1% difference in hash space assigned to backends".
	env.Sheet.Note(Name, "Maglev tables with more than 100 slots a backend: the backend with most slots has at most %.2f %% more than the one with fewest; the paper's figure is 1 %%.", 100*(worst-1))
	return nil
}

// table is what one was found to be.
type table struct {
	took         []time.Duration // for making it
	uneven       float64         // slots of the backend that has most, over those of the one that has fewest
	moved, worst float64         // share of the other backends' slots that lead elsewhere when one goes: mean, worst
}

func maglevTable(ctx context.Context, size uint32, n, rounds int) (t table, err error) {
	backends := make([]registry.Backend, n)
	for i := range backends {
		a := netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})
		backends[i] = registry.Evenly(netip.AddrPortFrom(a, 8080))[0]
	}
	var before []netip.AddrPort
	for range rounds {
		start := time.Now()
		if before, err = loader.MaglevTable(backends, size); err != nil {
			return t, err
		}
		t.took = append(t.took, time.Since(start))
	}
	counts := map[netip.AddrPort]int{}
	for _, b := range before {
		counts[b]++
	}
	least, most := int(size), 0
	for _, b := range backends {
		least, most = min(least, counts[b.AddrPort]), max(most, counts[b.AddrPort])
	}
	t.uneven = float64(most) / float64(max(least, 1))
	var sum float64
	times := 0
	for gone := 0; gone < n && ctx.Err() == nil; gone += max(1, n/10) {
		after, err := loader.MaglevTable(slices.Delete(slices.Clone(backends), gone, gone+1), size)
		if err != nil {
			return t, err
		}
		share := moved(before, after, backends[gone].AddrPort)
		sum, t.worst, times = sum+share, max(t.worst, share), times+1
	}
	t.moved = sum / float64(max(times, 1))
	return t, context.Cause(ctx)
}

// moved is the share of the other backends' slots that lead to others when one is gone.
func moved(before, after []netip.AddrPort, gone netip.AddrPort) float64 {
	n, others := 0, 0
	for i := range before {
		if before[i] == gone {
			continue
		}
		others++
		if before[i] != after[i] {
			n++
		}
	}
	return float64(n) / float64(max(others, 1))
}
