package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// table is one of figures; the first Labels columns are words.
type table struct {
	Caption string
	Head    []string
	Labels  int
	Rows    [][]cell
}

// cell holds a text and how sure it is: better, worse, noise or plain.
type cell struct{ Text, Class string }

func plain(texts ...string) (row []cell) {
	for _, text := range texts {
		row = append(row, cell{Text: text})
	}
	return row
}

// column is one unit of some cases, all in one scale.
type column struct {
	unit   string
	factor float64
	scale  scale
	values []sheet.Estimate
}

// columnOf gathers a unit of the cases.
func columnOf(s *sheet.Sheet, cases []sheet.Case, unit string) column {
	c := column{unit: unit}
	var centers []float64
	for _, one := range cases {
		e := s.Median(one, unit)
		c.values, centers = append(c.values, e), append(centers, e.Center)
	}
	c.factor, c.scale = scaleOf(unit, centers...)
	return c
}

func (c column) head() string {
	if c.scale.suffix == "" {
		return unitName(c.unit)
	}
	return unitName(c.unit) + ", " + c.scale.suffix
}

func (c column) in(v float64) float64 { return v * c.factor / c.scale.by }

func (c column) text(i int) string { return number(c.in(c.values[i].Center)) }

// interval shows a figure with its interval.
func (c column) interval(i int) string {
	e := c.values[i]
	if e.Rounds == 0 || math.IsInf(e.Lo, 0) || math.IsInf(e.Hi, 0) || e.Lo == e.Hi {
		return c.text(i)
	}
	return fmt.Sprintf("%s [%s, %s]", c.text(i), number(c.in(e.Lo)), number(c.in(e.Hi)))
}

// known tells whether there is a figure that has a place in a plot.
func known(e sheet.Estimate) bool {
	return e.Rounds > 0 && !math.IsNaN(e.Center) && !math.IsInf(e.Center, 0)
}

// Verdicts on a ratio.
const (
	better  = "better"
	worse   = "worse"
	noise   = "noise"
	few     = "few"
	unknown = ""
)

// verdict tells whether a ratio shows a difference, and whether that is a good one.
func verdict(e sheet.Estimate, noiseLevel float64, unit string) string {
	switch {
	case e.Rounds == 0:
		return unknown
	case math.IsInf(e.Lo, 0) || math.IsInf(e.Hi, 0):
		return few
	case !e.Shows(noiseLevel):
		return noise
	case (e.Center > 1) == largerIsBetter(unit):
		return better
	default:
		return worse
	}
}

// ratioCell shows a ratio with its interval and says when it shows nothing.
func ratioCell(e sheet.Estimate, noiseLevel float64, unit string) cell {
	text := strings.ReplaceAll(e.String(), "NaN", "-")
	v := verdict(e, noiseLevel, unit)
	switch v {
	case noise:
		text += " within noise"
	case few:
		text += " too few rounds to tell"
	}
	return cell{text, v}
}

// narrowed leaves out the first column when nothing stands in it.
func (t table) narrowed() table {
	for _, row := range t.Rows {
		if row[0].Text != "" {
			return t
		}
	}
	t.Head, t.Labels = t.Head[1:], t.Labels-1
	for i := range t.Rows {
		t.Rows[i] = t.Rows[i][1:]
	}
	return t
}
