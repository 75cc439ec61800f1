package policy

import (
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// side is what holds for a workload in one direction.
type side struct {
	policies []*policy // that concern it, in the order in which they are asked
	closers  [2]registry.PolicyID
	def      *Verdicts // Rules.Default
	set      map[ID]*Verdicts
}

func (s *side) add(p *policy) {
	i, _ := slices.BinarySearchFunc(s.policies, p, (*policy).order)
	s.policies = slices.Insert(s.policies, i, p)
}

func (s *side) remove(p *policy) {
	s.policies = slices.DeleteFunc(s.policies, func(o *policy) bool { return o == p })
}

// pairwise reports whether the labels of the subject's namespace choose its peers.
func (s *side) pairwise() bool {
	for _, p := range s.policies {
		for d := range p.sides {
			if slices.ContainsFunc(p.sides[d].peers, (*selector).pairwise) {
				return true
			}
		}
	}
	return false
}

// dirtySide names the verdicts of a side that have to be worked out again.
type dirtySide struct {
	dirty     bool
	full      bool // all of them
	policies  bool // the policies are other ones: it may be about more than is named here
	selectors map[*selector]struct{}
	peers     map[*identity]struct{}
}

func (s *dirtySide) addPeer(q *identity) {
	s.dirty = true
	if !s.full {
		put(&s.peers, q)
	}
}

func (e *Engine) dirtySide(w *workload, d int) *dirtySide {
	sides := e.dirty[w]
	if sides == nil {
		sides = new([2]dirtySide)
		e.dirty[w] = sides
	}
	s := &sides[d]
	s.dirty = true
	if w.sides[d].def == nil {
		s.full = true // there is nothing yet to be kept
	}
	return s
}

// change collects the Rules of one side for a Delta.
type change struct {
	def     bool // it is another one than oldDef
	oldDef  *Verdicts
	set     map[ID]*Verdicts
	removed []ID
	old     map[ID]*Verdicts // the entries that were set or removed, as before; nil: there was none
	gone    map[ID]*Verdicts // Rules.Gone, with the verdicts for those who have to learn them first
}

func (c *change) note(id ID, old *Verdicts) {
	if c.old == nil {
		c.old = map[ID]*Verdicts{}
	}
	c.old[id] = old
}

// sideOf names a side.
type sideOf struct {
	workload *workload
	d        int
}

func (e *Engine) change(w *workload, d int) *change {
	k := sideOf{w, d}
	c := e.changes[k]
	if c == nil {
		c = &change{}
		e.changes[k] = c
	}
	return c
}

// refresh works out the verdicts of a side again, as far as they are dirty or depend on what is the same
// for all peers and is no longer what it was.
func (e *Engine) refresh(w *workload, d int, dirty *dirtySide) {
	s := &w.sides[d]
	c := &e.calc
	c.start(e, w, d)
	full := dirty.full
	if full || dirty.policies {
		def, closers := c.common()
		full = full || def != s.def || closers != s.closers
		if def != s.def {
			c := e.change(w, d)
			c.def, c.oldDef = true, s.def
		}
		s.def, s.closers = def, closers
	}
	if full {
		c.enumerate(c.meet)
	} else {
		for x := range dirty.selectors {
			x.each(c.meet)
		}
		for q := range dirty.peers {
			c.meet(q)
		}
		c.classifyMet()
	}
	for _, q := range c.met {
		e.setEntry(w, d, q)
	}
	if !full {
		return
	}
	for id := range s.set {
		if e.byID[id].mark != c.mark {
			e.removeEntry(w, d, id)
		}
	}
}

// setEntry sets the verdicts for a peer that the calculation has classified.
func (e *Engine) setEntry(w *workload, d int, q *identity) {
	s := &w.sides[d]
	old := s.set[q.ID]
	var v *Verdicts
	if s.def != nil {
		v = e.calc.verdicts(q.step, q)
	}
	if v == s.def {
		if old != nil {
			e.removeEntry(w, d, q.ID)
		}
		return
	}
	if v == old {
		return
	}
	if s.set == nil {
		s.set = map[ID]*Verdicts{}
	}
	s.set[q.ID] = v
	if w.fresh {
		return // all of it will be told
	}
	c := e.change(w, d)
	if c.set == nil {
		c.set = map[ID]*Verdicts{}
	}
	c.set[q.ID] = v
	c.note(q.ID, old)
}

func (e *Engine) removeEntry(w *workload, d int, id ID) {
	s := &w.sides[d]
	c := e.change(w, d)
	c.removed = append(c.removed, id)
	c.note(id, s.set[id])
	delete(s.set, id)
}
