package policy

import (
	"cmp"
	"maps"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

func (d *Delta) empty() bool {
	return len(d.New)+len(d.Rules)+len(d.Addresses)+len(d.Blocks)+len(d.Gone) == 0
}

// settle brings identities and rules up to date and tells what has changed.
func (e *Engine) settle() Delta {
	var delta Delta
	gone := e.update(&delta)
	e.tellRules(&delta)
	e.close(&delta, gone)
	return delta
}

// settleRules is settle when only rules can have changed.
func (e *Engine) settleRules() []Delta {
	var delta Delta
	gone := e.update(&delta)
	if opposed, joins := e.opposed(); opposed {
		return e.phases(joins)
	}
	e.tellRules(&delta)
	e.close(&delta, gone)
	return []Delta{delta}
}

// update works out all that has to be, and returns the identities that no address has any more. They are
// peers like others until then: while the Delta is being carried out some addresses have their old
// identity yet, and others the new one already.
func (e *Engine) update(delta *Delta) (gone []*identity) {
	touched := slices.SortedFunc(maps.Keys(e.touched), func(a, b *site) int { return a.prefix.Compare(b.prefix) })
	clear(e.touched)
	for _, s := range touched {
		e.reidentify(s, delta)
	}
	for w, sides := range e.dirty {
		for d := range sides {
			if sides[d].dirty {
				e.refresh(w, d, &sides[d])
			}
		}
	}
	clear(e.dirty)
	for q := range e.loose {
		if q.refs == 0 {
			gone = append(gone, q)
			e.forgetPeer(q)
		}
	}
	clear(e.loose)
	return gone
}

// close ends a Delta.
func (e *Engine) close(delta *Delta, gone []*identity) {
	clear(e.changes)
	for _, q := range e.fresh {
		delta.New = append(delta.New, q.Identity)
		q.fresh = false
		if q.workload != nil {
			q.workload.fresh = false
		}
	}
	e.fresh = e.fresh[:0]
	for _, q := range gone {
		delta.Gone = append(delta.Gone, q.ID)
		e.unlink(q)
	}
	slices.Sort(delta.Gone)
}

// forgetPeer takes the entries for an identity out of all rules.
func (e *Engine) forgetPeer(q *identity) {
	e.choosing(q, func(x *selector) {
		for p, in := range x.peerOf {
			for w := range p.subject.workloads {
				for d := range w.sides {
					if v := w.sides[d].set[q.ID]; v != nil && in.has(registry.Direction(d)) {
						delete(w.sides[d].set, q.ID)
						c := e.change(w, d)
						if c.gone == nil {
							c.gone = map[ID]*Verdicts{}
						}
						c.gone[q.ID] = v
					}
				}
			}
		}
	})
}

// choosing calls f for the selectors that choose a peer.
func (e *Engine) choosing(q *identity, f func(*selector)) {
	for x := range q.blocks {
		f(x)
	}
	if q.workload != nil {
		for x := range q.workload.selectors {
			f(x)
		}
	}
}

// tellRules adds the rules that have changed, and all of those of new identities.
func (e *Engine) tellRules(delta *Delta) {
	for _, q := range e.fresh {
		for d := range registry.Egress + 1 {
			if q.workload == nil || q.workload.sides[d].def == nil {
				continue
			}
			s := &q.workload.sides[d]
			r := Rules{Subject: q.ID, Direction: d, Default: s.def, DefaultChanged: true, Set: maps.Clone(s.set)}
			if c := e.changes[sideOf{q.workload, int(d)}]; c != nil && len(c.gone) > 0 {
				if r.Set == nil {
					r.Set = map[ID]*Verdicts{}
				}
				maps.Copy(r.Set, c.gone)
				r.Gone = slices.Sorted(maps.Keys(c.gone))
			}
			delta.Rules = append(delta.Rules, r)
		}
	}
	for side, c := range e.changes {
		slices.Sort(c.removed)
		gone := slices.Sorted(maps.Keys(c.gone))
		for _, q := range side.workload.identities {
			r := Rules{
				Subject: q.ID, Direction: registry.Direction(side.d), Default: side.workload.sides[side.d].def,
				DefaultChanged: c.def, Set: c.set, Removed: c.removed, Gone: gone,
			}
			if q.refs == 0 {
				r.Gone = nil // it goes itself
			}
			if !q.fresh && (c.def || len(r.Set)+len(r.Removed)+len(r.Gone) > 0) {
				delta.Rules = append(delta.Rules, r)
			}
		}
	}
	sortRules(delta.Rules)
}

func sortRules(list []Rules) {
	slices.SortFunc(list, func(a, b Rules) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Direction, b.Direction))
	})
}
