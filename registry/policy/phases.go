package policy

import (
	"maps"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// A flow is judged on two sides, which cannot change at once. Where before
//
//	egress of A: deny    ingress of B: allow
//
// and after
//
//	egress of A: allow   ingress of B: deny
//
// the flow must pass at no time. So what is denied on a side after is denied first, and what is denied
// before is allowed last. Joins are the other way round, one side's is enough: the
// new ones come before the old ones go, and both while only that is allowed which always is.
type phase int

const (
	stricter phase = iota // allowed is what was and will be; joined is what was
	joining               // joined is what was or will be
	joined                // joined is what will be
	final
	phases
)

// blend returns what an outcome is to be in a phase.
func (p phase) blend(before, after Outcome) Outcome {
	switch {
	case p == final || !after.Allow:
		return after
	case !before.Allow:
		return before
	case p == stricter:
		after.Join = before.Join
	case p == joining:
		after.Join = after.Join || before.Join
	}
	return after
}

// trend tells how verdicts differ from others.
type trend struct{ stricter, laxer, joins bool }

func (t *trend) add(before, after Outcome) {
	gained, lost := after.Join && !before.Join, before.Join && !after.Join
	if before.Allow && after.Allow {
		t.joins = t.joins || gained || lost
		t.laxer, t.stricter = t.laxer || gained, t.stricter || lost
		return
	}
	t.laxer = t.laxer || after.Allow
	t.stricter = t.stricter || before.Allow
}

// openVerdicts are those that a Default of nil stands for.
func openVerdicts() *Verdicts {
	o := Outcome{Allow: true}
	spans := []Span{{65535, o}}
	return &Verdicts{TCP: spans, UDP: spans, SCTP: spans, Other: o}
}

// blender combines verdicts, equal ones once.
type blender struct {
	table  *verdictTable
	open   *Verdicts
	done   map[[2]*Verdicts]*[phases]*Verdicts
	trends map[[2]*Verdicts]trend
}

func (e *Engine) blender() *blender {
	return &blender{
		table: &e.verdicts, open: openVerdicts(),
		done: map[[2]*Verdicts]*[phases]*Verdicts{}, trends: map[[2]*Verdicts]trend{},
	}
}

// trend compares verdicts; nil are open ones.
func (b *blender) trend(before, after *Verdicts) trend {
	k := [2]*Verdicts{before, after}
	t, ok := b.trends[k]
	if !ok {
		zip(b.or(before), b.or(after), func(x, y Outcome) Outcome {
			t.add(x, y)
			return x
		})
		b.trends[k] = t
	}
	return t
}

// blend returns what verdicts are to be in a phase; nil are open ones.
func (b *blender) blend(p phase, before, after *Verdicts) *Verdicts {
	if p == final || before == after {
		return after
	}
	k := [2]*Verdicts{before, after}
	done := b.done[k]
	if done == nil {
		done = new([phases]*Verdicts)
		b.done[k] = done
	}
	if done[p] == nil {
		done[p] = b.table.intern(zip(b.or(before), b.or(after), p.blend))
	}
	return done[p]
}

func (b *blender) or(v *Verdicts) *Verdicts {
	if v == nil {
		return b.open
	}
	return v
}

// zip combines verdicts port by port.
func zip(a, b *Verdicts, f func(x, y Outcome) Outcome) Verdicts {
	return Verdicts{
		TCP: zipSpans(a.TCP, b.TCP, f), UDP: zipSpans(a.UDP, b.UDP, f), SCTP: zipSpans(a.SCTP, b.SCTP, f),
		Other: f(a.Other, b.Other),
	}
}

func zipSpans(a, b []Span, f func(x, y Outcome) Outcome) []Span {
	var spans []Span
	for len(a) > 0 && len(b) > 0 {
		last := min(a[0].Last, b[0].Last)
		o := f(a[0].Outcome, b[0].Outcome)
		if n := len(spans); n > 0 && spans[n-1].Outcome == o {
			spans[n-1].Last = last
		} else {
			spans = append(spans, Span{last, o})
		}
		if a[0].Last == last {
			a = a[1:]
		}
		if len(b) > 0 && b[0].Last == last {
			b = b[1:]
		}
	}
	return spans
}

// moves calls f for all verdicts of a side that are others than before.
func (c *change) moves(s *side, f func(id ID, before, after *Verdicts)) {
	or := func(v, def *Verdicts) *Verdicts {
		if v == nil {
			return def
		}
		return v
	}
	oldDef := s.def
	if c.def {
		oldDef = c.oldDef
		f(None, oldDef, s.def)
	}
	for id, old := range c.old {
		f(id, or(old, oldDef), or(s.set[id], s.def))
	}
	for id, v := range s.set {
		if _, ok := c.old[id]; !ok && c.def {
			f(id, v, v)
		}
	}
}

// opposed reports whether one direction becomes stricter anywhere and the other one laxer, and whether
// joins change besides.
func (e *Engine) opposed() (opposed, joins bool) {
	if len(e.changes) < 2 {
		return false, false
	}
	b := e.blender()
	var trends [2]trend
	for at, c := range e.changes {
		c.moves(&at.workload.sides[at.d], func(_ ID, before, after *Verdicts) {
			t, sum := b.trend(before, after), &trends[at.d]
			sum.stricter = sum.stricter || t.stricter
			sum.laxer = sum.laxer || t.laxer
			sum.joins = sum.joins || t.joins
		})
	}
	in, out := trends[registry.Ingress], trends[registry.Egress]
	return in.stricter && out.laxer || in.laxer && out.stricter, in.joins || out.joins
}

// phases tells the changes of rules in as many Deltas as it takes.
func (e *Engine) phases(joins bool) []Delta {
	b := e.blender()
	var deltas [phases]Delta
	for at, c := range e.changes {
		s := &at.workload.sides[at.d]
		state := c.before(s)
		for p := range phases {
			if !joins && (p == joining || p == joined) {
				continue
			}
			next := c.during(s, p, b)
			r := state.rules(next)
			state = next
			r.Direction = registry.Direction(at.d)
			for _, q := range at.workload.identities {
				if r.Subject = q.ID; r.DefaultChanged || len(r.Set)+len(r.Removed) > 0 {
					deltas[p].Rules = append(deltas[p].Rules, r)
				}
			}
		}
	}
	clear(e.changes)
	for i := range deltas {
		sortRules(deltas[i].Rules)
	}
	return deltas[:]
}

// state is what holds on a side at some time.
type state struct {
	def *Verdicts
	set map[ID]*Verdicts
}

// before returns what held before a change.
func (c *change) before(s *side) state {
	old := state{s.def, maps.Clone(s.set)}
	if c.def {
		old.def = c.oldDef
	}
	for id, v := range c.old {
		if v == nil {
			delete(old.set, id)
			continue
		}
		if old.set == nil {
			old.set = map[ID]*Verdicts{}
		}
		old.set[id] = v
	}
	return old
}

// during returns what is to hold in a phase of a change.
func (c *change) during(s *side, p phase, b *blender) state {
	now := state{s.def, maps.Clone(s.set)}
	if c.def {
		now.def = b.blend(p, c.oldDef, s.def)
	}
	if now.set == nil {
		now.set = map[ID]*Verdicts{}
	}
	c.moves(s, func(id ID, before, after *Verdicts) {
		if v := b.blend(p, before, after); id != None && v != now.def {
			now.set[id] = v
		} else {
			delete(now.set, id)
		}
	})
	return now
}

// rules returns what makes the next state out of one.
func (s state) rules(next state) Rules {
	r := Rules{Default: next.def, DefaultChanged: next.def != s.def}
	for id, v := range next.set {
		if s.set[id] != v {
			if r.Set == nil {
				r.Set = map[ID]*Verdicts{}
			}
			r.Set[id] = v
		}
	}
	for id := range s.set {
		if next.set[id] == nil {
			r.Removed = append(r.Removed, id)
		}
	}
	slices.Sort(r.Removed)
	return r
}
