package scale

import (
	"fmt"
	"strconv"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// straight is how far a figure may be from a straight line, or from a flat one, until it counts as a bend.
const straight = 1.5

// tell explains in words how the sizes of an axis compare: what grows in a straight line or not at all, and what
// bends.
func (a axis) tell(s *sheet.Sheet, worlds []*child) {
	if len(worlds) < 2 {
		return
	}
	first, last := worlds[0], worlds[len(worlds)-1]
	a.tellPackets(s, first, last)
	a.tellChanges(s, first, last)
	a.tellLoads(s, worlds)
	if last.plan.Scale > 1 {
		s.Note(Name, "%s %s do not fit into maps of default size: datapath.mapScale: %g makes room for them, as here.",
			grouped(last.plan.N), a.grow, last.plan.Scale)
	}
}

// tellPackets compares what a packet costs with most and with fewest.
func (a axis) tellPackets(s *sheet.Sheet, first, last *child) {
	for _, kind := range a.packets {
		many, few := a.name(last, "step", "packet", "kind", kind), a.name(first, "step", "packet", "kind", kind)
		ratio := ratio(s, many, few, "ns/op")
		if ratio <= straight {
			continue
		}
		switch kind {
		case "new_all_in_turn":
			s.Note(Name, "New flows to all %s %s in turn cost %.2f times as much as to all of %s: their entries are in no cache of the CPU. To the same one again and again they cost %s times.",
				grouped(last.plan.N), a.grow, ratio, grouped(first.plan.N), a.again(s, first, last))
		case "established":
			s.Note(Name, "An established packet costs %.2f times as much among %s %s as among %s.", ratio, grouped(last.plan.N), a.grow, grouped(first.plan.N)+a.coldFlows())
		default:
			s.Note(Name, "A packet %q costs %.2f times as much with %s %s as with %s.", kind, ratio, grouped(last.plan.N), a.grow, grouped(first.plan.N))
		}
	}
}

// coldFlows says why flows bend: here each packet is of another one.
func (a axis) coldFlows() string {
	if a.grow != "flows" {
		return ""
	}
	return ", each packet being of another flow: the entries of so many are in no cache of the CPU"
}

// again is the same ratio for what always goes to one service or container.
func (a axis) again(s *sheet.Sheet, first, last *child) string {
	for _, kind := range a.packets {
		if kind == "new_random" || kind == "new_local" {
			r := ratio(s, a.name(last, "step", "packet", "kind", kind), a.name(first, "step", "packet", "kind", kind), "ns/op")
			return strconv.FormatFloat(r, 'f', 2, 64)
		}
	}
	return "unknown"
}

// tellChanges compares what a change takes with most and with fewest.
func (a axis) tellChanges(s *sheet.Sheet, first, last *child) {
	for _, kind := range a.changes {
		many, few := a.name(last, "step", "change", "kind", kind), a.name(first, "step", "change", "kind", kind)
		slower, written := ratio(s, many, few, "p50-ns"), ratio(s, many, few, "writes/op")
		switch {
		case slower <= straight:
		case written > straight:
			s.Note(Name, "A change of kind %s takes %.0f times as long with %s %s as with %s, and writes %.0f times as many entries: all of the service's, into a fresh run.",
				kind, slower, grouped(last.plan.N), a.grow, grouped(first.plan.N), written)
		default:
			s.Note(Name, "A change of kind %s takes %.1f times as long with %s %s as with %s, at the median, and writes no more entries: what it looks up and what it frees is in no cache of the CPU.",
				kind, slower, grouped(last.plan.N), a.grow, grouped(first.plan.N))
		}
	}
}

// tellLoads looks for a size from which on each one more costs more than before.
func (a axis) tellLoads(s *sheet.Sheet, worlds []*child) {
	each := func(c *child) float64 {
		return s.Median(a.name(c, "step", "load"), "load-s").Center / float64(c.plan.N)
	}
	for i := 1; i < len(worlds); i++ {
		before, now := each(worlds[i-1]), each(worlds[i])
		if before > 0 && now/before > straight && worlds[i].plan.N > quickMost {
			s.Note(Name, "Loading %s %s takes %.1f us each, %.1f times as much as one of %s. The registry's catalog takes %s of it, the maps %s; "+
				"what all of them hold is a heap of %.0f MB.",
				grouped(worlds[i].plan.N), a.grow, now*1e6, now/before, grouped(worlds[i-1].plan.N),
				share(s, a.name(worlds[i], "step", "load"), "catalog-s"), share(s, a.name(worlds[i], "step", "load"), "sync-s"),
				s.Median(a.name(worlds[i], "step", "load"), "heap-B").Center/1e6)
		}
	}
}

// share is a figure's part of a load time.
func share(s *sheet.Sheet, c sheet.Case, unit string) string {
	return fmt.Sprintf("%.0f %%", 100*s.Median(c, unit).Center/s.Median(c, "load-s").Center)
}

// ratio is that of the medians; 0: one of them was not measured.
func ratio(s *sheet.Sheet, c, base sheet.Case, unit string) float64 {
	a, b := s.Median(c, unit), s.Median(base, unit)
	if a.Rounds == 0 || b.Rounds == 0 || b.Center <= 0 {
		return 0
	}
	return a.Center / b.Center
}

// grouped writes 10000 as 10 000.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}
