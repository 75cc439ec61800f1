package path

import (
	"context"
	"errors"
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
	// Batch is how long each batch takes, after a fifth of that which is not timed.
	Batch time.Duration
	// Log tells whoever waits what is being measured.
	Log func(format string, args ...any)
}

// BatchTime is what is long enough for some 2000 round trips.
const BatchTime = 50 * time.Millisecond

// freePorts are the source ports that the kernel hands out first: the even half of ip_local_port_range's 28 232.
// It takes them in turn, for each address and port that is called.
const freePorts = 14116

// mostConnections bounds those of a batch, because the tuple of each rests in TIME_WAIT for a minute, at the server,
// which closes first, and a SYN with the same one is more work. No tuple of a way is another's as well: each
// ends at a server, or a port, of its own. What comes within a minute is all rounds of two numbers of services.
func mostConnections(rounds int) int { return min(600, freePorts/(2*rounds)) }

// bulkStreams are how many TCP_STREAMS has at once.
const bulkStreams = 8

// order is a batch of a kind.
func (p Plan) order(k batch.Kind) batch.Order {
	o := batch.Order{Kind: k, Warm: p.Batch / 5, For: p.Batch, Bytes: 1}
	switch k {
	case batch.TCPCRR, batch.TCPConnect:
		o.Count = mostConnections(p.Rounds)
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

// Measure enters in s what the plan says, of all ways in turn, in each round in another order. A way that fails is
// measured no further; the others are, and the error returned at the end.
func Measure(ctx context.Context, s *sheet.Sheet, p Plan, ways ...Way) error {
	r := &run{sheet: s, ways: ways}
	return errors.Join(r.measure(ctx, p), r.failed)
}

// run is what some ways are measured in, by one plan after the other.
type run struct {
	sheet  *sheet.Sheet
	ways   []Way // that have not failed
	failed error
}

// measure carries out a plan. Its error is the context's.
func (r *run) measure(ctx context.Context, p Plan) error {
	for _, n := range p.Services {
		for _, w := range r.ways {
			if err := w.Services(ctx, n); err != nil {
				r.fail(w, fmt.Errorf("make %d services for %s: %w", n, w.Name(), err))
			}
		}
		for _, family := range p.Families {
			for _, kind := range p.Kinds {
				p.Log("path: %s over %s, services: %d", kind, family, n)
				if err := r.interleave(ctx, p, kind, family, n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *run) fail(w Way, err error) {
	r.sheet.Note(Name, "Measured no further: %s, because of an error: %v.", w.Name(), err)
	r.failed = errors.Join(r.failed, err)
	r.ways = slices.DeleteFunc(slices.Clone(r.ways), func(other Way) bool { return other == w })
}

// interleave measures one kind by all ways, in all rounds.
func (r *run) interleave(ctx context.Context, p Plan, k batch.Kind, f Family, services int) error {
	latencies := map[Way]*batch.Histogram{}
	for round := range p.Rounds {
		ways := WaysOf(k, r.ways)
		results := map[string]batch.Result{}
		for _, i := range rotation(round, len(ways)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			w := ways[i]
			o := p.order(k)
			o.To, o.PIDs = netip.AddrPortFrom(w.To(f), k.Port()), w.PIDs()
			result, err := w.Driver().Do(o)
			if err != nil && ctx.Err() != nil {
				return ctx.Err() // an interrupt goes to the driver as well
			}
			if err != nil {
				r.fail(w, fmt.Errorf("%s over %s by %s: %w", k, f, w.Name(), err))
				continue
			}
			if latencies[w] == nil {
				latencies[w] = &batch.Histogram{}
			}
			if result.Latency != nil {
				latencies[w].Merge(result.Latency)
			}
			results[w.Name()] = result
		}
		for _, w := range ways {
			result, measured := results[w.Name()]
			if !measured {
				continue
			}
			figures := values(k, result)
			if base, compared := results[NoHook]; k.Silent() && compared && w.Name() != NoHook {
				figures = append(figures, extra(result, base))
			}
			r.sheet.Add(Case(k, f, services, w.Name()), round, result.N, figures...)
		}
	}
	for _, w := range WaysOf(k, r.ways) {
		if latencies[w].N() > 0 {
			r.sheet.AddLatency(distribution(Case(k, f, services, w.Name()), latencies[w]))
		}
	}
	return nil
}

// WaysOf returns those of the ways by which a kind is measured. What kinds without an answer are compared with comes first.
// A way that is another under a name of its own says so by an Unwrap method, and is measured as that.
func WaysOf(k batch.Kind, ways []Way) (list []Way) {
	for _, w := range ways {
		plain := w
		if named, ok := w.(interface{ Unwrap() Way }); ok {
			plain = named.Unwrap()
		}
		switch plain.Name() {
		case NoHook:
			if k.Silent() {
				list = slices.Insert(list, 0, w)
			}
		case Container, VIPSocket:
			list = append(list, w)
		default:
			if !k.Silent() {
				list = append(list, w)
			}
		}
	}
	return list
}

// extraUnit is that of what an operation costs more than without hooks, in the same round.
const extraUnit = "extra-ns/op"

// extra compares medians: what else ran on the CPU meanwhile is in a mean, and larger than what is to be seen.
func extra(r, base batch.Result) sheet.Value {
	return sheet.Value{Unit: extraUnit, Value: r.Latency.Quantile(0.5) - base.Latency.Quantile(0.5)}
}

// rotation is the order of a round: each way is first in turn, and each other round goes backwards, so that none
// always follows the same other.
func rotation(round, ways int) []int {
	order := make([]int, ways)
	step := 1
	if round%2 == 1 {
		step = ways - 1
	}
	for i := range order {
		order[i] = (round + i*step) % ways
	}
	return order
}

// values are the figures of a batch.
func values(k batch.Kind, r batch.Result) (list []sheet.Value) {
	add := func(unit string, v float64) { list = append(list, sheet.Value{Unit: unit, Value: v}) }
	each := func(d time.Duration) float64 { return float64(d) / float64(r.N) }
	if k.Stream() {
		add("B/s", 1024*float64(r.N)/r.Elapsed.Seconds())
		add("cpu-ns/op", each(r.CPU)) // of a KiB
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
