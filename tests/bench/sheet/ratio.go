package sheet

import (
	"fmt"
	"math"

	"golang.org/x/perf/benchmath"
)

// Confidence is that of all intervals.
const Confidence = 0.95

// Again is what the way is called that is measured once more beside itself: how far its ratio strays
// from 1 is the noise of the machine.
const Again = "_again"

// Estimate is a median with its confidence interval.
type Estimate struct {
	Center, Lo, Hi float64
	Rounds         int
}

// Median estimates a figure of a case over its rounds, without assuming anything about how it is
// distributed. It has no rounds when the case has no such figure.
func (s *Sheet) Median(c Case, unit string) Estimate {
	var values []float64
	for _, sample := range s.Samples(c) {
		if v, ok := sample.Value(unit); ok {
			values = append(values, v)
		}
	}
	return estimate(values)
}

// Ratio estimates a figure of a case as a multiple of the same figure of another, round by round.
func (s *Sheet) Ratio(c, base Case, unit string) Estimate { return estimate(s.ratios(c, base, unit)) }

// RatioOfAll estimates the same over all rounds of several cases, each beside its own base.
func (s *Sheet) RatioOfAll(cases []Case, base func(Case) Case, unit string) Estimate {
	var all []float64
	for _, c := range cases {
		all = append(all, s.ratios(c, base(c), unit)...)
	}
	return estimate(all)
}

func (s *Sheet) ratios(c, base Case, unit string) (list []float64) {
	bases := map[int]float64{}
	for _, sample := range s.Samples(base) {
		if v, ok := sample.Value(unit); ok && v != 0 {
			bases[sample.Round] = v
		}
	}
	for _, sample := range s.Samples(c) {
		if v, ok := sample.Value(unit); ok && bases[sample.Round] != 0 {
			list = append(list, v/bases[sample.Round])
		}
	}
	return list
}

func estimate(values []float64) Estimate {
	if len(values) == 0 {
		return Estimate{Center: math.NaN(), Lo: math.NaN(), Hi: math.NaN()}
	}
	sum := benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &benchmath.DefaultThresholds), Confidence)
	return Estimate{sum.Center, sum.Lo, sum.Hi, len(values)}
}

// Noise is how far the ratio of a way to itself strays from 1: the larger end of its interval. It is 0
// when the way was not measured twice.
func (s *Sheet) Noise(base Case, key, unit string) float64 {
	return s.Ratio(base.With(key, base.Get(key)+Again), base, unit).Strays()
}

// Strays is how far from 1 the further end of an interval is; 0: there is none.
func (e Estimate) Strays() float64 {
	if e.Rounds == 0 {
		return 0
	}
	return max(math.Abs(e.Hi-1), math.Abs(1-e.Lo))
}

// Shows tells whether the ratio differs from 1 by more than chance and noise explain. With fewer than
// six rounds no interval of 95 % exists: benchmath then gives an infinite one, which shows nothing.
func (e Estimate) Shows(noise float64) bool {
	return (e.Lo > 1 || e.Hi < 1) && math.Abs(e.Center-1) > noise
}

// String shows a ratio with its interval.
func (e Estimate) String() string {
	switch {
	case e.Rounds == 0:
		return "-"
	case math.IsInf(e.Lo, 0) || math.IsInf(e.Hi, 0):
		return fmt.Sprintf("%.3f", e.Center)
	default:
		return fmt.Sprintf("%.3f [%.3f, %.3f]", e.Center, e.Lo, e.Hi)
	}
}
