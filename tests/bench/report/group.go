package report

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// section is one part of the benchmark.
type section struct {
	Name, ID string
	Notes    []string
	Groups   []group
}

// group is what belongs under one heading.
type group struct {
	Title, ID string
	Blocks    []block
}

// block is a row of plots with the table of their numbers.
type block struct {
	Title   string
	Figures []*figure
	Table   table
}

// family is a number of cases that have all but some keys in common.
type family struct {
	common sheet.Case
	cases  []sheet.Case
}

// by puts those cases together that differ in nothing but the keys.
func by(cases []sheet.Case, names ...string) (list []family) {
	for _, c := range cases {
		common := without(c, names...)
		i := slices.IndexFunc(list, func(f family) bool { return f.common == common })
		if i < 0 {
			i, list = len(list), append(list, family{common: common})
		}
		list[i].cases = append(list[i].cases, c)
	}
	return list
}

// kinds sorts cases by how they are shown: ways beside each other, classes of packets as bars, what grows as
// curves, and the rest as tables.
type kinds struct{ ways, classes, curves, rest []sheet.Case }

func sortOut(cases []sheet.Case) (k kinds) {
	grows := map[sheet.Case]bool{}
	for _, f := range by(cases, axes...) {
		if _, ok := axisOf(f.cases); ok {
			for _, c := range f.cases {
				grows[c] = true
			}
		}
	}
	for _, c := range cases {
		switch {
		case c.Get(wayKey) != "":
			k.ways = append(k.ways, c)
		case c.Get("class") != "":
			k.classes = append(k.classes, c)
		case grows[c]:
			k.curves = append(k.curves, c)
		default:
			k.rest = append(k.rest, c)
		}
	}
	return k
}

// fewest points that make a curve.
const fewest = 3

// axisOf finds the axis along which cases lie, each at a place of its own: the one that has most places.
func axisOf(cases []sheet.Case) (axis string, ok bool) {
	most := 0
	for _, key := range axes {
		places := map[float64]bool{}
		for _, c := range cases {
			if x, err := strconv.ParseFloat(c.Get(key), 64); err == nil && x > 0 {
				places[x] = true
			}
		}
		if len(places) == len(cases) && len(places) > most {
			axis, most = key, len(places)
		}
	}
	return axis, most >= fewest
}

// number of a case along an axis.
func place(c sheet.Case, axis string) float64 {
	x, err := strconv.ParseFloat(c.Get(axis), 64)
	if err != nil {
		return 0
	}
	return x
}

// along sorts cases by an axis.
func along(cases []sheet.Case, axis string) []sheet.Case {
	cases = slices.Clone(cases)
	slices.SortStableFunc(cases, func(a, b sheet.Case) int { return cmp.Compare(place(a, axis), place(b, axis)) })
	return cases
}

// varying is the first axis in which the cases differ, or have at all; "": none.
func varying(cases []sheet.Case) (axis string) {
	for _, key := range axes {
		seen := map[string]bool{}
		for _, c := range cases {
			if v := c.Get(key); v != "" {
				seen[v] = true
			}
		}
		if len(seen) > 1 {
			return key
		}
		if len(seen) == 1 && axis == "" {
			axis = key
		}
	}
	return axis
}

// byWay sorts cases in the order of ways.
func byWay(cases []sheet.Case) []sheet.Case {
	cases = slices.Clone(cases)
	slices.SortStableFunc(cases, func(a, b sheet.Case) int {
		return cmp.Compare(wayRank(a.Get(wayKey)), wayRank(b.Get(wayKey)))
	})
	return cases
}

// baseOf is the case with which the others of a family of ways are compared: direct, or the first.
func baseOf(cases []sheet.Case) sheet.Case {
	for _, c := range cases {
		if c.Get(wayKey) == baseWay {
			return c
		}
	}
	return cases[0]
}
