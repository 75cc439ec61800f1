package report

import (
	"cmp"
	"slices"
	"strings"

	"gonum.org/v1/plot/plotter"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// apart are the keys of what is measured by itself; by the others, rows of bars differ.
var apart = []string{"program", "family", "step", "kind"}

// classGroups shows programs: bars for each class of packets, at each size.
func (r *reporter) classGroups(cases []sheet.Case) (list []group) {
	for _, f := range classFamilies(cases) {
		f.cases = together(f.cases, varying(f.cases))
		b := block{Table: r.listed(f.cases)}
		for _, unit := range unitsOf(r.s, f.cases) {
			if fig := r.classBars(f, unit); fig != nil {
				b.Figures = append(b.Figures, fig)
			}
		}
		list = append(list, group{Title: title(f.common), ID: r.name(f.common), Blocks: []block{b}})
	}
	return list
}

// together sorts cases so that those stand below each other that differ in the key alone.
func together(cases []sheet.Case, key string) (list []sheet.Case) {
	for _, f := range by(cases, key) {
		list = append(list, along(f.cases, key)...)
	}
	return list
}

// classFamilies are the cases that stand in one plot. Programs of which there is little to show share one, and what is of no
// IP version stands beside the first one.
func classFamilies(cases []sheet.Case) (list []family) {
	inside := keysBut(cases, apart...)
	var little []sheet.Case
	for _, f := range by(cases, inside...) {
		home := slices.IndexFunc(list, func(g family) bool {
			return f.common.Get("family") == "" && g.common.Without("family") == f.common
		})
		switch {
		case home >= 0:
			list[home].cases = append(list[home].cases, f.cases...)
		case len(f.cases) < fewest:
			little = append(little, f.cases...)
		default:
			list = append(list, f)
		}
	}
	return append(list, by(little, append(inside, "program")...)...)
}

// classBars draws one unit of each class; where the classes were measured at several sizes, those stand below
// each other.
func (r *reporter) classBars(f family, unit string) *figure {
	axis := varying(f.cases)
	column := columnOf(r.s, f.cases, unit)
	label := unitName(unit)
	if column.scale.suffix != "" {
		label += ", " + column.scale.suffix
	}
	places := placesOf(f.cases, axis)
	chart := bars{}
	if len(places) > 1 {
		for i, p := range places {
			chart.key = append(chart.key, bar{label: count(axis, p), color: palette[i%len(palette)]})
		}
	}
	for _, class := range by(f.cases, axis) {
		name := className(class.common, f.common)
		for _, c := range along(class.cases, axis) {
			i := slices.Index(f.cases, c)
			e := column.values[i]
			if !known(e) {
				continue
			}
			color := palette[max(0, slices.Index(places, c.Get(axis)))%len(palette)]
			chart.rows = append(chart.rows, bar{name, column.in(e.Center), column.in(e.Lo), column.in(e.Hi), color, column.text(i)})
			name = ""
		}
	}
	if len(chart.rows) == 0 {
		return nil
	}
	return r.keep(chart.draw(r.name(f.common, unit), title(f.common)+": "+unitName(unit), label, false))
}

// placesOf lists the values of an axis, in rising order.
func placesOf(cases []sheet.Case, axis string) (places []string) {
	for _, c := range along(cases, axis) {
		if v := c.Get(axis); v != "" && !slices.Contains(places, v) {
			places = append(places, v)
		}
	}
	return places
}

// className is what a case says beyond what it has in common with others.
func className(c, common sheet.Case) string { return title(without(c, keys(common)...)) }

// curveGroups shows what grows: plots for each step of what is measured while one thing does.
func (r *reporter) curveGroups(cases []sheet.Case) (list []group, err error) {
	for _, f := range by(cases, append([]string{"step", "kind"}, axes...)...) {
		g := group{Title: title(f.common), ID: r.name(f.common)}
		for _, step := range by(f.cases, append([]string{"kind"}, axes...)...) {
			axis := axisOfAll(step.cases)
			step.cases = along(step.cases, axis)
			b := block{Title: className(step.common, f.common), Table: r.listed(step.cases)}
			if b.Figures, err = r.curves(step, axis); err != nil {
				return nil, err
			}
			g.Blocks = append(g.Blocks, b)
		}
		if g.Title == "" {
			g.Title = "by the number of " + words(axisOfAll(f.cases))
		}
		list = append(list, g)
	}
	return list, nil
}

// axisOfAll is that of the first kind that has one.
func axisOfAll(cases []sheet.Case) string {
	for _, f := range by(cases, axes...) {
		if axis, ok := axisOf(f.cases); ok {
			return axis
		}
	}
	return ""
}

// curves draws each unit along the axis, a line for each kind. If there is one kind alone, quantiles share a plot.
func (r *reporter) curves(f family, axis string) (list []*figure, err error) {
	kinds := by(f.cases, axes...)
	add := func(suffix, what, unit string, lines []series) {
		if len(lines) == 0 || err != nil {
			return
		}
		heading := strings.TrimPrefix(title(f.common)+": "+what, ": ")
		var fig *figure
		if fig, err = curve(r.name(f.common, suffix), heading, axis, what, unit, lines); err == nil {
			list = append(list, r.keep(fig))
		}
	}
	var quantiles []series
	for _, unit := range unitsOf(r.s, f.cases) {
		if q := slices.Index(quantileUnits, unit); q >= 0 && len(kinds) == 1 {
			if s := r.series(kinds[0].cases, axis, unit); len(s.points) >= fewest {
				s.name, s.look = unitName(unit), lookOf("", q)
				quantiles = append(quantiles, s)
			}
			continue
		}
		var lines []series
		for i, kind := range kinds {
			if s := r.series(kind.cases, axis, unit); len(s.points) >= fewest {
				s.name, s.look = className(kind.common, f.common), lookOf("", i)
				lines = append(lines, s)
			}
		}
		add(unit, unitName(unit), unit, lines)
	}
	add("quantiles", "time", "ns", quantiles)
	return list, err
}

// quantileUnits are those of one distribution.
var quantileUnits = []string{"p50-ns", "p90-ns", "p99-ns", "p99.9-ns"}

// series gathers one unit of cases along the axis.
func (r *reporter) series(cases []sheet.Case, axis, unit string) (s series) {
	for _, c := range cases {
		if e := r.s.Median(c, unit); known(e) && place(c, axis) > 0 {
			s.points = append(s.points, plotter.XY{X: place(c, axis), Y: e.Center})
			s.lo, s.hi = append(s.lo, e.Lo), append(s.hi, e.Hi)
		}
	}
	return s
}

// restGroups are tables of what has no other form, and the latencies of it. Cases that say the same things stand
// in one table.
func (r *reporter) restGroups(cases []sheet.Case) (list []group, err error) {
	for _, set := range alike(cases) {
		common := shared(set)
		heading := title(common)
		if first := distinction(set); heading == "" && first != "" {
			heading = "by " + words(first)
		} else if heading == "" {
			heading = "figures"
		}
		b := block{Table: r.listed(set)}
		if b.Figures, err = r.restLatencies(set); err != nil {
			return nil, err
		}
		list = append(list, group{Title: heading, ID: r.name(common, "figures"), Blocks: []block{b}})
	}
	return list, nil
}

// restLatencies draws distributions: in one plot those that differ in step or kind alone.
func (r *reporter) restLatencies(set []sheet.Case) (list []*figure, err error) {
	key := distinction(set)
	for _, f := range by(set, key) {
		label := func(c sheet.Case) string { return value(key, c.Get(key)) }
		for part := range slices.Chunk(f.cases, len(palette)) {
			fig, err := r.latencies(f.common, part, label)
			if err != nil {
				return nil, err
			}
			if fig != nil {
				list = append(list, fig)
			}
		}
	}
	return list, nil
}

// distinction is the key that tells cases of a set apart best.
func distinction(set []sheet.Case) string {
	differ := differing(set)
	for _, key := range []string{"step", "kind"} {
		if slices.Contains(differ, key) {
			return key
		}
	}
	if len(differ) == 0 {
		return ""
	}
	return differ[0]
}

// alike puts those cases together that have the same keys; of step and kind, where they have both, the first one's value
// is the same, too.
func alike(cases []sheet.Case) (sets [][]sheet.Case) {
	var said []string
	for _, c := range cases {
		all := keys(c)
		says := strings.Join(all, " ")
		if step, kind := slices.Index(all, "step"), slices.Index(all, "kind"); step >= 0 && kind >= 0 {
			says = c.Get(all[min(step, kind)]) + " " + says
		}
		i := slices.Index(said, says)
		if i < 0 {
			i, said, sets = len(said), append(said, says), append(sets, nil)
		}
		sets[i] = append(sets[i], c)
	}
	return sets
}

// differing are the keys in whose values the cases differ.
func differing(cases []sheet.Case) (list []string) {
	for _, k := range keys(cases[0]) {
		if slices.ContainsFunc(cases, func(c sheet.Case) bool { return c.Get(k) != cases[0].Get(k) }) {
			list = append(list, k)
		}
	}
	return list
}

// shared is a case without that in which the cases differ.
func shared(cases []sheet.Case) sheet.Case { return without(cases[0], differing(cases)...) }

// listed is a table of all units of the cases, with intervals.
func (r *reporter) listed(cases []sheet.Case) table {
	return list(r.s, cases, unitsOf(r.s, cases), column.interval)
}

// list is a table of units of the cases.
func list(s *sheet.Sheet, cases []sheet.Case, units []string, show func(column, int) string) table {
	differ := differing(cases)
	t := table{Labels: max(1, len(differ))}
	for _, k := range differ {
		t.Head = append(t.Head, words(k))
	}
	if len(differ) == 0 {
		t.Head = append(t.Head, "")
	}
	var columns []column
	for _, unit := range units {
		c := columnOf(s, cases, unit)
		columns, t.Head = append(columns, c), append(t.Head, c.head())
	}
	for i, c := range cases {
		var row []cell
		for _, k := range differ {
			v := value(k, c.Get(k))
			if slices.Contains(axes, k) {
				v = grouped(c.Get(k))
			}
			row = append(row, cell{Text: cmp.Or(v, "-")})
		}
		if len(differ) == 0 {
			row = plain(title(c))
		}
		for _, column := range columns {
			row = append(row, cell{Text: show(column, i)})
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
