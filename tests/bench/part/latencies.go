package part

import (
	"slices"
	"sync"
	"time"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Latencies enters how long operations took in a sheet: the quantiles of each round, and at the end the
// distribution over all of them. Its methods may be called from several goroutines.
type Latencies struct {
	sheet *sheet.Sheet

	mu    sync.Mutex
	cases []sheet.Case // in the order of their first round
	took  map[sheet.Case][]time.Duration
}

// NewLatencies enters them in s.
func NewLatencies(s *sheet.Sheet) *Latencies {
	return &Latencies{sheet: s, took: map[sheet.Case][]time.Duration{}}
}

// Round enters a round of a case, with more figures of the same operations; it sorts took. A round of nothing is none.
func (l *Latencies) Round(c sheet.Case, round int, took []time.Duration, more ...sheet.Value) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	values := []sheet.Value{
		{Unit: "p50-ns", Value: Quantile(took, 0.5)}, {Unit: "p90-ns", Value: Quantile(took, 0.9)},
		{Unit: "p99-ns", Value: Quantile(took, 0.99)},
	}
	l.sheet.Add(c, round, len(took), append(values, more...)...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.took[c] == nil {
		l.cases = append(l.cases, c)
	}
	l.took[c] = append(l.took[c], took...)
}

// Done enters the distributions of all cases, once.
func (l *Latencies) Done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.cases {
		l.sheet.AddLatency(Distribution(c, l.took[c]))
	}
	l.cases, l.took = nil, map[sheet.Case][]time.Duration{}
}

// Quantile is the shortest time of a sorted list that such a share of it did not exceed, in nanoseconds.
func Quantile(sorted []time.Duration, share float64) float64 {
	return float64(sorted[min(int(share*float64(len(sorted))), len(sorted)-1)])
}

// Distribution is that of times, which it sorts: every 2.5 %, and the tail in finer steps as far as there are
// samples for it.
func Distribution(c sheet.Case, took []time.Duration) sheet.Latency {
	slices.Sort(took)
	l := sheet.Latency{Case: c}
	add := func(share float64) {
		l.Quantiles = append(l.Quantiles, sheet.Quantile{Share: share, Nanoseconds: Quantile(took, share)})
	}
	for i := range 40 {
		add(float64(i) * 0.025)
	}
	for _, share := range []float64{0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999} {
		if (1-share)*float64(len(took)) >= 1 || share == 0.99 {
			add(share)
		}
	}
	add(1)
	return l
}
