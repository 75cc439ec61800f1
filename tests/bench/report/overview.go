package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// overview is what there is to read first: the ratios of each way over all that it was measured with, and what
// became of the aims.
func overview(s *sheet.Sheet) (list []table) {
	for _, t := range []table{callsTable(s), aimsTable(s)} {
		if len(t.Rows) > 0 {
			list = append(list, t)
		}
	}
	return list
}

// callsTable has a column for each kind of calls that were made by direct, too, and a row for each way.
func callsTable(s *sheet.Sheet) table {
	t := table{Head: []string{"way"}, Labels: 1, Caption: "Ratios to direct, the kernel's own routing without Sluice, in the same round: the " +
		"median over all rounds of all cases of a kind (IP versions, numbers of services) with its 95 % interval, and behind it the lowest " +
		"and the highest median of a case. One that is no further from 1 than direct, measured again, is within noise."}
	cells := map[string][]cell{}
	var order []string
	for _, part := range partsOf(s) {
		for _, f := range by(sortOut(s.Cases(part)).ways, append([]string{wayKey, "family"}, axes...)...) {
			if baseOf(f.cases).Get(wayKey) != baseWay {
				continue
			}
			unit := mainUnit(unitsOf(s, f.cases))
			for _, ways := range by(byWay(f.cases), append([]string{"family"}, axes...)...) {
				way := ways.common.Get(wayKey)
				if !slices.Contains(order, way) {
					order = append(order, way)
				}
				for len(cells[way]) < len(t.Head)-1 {
					cells[way] = append(cells[way], cell{Text: "-"})
				}
				cells[way] = append(cells[way], callsCell(s, ways.cases, unit))
			}
			t.Head = append(t.Head, strings.TrimSuffix(title(f.common)+", "+unitName(unit), ", "))
		}
	}
	slices.SortStableFunc(order, func(a, b string) int { return wayRank(a) - wayRank(b) })
	for _, way := range order {
		for len(cells[way]) < len(t.Head)-1 {
			cells[way] = append(cells[way], cell{Text: "-"})
		}
		t.Rows = append(t.Rows, append(plain(wayName(way)), cells[way]...))
	}
	return t
}

// callsCell is what one way's cases of a kind came to.
func callsCell(s *sheet.Sheet, cases []sheet.Case, unit string) cell {
	way := cases[0].Get(wayKey)
	if way == baseWay {
		c := columnOf(s, cases, unit)
		figures := spanned(c.values, func(v float64) string { return number(c.in(v)) })
		return cell{Text: "1 (" + strings.TrimSpace(figures+" "+c.scale.suffix) + ")"}
	}
	base := func(c sheet.Case) sheet.Case { return c.With(wayKey, baseWay) }
	again := func(c sheet.Case) sheet.Case { return c.With(wayKey, baseWay+sheet.Again) }
	var each []sheet.Estimate
	var twice []sheet.Case
	for _, c := range cases {
		each, twice = append(each, s.Ratio(c, base(c), unit)), append(twice, again(c))
	}
	all := s.RatioOfAll(cases, base, unit)
	if !known(all) {
		return cell{Text: "-"}
	}
	out := cell{Text: all.String()}
	if span := spanned(each, func(v float64) string { return fmt.Sprintf("%.2f", v) }); len(cases) > 1 {
		out.Text += ", " + span
	}
	if way == baseWay+sheet.Again {
		return out
	}
	switch out.Class = verdict(all, s.RatioOfAll(twice, base, unit).Strays(), unit); out.Class {
	case noise:
		out.Text += " within noise"
	case few:
		out.Text += " too few rounds to tell"
	}
	return out
}

// spanned shows the lowest and the highest of some medians.
func spanned(list []sheet.Estimate, show func(float64) string) string {
	var centers []float64
	for _, e := range list {
		if known(e) {
			centers = append(centers, e.Center)
		}
	}
	if len(centers) == 0 {
		return "-"
	}
	low, high := show(slices.Min(centers)), show(slices.Max(centers))
	if low == high {
		return low
	}
	return low + "–" + high
}

// aimsTable says what became of the aims.
func aimsTable(s *sheet.Sheet) table {
	t := table{Head: []string{"aim", "at most", "all rounds", "medians of cases", "cases"}, Labels: 1, Caption: "Aims. One is met or missed in a " +
		"case whose whole 95 % interval is on one side of it, and open in one whose interval holds it; where cases may be taken together, " +
		"there is one interval over all of their rounds, too."}
	for _, a := range s.Aims() {
		medians := []sheet.Estimate{{Center: a.Low, Rounds: 1}, {Center: a.High, Rounds: 1}}
		found := spanned(medians, func(v float64) string { return aimFigure(a, v) })
		var verdicts []string
		for _, v := range []struct {
			n    int
			name string
		}{{a.Met, "met"}, {a.Open, "open"}, {a.Missed, "missed"}} {
			if v.n > 0 {
				verdicts = append(verdicts, fmt.Sprintf("%d %s", v.n, v.name))
			}
		}
		became, all := cell{Text: strings.Join(verdicts, ", ")}, cell{Text: "-"}
		switch {
		case a.Missed > 0:
			became.Class = worse
		case a.Open == 0:
			became.Class = better
		}
		if e := a.All; e != nil {
			all = cell{Text: fmt.Sprintf("%s [%s, %s]", aimFigure(a, e.Center), aimFigure(a, e.Lo), aimFigure(a, e.Hi))}
			switch {
			case e.Hi <= a.Most:
				all.Text, all.Class = all.Text+" met", better
			case e.Lo > a.Most:
				all.Text, all.Class = all.Text+" missed", worse
			}
		}
		row := plain(words(a.Part)+": "+spelled(a.What), aimFigure(a, a.Most))
		t.Rows = append(t.Rows, append(row, all, cell{Text: found}, became))
	}
	return t
}

// aimFigure shows a figure of an aim in its unit.
func aimFigure(a sheet.Aim, v float64) string {
	if a.Unit == "" {
		return fmt.Sprintf("%.3f", v)
	}
	if _, in := scaleOf(a.Unit, v); in.suffix == "" {
		return number(v) + " " + a.Unit
	}
	return Figure(a.Unit, v)
}

// spelled has the names of ways for their keys.
func spelled(text string) string {
	list := strings.Split(text, " ")
	for i, word := range list {
		key := strings.TrimRight(word, ",:")
		if slices.ContainsFunc(ways, func(w struct{ key, name string }) bool { return w.key == key }) {
			list[i] = wayName(key) + word[len(key):]
		}
		if key == baseWay {
			list[i] = word
		}
	}
	return strings.Join(list, " ")
}

// measuredOn says in a line where and when a sheet was measured, and of what.
func measuredOn(s *sheet.Sheet) string {
	of := map[string]string{}
	for _, a := range s.About {
		of[a.Key] = a.Value
	}
	var list []string
	for _, f := range []struct{ key, form string }{
		{"cpu", "%s"}, {"cpus", "%s CPUs"}, {"memory", "%s"}, {"kernel", "Linux %s"}, {"commit", "commit %s"}, {"date", "%s"}, {"rounds", "%s rounds"},
	} {
		if v := of[f.key]; v != "" {
			list = append(list, fmt.Sprintf(f.form, v))
		}
	}
	if of["quick"] == "true" {
		list = append(list, "a quick run")
	}
	return strings.Join(list, ", ")
}
