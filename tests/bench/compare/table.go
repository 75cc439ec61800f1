package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchmath"

	"github.com/sluice-net/sluice/tests/bench/report"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// pair is what two sides came to, in cases of the same names.
type pair struct{ old, new *sheet.Sheet }

// sideKey is the key of a case whose value ends in the side.
func sideKey(c sheet.Case) string {
	for _, key := range []string{"way", "class", "step"} {
		if c.Get(key) != "" {
			return key
		}
	}
	return ""
}

// split takes the sides apart. What is of neither is left out.
func split(s *sheet.Sheet) pair {
	p := pair{&sheet.Sheet{}, &sheet.Sheet{}}
	for _, c := range s.Cases("") {
		key := sideKey(c)
		for side, to := range map[string]*sheet.Sheet{oldSide: p.old, newSide: p.new} {
			if v, ok := strings.CutSuffix(c.Get(key), side); ok {
				for _, sample := range s.Samples(c) {
					to.Add(c.With(key, v), sample.Round, sample.N, sample.Values...)
				}
			}
		}
	}
	return p
}

// row is one figure of both sides.
type row struct {
	name, unit string
	old, new   benchmath.Summary
	comparison benchmath.Comparison
	ratio      sheet.Estimate // of the new figure to the old one of the same round
}

// shown are the units that the table has; old.txt and new.txt have all.
var shown = []string{"p50-ns", "p99-ns", "cpu-ns/op", "ns/op"}

// rows compares what was measured of both sides.
func (p pair) rows() (list []row) {
	for _, c := range p.old.Cases("") {
		units := shown
		if _, ok := p.old.Samples(c)[0].Value("p50-ns"); ok {
			units = shown[:3] // the mean is told by what it is made of
		}
		for _, unit := range units {
			before, after := values(p.old, c, unit), values(p.new, c, unit)
			if len(before) == 0 || len(after) == 0 {
				continue
			}
			x := benchmath.NewSample(before, &benchmath.DefaultThresholds)
			y := benchmath.NewSample(after, &benchmath.DefaultThresholds)
			list = append(list, row{
				string(c), unit,
				benchmath.AssumeNothing.Summary(x, sheet.Confidence), benchmath.AssumeNothing.Summary(y, sheet.Confidence),
				benchmath.AssumeNothing.Compare(x, y), p.ratio(c, unit),
			})
		}
	}
	return list
}

// ratio is that of the two sides round by round, which what both have in common falls out of.
func (p pair) ratio(c sheet.Case, unit string) sheet.Estimate {
	both := &sheet.Sheet{}
	for side, s := range map[sheet.Case]*sheet.Sheet{oldSide: p.old, newSide: p.new} {
		for _, sample := range s.Samples(c) {
			both.Add(side, sample.Round, sample.N, sample.Values...)
		}
	}
	return both.Ratio(newSide, oldSide, unit)
}

func values(s *sheet.Sheet, c sheet.Case, unit string) (list []float64) {
	for _, sample := range s.Samples(c) {
		if v, ok := sample.Value(unit); ok {
			list = append(list, v)
		}
	}
	return list
}

// change is the new figure's to the old one in percent; "~": as large a difference comes about by chance.
func (r row) change() string {
	c := r.comparison
	if math.IsNaN(c.P) || c.P > c.Alpha {
		return "~"
	}
	if r.old.Center == 0 {
		return "?"
	}
	return fmt.Sprintf("%+.2f%%", 100*(r.new.Center/r.old.Center-1))
}

// print shows all figures: their medians with half the width of their intervals, the change, and p.
func (p pair) print(out io.Writer, old, new string) error {
	rows := p.rows()
	unit := func(a, b row) int { return cmp.Compare(slices.Index(shown, a.unit), slices.Index(shown, b.unit)) }
	slices.SortStableFunc(rows, unit)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for i, r := range rows {
		if i == 0 || rows[i-1].unit != r.unit {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\tchange\tp\tnew/old in a round\n", r.unit, old, new)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\tp=%.3f n=%d+%d\t%s\n", r.name, spread(r.old, r.unit), spread(r.new, r.unit), r.change(),
			r.comparison.P, r.comparison.N1, r.comparison.N2, r.ratio)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(out, `
~ is a difference that comes about by chance, too: the Mann-Whitney U-test's p is above 0.05. The last column is the median of
the rounds' own ratios with its 95 % interval. way=direct has no Sluice, on either side: a change of it is the machine's.
`)
	return err
}

// spread is a median with the wider half of its interval.
func spread(s benchmath.Summary, unit string) string {
	text := report.Figure(unit, s.Center)
	if math.IsInf(s.Lo, 0) || math.IsInf(s.Hi, 0) || s.Center == 0 {
		return text + " ± ∞"
	}
	return fmt.Sprintf("%s ± %.0f%%", text, 100*max(s.Hi/s.Center-1, 1-s.Lo/s.Center))
}
