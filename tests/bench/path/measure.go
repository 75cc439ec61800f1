package path

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Plan is what to measure by each of some ways.
type Plan struct {
	Kinds    []batch.Kind
	Families []Family
	Services []int // in rising order
	Rounds   int
	// Log tells whoever waits what is being measured.
	Log func(format string, args ...any)
}

// A batch takes so long, behind a shorter one that is not timed.
const (
	batchFor  = 50 * time.Millisecond
	batchWarm = 5 * time.Millisecond
)

// Connections of one batch. All ways of a node end at one port of one backend, whose tuples rest for TIME_WAIT: those
// of all rounds are fewer than half of the 28 232 source ports (the kernel hands out the even ones first).
const mostConnections = 450

// bulkStreams are how many TCP_STREAMS has at once.
const bulkStreams = 8

// orderOf is a batch of a kind.
func orderOf(k batch.Kind) batch.Order {
	o := batch.Order{Kind: k, Warm: batchWarm, For: batchFor, Bytes: 1}
	switch k {
	case batch.TCPCRR, batch.TCPConnect:
		o.Count = mostConnections
	case batch.TCPStream:
		o.Bytes = 64 << 10
	case batch.TCPStreams:
		o.Bytes, o.Streams = 64<<10, bulkStreams
	}
	return o
}

// Case is that of one figure's place in the part.
func Case(k batch.Kind, f Family, services int, way string) sheet.Case {
	return sheet.Of(Name, "kind", k, "family", f, "services", services, "way", way)
}

// Measure enters in s what the plan says, of all ways in turn, in each round in another order.
func Measure(ctx context.Context, s *sheet.Sheet, p Plan, ways ...Way) error {
	for _, n := range p.Services {
		for _, w := range ways {
			if err := w.Services(ctx, n); err != nil {
				return fmt.Errorf("make %d services for %s: %w", n, w.Name(), err)
			}
		}
		for _, family := range p.Families {
			for _, kind := range p.Kinds {
				p.Log("path: %s over %s, services: %d", kind, family, n)
				if err := interleave(ctx, s, p.Rounds, kind, family, n, ways); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func interleave(ctx context.Context, s *sheet.Sheet, rounds int, k batch.Kind, f Family, services int, ways []Way) error {
	latencies := make([]batch.Histogram, len(ways))
	for round := range rounds {
		for _, i := range rotation(round, len(ways)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			w := ways[i]
			o := orderOf(k)
			o.To, o.PIDs = netip.AddrPortFrom(w.To(f), k.Port()), w.PIDs()
			r, err := w.Driver().Do(o)
			if err != nil {
				return fmt.Errorf("%s over %s by %s: %w", k, f, w.Name(), err)
			}
			if r.Latency != nil {
				latencies[i].Merge(r.Latency)
			}
			s.Add(Case(k, f, services, w.Name()), round, r.N, values(k, r)...)
		}
	}
	for i, w := range ways {
		if latencies[i].N() > 0 {
			s.AddLatency(distribution(Case(k, f, services, w.Name()), &latencies[i]))
		}
	}
	return nil
}

// rotation is the order of a round: each way is first in turn, and each other round goes backwards, so that none
// always follows the same other.
func rotation(round, ways int) []int {
	order := make([]int, ways)
	for i := range order {
		order[i] = (i + round) % ways
	}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// values are the figures of a batch.
func values(k batch.Kind, r batch.Result) (list []sheet.Value) {
	add := func(unit string, v float64) { list = append(list, sheet.Value{Unit: unit, Value: v}) }
	each := func(d time.Duration) float64 { return float64(d) / float64(r.N) }
	if k.Stream() {
		add("B/s", 1024*float64(r.N)/r.Elapsed.Seconds())
		add("cpu-ns/KiB", each(r.CPU))
		return list
	}
	for _, q := range []struct {
		unit  string
		share float64
	}{{"p50-ns", 0.5}, {"p90-ns", 0.9}, {"p99-ns", 0.99}, {"p99.9-ns", 0.999}} {
		add(q.unit, r.Latency.Quantile(q.share))
	}
	add("ns/op", each(r.Elapsed))
	add("cpu-ns/op", each(r.CPU))
	if k == batch.TCPConnect {
		add("ops/s", float64(r.N)/r.Elapsed.Seconds())
	}
	return list
}

// distribution is that of all rounds: every 2.5 %, and the tail in finer steps as far as there are operations for it.
func distribution(c sheet.Case, h *batch.Histogram) sheet.Latency {
	l := sheet.Latency{Case: c}
	add := func(share float64) {
		l.Quantiles = append(l.Quantiles, sheet.Quantile{Share: share, Nanoseconds: h.Quantile(share)})
	}
	for i := range 40 {
		add(float64(i) * 0.025)
	}
	for _, share := range []float64{0.99, 0.995, 0.999, 0.9995, 0.9999} {
		if share <= 0.999 || (1-share)*float64(h.N()) >= 1 {
			add(share)
		}
	}
	add(1)
	return l
}
