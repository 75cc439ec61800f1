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

// classFamilies are the cases that stand in one plot.
func classFamilies(cases []sheet.Case) []family {
	var inside []string
	for _, c := range cases {
		for _, k := range keys(c) {
			if !slices.Contains(apart, k) && !slices.Contains(inside, k) {
				inside = append(inside, k)
			}
		}
	}
	return by(cases, inside...)
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
			if e.Rounds == 0 {
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

// curveGroups shows what grows: a plot for each unit.
func (r *reporter) curveGroups(cases []sheet.Case) (list []group, err error) {
	for _, f := range by(cases, axes...) {
		axis, _ := axisOf(f.cases)
		f.cases = along(f.cases, axis)
		b := block{Table: r.listed(f.cases)}
		for _, unit := range unitsOf(r.s, f.cases) {
			fig, err := r.curve(f, axis, unit)
			if err != nil {
				return nil, err
			}
			if fig != nil {
				b.Figures = append(b.Figures, fig)
			}
		}
		heading := title(f.common)
		if heading == "" {
			heading = words(axis)
		}
		list = append(list, group{Title: heading, ID: r.name(f.common), Blocks: []block{b}})
	}
	return list, nil
}

// curve draws one unit along the axis; nil: too few points have it.
func (r *reporter) curve(f family, axis, unit string) (*figure, error) {
	var s series
	s.look = lookOf("", 0)
	for _, c := range f.cases {
		if e := r.s.Median(c, unit); e.Rounds > 0 && place(c, axis) > 0 {
			s.points = append(s.points, plotter.XY{X: place(c, axis), Y: e.Center})
			s.lo, s.hi = append(s.lo, e.Lo), append(s.hi, e.Hi)
		}
	}
	if len(s.points) < fewest {
		return nil, nil
	}
	heading := strings.TrimPrefix(title(f.common)+": "+unitName(unit), ": ")
	fig, err := curve(r.name(f.common, unit), heading, axis, unit, []series{s})
	if err != nil {
		return nil, err
	}
	return r.keep(fig), nil
}

// restGroups are tables of what has no other form, and the latencies of it. Cases that say the same things stand
// in one table.
func (r *reporter) restGroups(cases []sheet.Case) (list []group, err error) {
	for _, set := range alike(cases) {
		common := shared(set)
		heading := title(common)
		if heading == "" {
			heading = "Figures by " + strings.ReplaceAll(words(strings.Join(keys(set[0]), ", ")), " ,", ",")
		}
		b := block{Table: r.listed(set)}
		differ := differing(set)
		label := func(c sheet.Case) string {
			var list []string
			for _, k := range differ {
				list = append(list, value(k, c.Get(k)))
			}
			return strings.Join(list, ", ")
		}
		for part := range slices.Chunk(set, len(palette)) {
			fig, err := r.latencies(common, part, label)
			if err != nil {
				return nil, err
			}
			if fig != nil {
				b.Figures = append(b.Figures, fig)
			}
		}
		list = append(list, group{Title: heading, ID: r.name(common, "figures"), Blocks: []block{b}})
	}
	return list, nil
}

// alike puts those cases together that have the same keys, and the same kind where they have one.
func alike(cases []sheet.Case) (sets [][]sheet.Case) {
	var said []string
	for _, c := range cases {
		says := c.Get("kind") + " " + strings.Join(keys(c), " ")
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

// listed is a table of all units of the cases.
func (r *reporter) listed(cases []sheet.Case) table {
	differ := differing(cases)
	t := table{Labels: max(1, len(differ))}
	for _, k := range differ {
		t.Head = append(t.Head, words(k))
	}
	if len(differ) == 0 {
		t.Head = append(t.Head, "")
	}
	var columns []column
	for _, unit := range unitsOf(r.s, cases) {
		c := columnOf(r.s, cases, unit)
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
			row = append(row, cell{Text: column.interval(i)})
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
