package main

import (
	"fmt"
	"io"
	"math"
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
	ratio      sheet.Estimate // of the new figure to the old one of the same round
	p          float64        // how likely ratios that are as far from 1 are when nothing has changed
	changed    bool
}

// shown are the units that the table has; old.txt and new.txt have all.
var shown = []string{"p50-ns", "p99-ns", "cpu-ns/op", "ns/op"}

// rows compares what was measured of both sides: those of one unit stand together.
func (p pair) rows() (list []row) {
	for _, unit := range shown {
		first := len(list)
		for _, c := range p.old.Cases("") {
			_, median := p.old.Samples(c)[0].Value("p50-ns")
			if unit == "ns/op" && median {
				continue // the mean is told by what it is made of
			}
			ratios := p.ratios(c, unit)
			if len(ratios) == 0 {
				continue
			}
			list = append(list, row{
				name: string(c), unit: unit, old: summary(p.old, c, unit), new: summary(p.new, c, unit),
				ratio: p.ratio(c, unit), p: signedRank(ratios),
			})
		}
		standOut(list[first:])
	}
	return list
}

// ratio estimates what the two sides' ratios round by round are, which what both have in common falls out of.
func (p pair) ratio(c sheet.Case, unit string) sheet.Estimate {
	both := &sheet.Sheet{}
	for side, s := range map[sheet.Case]*sheet.Sheet{oldSide: p.old, newSide: p.new} {
		for _, sample := range s.Samples(c) {
			both.Add(side, sample.Round, sample.N, sample.Values...)
		}
	}
	return both.Ratio(newSide, oldSide, unit)
}

// ratios are those of the rounds in which both sides have the figure.
func (p pair) ratios(c sheet.Case, unit string) (list []float64) {
	before := map[int]float64{}
	for _, sample := range p.old.Samples(c) {
		if v, ok := sample.Value(unit); ok {
			before[sample.Round] = v
		}
	}
	for _, sample := range p.new.Samples(c) {
		if v, ok := sample.Value(unit); ok && v > 0 && before[sample.Round] > 0 {
			list = append(list, v/before[sample.Round])
		}
	}
	return list
}

// summary is a figure's median over the rounds with its interval.
func summary(s *sheet.Sheet, c sheet.Case, unit string) benchmath.Summary {
	var list []float64
	for _, sample := range s.Samples(c) {
		if v, ok := sample.Value(unit); ok {
			list = append(list, v)
		}
	}
	return benchmath.AssumeNothing.Summary(benchmath.NewSample(list, &benchmath.DefaultThresholds), sheet.Confidence)
}

// change is by how much the figure has become another one in a round; "~": chance makes as large a difference.
func (r row) change() string {
	if !r.changed {
		return "~"
	}
	return percent(r.ratio.Center)
}

// interval is that of the change, whether or not it is one.
func (r row) interval() string {
	if math.IsInf(r.ratio.Lo, 0) || math.IsInf(r.ratio.Hi, 0) {
		return "±∞"
	}
	return fmt.Sprintf("[%s, %s]", percent(r.ratio.Lo), percent(r.ratio.Hi))
}

func percent(ratio float64) string { return fmt.Sprintf("%+.2f%%", 100*(ratio-1)) }

// print shows all figures: their medians with half the width of their intervals, the change, and p.
func (p pair) print(out io.Writer, old, new string) error {
	rows := p.rows()
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	changed := 0
	for i, r := range rows {
		if i == 0 || rows[i-1].unit != r.unit {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\tchange\tin a round\tp\n", r.unit, old, new)
		}
		if r.changed {
			changed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\tp=%.4f n=%d\n", r.name, spread(r.old, r.unit), spread(r.new, r.unit), r.change(),
			r.interval(), r.p, r.ratio.Rounds)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, `
%d of %d figures have changed. A change is the median of the rounds' own ratios, in brackets with its 95 %% interval; p is
Wilcoxon's signed-rank test's of these ratios. ~ is a difference that comes about by chance, too: of a table in which nothing has
changed, one figure in 20 has a p below 0.05, so p has to stand out among all of its table (Benjamini and Hochberg, at 5 %%).
way=direct has no Sluice, and no connect by way=no_hook meets any, on either side: a change of these is the machine's.
`, changed, len(rows))
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
