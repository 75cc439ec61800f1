package report

import (
	"fmt"
	"slices"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// compared are the ways of one family beside each other.
type compared struct {
	s     *sheet.Sheet
	base  sheet.Case
	cases []sheet.Case
	axis  string // in whose value the families of a group differ; "": they do not
}

func newCompared(s *sheet.Sheet, cases []sheet.Case, axis string) compared {
	cases = byWay(cases)
	return compared{s, baseOf(cases), cases, axis}
}

// place says where along the axis these ways are.
func (c compared) place() string {
	if c.axis == "" || c.base.Get(c.axis) == "" {
		return ""
	}
	return count(c.axis, c.base.Get(c.axis))
}

// ratio of a case to the base, with the noise of that figure.
func (c compared) ratio(one sheet.Case, unit string) (e sheet.Estimate, noiseLevel float64) {
	return c.s.Ratio(one, c.base, unit), c.s.Noise(c.base, wayKey, unit)
}

// cell shows the ratio of a case; the base is what the others are multiples of, and its repetition is the noise.
func (c compared) cell(one sheet.Case, unit string) cell {
	if one == c.base {
		return cell{Text: "1"}
	}
	e, level := c.ratio(one, unit)
	out := ratioCell(e, level, unit)
	if one.Get(wayKey) == c.base.Get(wayKey)+sheet.Again {
		out = cell{Text: e.String() + " is the noise"}
	}
	return out
}

// main is the unit that stands for all: that of the median, of a rate, or whatever there is.
func mainUnit(units []string) string {
	for _, unit := range []string{"p50-ns", "ns/op", "B/s", "ops/s"} {
		if slices.Contains(units, unit) {
			return unit
		}
	}
	if len(units) == 0 {
		return ""
	}
	return units[0]
}

// ratioUnits are those whose ratios are worth a column.
func ratioUnits(units []string) (list []string) {
	first := mainUnit(units)
	for _, unit := range units {
		if unit == first || unit == "p99-ns" || unit == "cpu-ns/op" {
			list = append(list, unit)
		}
	}
	return list
}

// wayGroups makes a group of each kind of calls: ratios over all its sizes, then each size by itself.
func (r *reporter) wayGroups(cases []sheet.Case) (list []group, err error) {
	axis := varying(cases)
	names := []string{wayKey}
	if axis != "" {
		names = append(names, axis)
	}
	for _, f := range by(cases, names...) {
		var sets []compared
		for _, g := range by(along(f.cases, axis), wayKey) {
			sets = append(sets, newCompared(r.s, g.cases, axis))
		}
		g := group{Title: title(f.common), ID: r.name(f.common)}
		if ratios := r.ratios(f, sets); len(ratios.Table.Rows) > 0 {
			g.Blocks = append(g.Blocks, ratios)
		}
		for _, set := range sets {
			b, err := r.figures(set)
			if err != nil {
				return nil, err
			}
			g.Blocks = append(g.Blocks, b)
		}
		list = append(list, g)
	}
	return list, nil
}

// ratios shows those of all ways to the base.
func (r *reporter) ratios(f family, sets []compared) block {
	all := unitsOf(r.s, f.cases)
	shown := ratioUnits(all)
	base := shortWay(sets[0].base.Get(wayKey))
	b := block{Title: "Ratios to " + base, Table: table{
		Caption: "Ratio of each round to " + base + " in the same round: median and 95 % interval.",
		Head:    []string{"", "way"}, Labels: 2,
	}}
	for _, unit := range shown {
		b.Table.Head = append(b.Table.Head, unitName(unit))
		if fig := r.ratioBars(f.common, sets, unit, base); fig != nil {
			b.Figures = append(b.Figures, fig)
		}
	}
	for _, set := range sets {
		for _, c := range set.cases {
			if c == set.base {
				continue
			}
			row := plain(set.place(), wayName(c.Get(wayKey)))
			for _, unit := range shown {
				row = append(row, set.cell(c, unit))
			}
			b.Table.Rows = append(b.Table.Rows, row)
		}
	}
	return b
}

// ratioBars draws the ratios of one unit; nil: there are none.
func (r *reporter) ratioBars(common sheet.Case, sets []compared, unit, base string) *figure {
	chart := bars{from: 1}
	for _, set := range sets {
		if set.place() != "" && len(sets) > 1 {
			chart.rows = append(chart.rows, bar{label: set.place()})
		}
		here := band{first: len(chart.rows)}
		for i, c := range set.cases {
			e, level := set.ratio(c, unit)
			if c == set.base || !known(e) || e.Center <= 0 {
				continue
			}
			color, text := lookOf(c.Get(wayKey), i).color, fmt.Sprintf("%.3f", e.Center)
			switch v := verdict(e, level, unit); {
			case c.Get(wayKey) == set.base.Get(wayKey)+sheet.Again:
				text += "  noise"
			case v == noise:
				color, text = pale(color), text+"  within noise"
			case v == few:
				color = pale(color)
			}
			chart.rows = append(chart.rows, bar{wayName(c.Get(wayKey)), e.Center, max(e.Lo, 1e-3), e.Hi, color, text})
			here.last, here.noise = len(chart.rows)-1, level
		}
		if here.noise > 0 {
			chart.bands = append(chart.bands, here)
		}
	}
	if !slices.ContainsFunc(chart.rows, func(b bar) bool { return b.text != "" }) {
		return nil
	}
	better := "less is better"
	if largerIsBetter(unit) {
		better = "more is better"
	}
	what := unitName(unit) + ", ratio to " + base
	return r.keep(chart.draw(r.name(common, "ratio", unit), title(common)+": "+what, what+"; "+better, true))
}

// figures shows what one set of ways came to, with the distributions of their latencies.
func (r *reporter) figures(set compared) (block, error) {
	all := unitsOf(r.s, set.cases)
	heading := set.place()
	if heading == "" {
		heading = "Figures"
	}
	b := block{Title: heading, Table: table{Head: []string{"way"}, Labels: 1}}
	var columns []column
	for _, unit := range all {
		c := columnOf(r.s, set.cases, unit)
		columns, b.Table.Head = append(columns, c), append(b.Table.Head, c.head())
	}
	ratio := mainUnit(all)
	b.Table.Head = append(b.Table.Head, unitName(ratio)+", ratio to "+shortWay(set.base.Get(wayKey)))
	for i, c := range set.cases {
		row := plain(wayName(c.Get(wayKey)))
		for _, column := range columns {
			row = append(row, cell{Text: column.text(i)})
		}
		b.Table.Rows = append(b.Table.Rows, append(row, set.cell(c, ratio)))
	}
	fig, err := r.latencies(set.base.Without(wayKey), set.cases, func(c sheet.Case) string { return wayName(c.Get(wayKey)) })
	if fig != nil {
		b.Figures = append(b.Figures, fig)
	}
	return b, err
}

// latencies draws the distributions of some cases; nil: they have none.
func (r *reporter) latencies(common sheet.Case, cases []sheet.Case, label func(sheet.Case) string) (*figure, error) {
	var list []sheet.Latency
	all := r.s.Latencies(common.Part())
	for _, c := range cases {
		if i := slices.IndexFunc(all, func(l sheet.Latency) bool { return l.Case == c }); i >= 0 && len(all[i].Quantiles) > 1 {
			list = append(list, all[i])
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	fig, err := distributions(r.name(common, "latency"), title(common)+": latencies", list, label)
	if err != nil || fig == nil {
		return nil, err
	}
	return r.keep(fig), nil
}
