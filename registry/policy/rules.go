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
	var def *Verdicts
	if len(s.policies) > 0 {
		def = c.verdicts(0, nil)
	}
	var closers [2]registry.PolicyID
	for i, p := range c.hits.closers {
		if p != nil {
			closers[i] = p.PolicyID
		}
	}
	full := dirty.full || def != s.def || closers != s.closers
	if def != s.def {
		c := e.change(w, d)
		c.def, c.oldDef = true, s.def
	}
	s.def, s.closers = def, closers
	if !full {
		for x := range dirty.selectors {
			x.each(c.meet)
		}
		for q := range dirty.peers {
			c.meet(q)
		}
		for _, q := range c.met {
			q.step = c.classify(q)
			e.setEntry(w, d, q)
		}
		return
	}
	c.enumerate()
	for _, q := range c.met {
		e.setEntry(w, d, q)
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

// calculation works out the verdicts of one side. Peers that the same rules match are alike: they are
// found in one walk over what the rules choose, and judged once. Its storage is used again.
type calculation struct {
	subject *workload
	d       int
	rules   []hit // of all policies, with the ports resolved that the subject resolves
	named   bool  // a rule names ports that its peers resolve
	hits    hits
	matches []match // by rule: what the peer at hand is to it
	steps   []step
	next    map[step]int
	done    map[class]*Verdicts
	met     []*identity
	mark    uint64 // of identities that are in met
	table   *verdictTable
}

// step leads to the set of rules that match a peer: one rule more than its parent. The first one
// is the empty set.
type step struct {
	parent, rule int
	joins        bool
}

// class is what peers are alike in: the rules that match them, and the ports that they name.
type class struct {
	step  int
	ports string
}

type match struct{ is, joins bool }

func (c *calculation) start(e *Engine, w *workload, d int) {
	c.subject, c.d, c.table = w, d, &e.verdicts
	c.rules, c.steps, c.met = c.rules[:0], append(c.steps[:0], step{rule: -1}), c.met[:0]
	clear(c.next)
	clear(c.done)
	c.mark++
	c.named = false
	c.hits.closers, c.hits.audited = [2]*policy{}, false
	for _, p := range w.sides[d].policies {
		c.addPolicy(p)
	}
	c.matches = append(c.matches[:0], make([]match, len(c.rules))...)
}

func (c *calculation) addPolicy(p *policy) {
	if p.Tier == registry.TierNamespaced {
		if c.hits.closers[all] == nil {
			c.hits.closers[all] = p
		}
		if c.hits.closers[enforced] == nil && !p.Audit {
			c.hits.closers[enforced] = p
		}
	}
	c.hits.audited = c.hits.audited || p.Audit
	for i := range p.sides[c.d].rules {
		r := &p.sides[c.d].rules[i]
		h := hit{policy: p, rule: r, index: i}
		if !r.ports.all {
			h.ports = &r.ports.numbers
			if c.d == int(registry.Ingress) {
				h.ports = r.ports.resolve(c.subject.Ports)
			} else {
				c.named = c.named || len(r.ports.named) > 0
			}
		}
		c.rules = append(c.rules, h)
	}
}

// meet puts a peer on the list, as one that no rule matches, unless it is there.
func (c *calculation) meet(q *identity) {
	if q.mark != c.mark {
		q.mark, q.step = c.mark, 0
		c.met = append(c.met, q)
	}
}

// enumerate meets and classifies all peers that may have verdicts of their own.
func (c *calculation) enumerate() {
	for i := range c.rules {
		r := c.rules[i].rule
		for _, p := range r.peers {
			p.each(func(q *identity) {
				if p.holds(c.subject, q) {
					c.meet(q)
					c.advance(q, i, p.joins)
				}
			})
		}
		for _, x := range r.receivers {
			x.each(c.meet)
		}
	}
}

// advance notes that a rule matches a peer, by another of the rule's peers perhaps than one before.
func (c *calculation) advance(q *identity, rule int, joins bool) {
	at := c.steps[q.step]
	if at.rule != rule {
		q.step = c.child(step{q.step, rule, joins})
	} else if joins && !at.joins {
		q.step = c.child(step{at.parent, rule, true})
	}
}

func (c *calculation) child(n step) int {
	if last := len(c.steps) - 1; c.steps[last] == n {
		return last
	}
	i, ok := c.next[n]
	if !ok {
		i = len(c.steps)
		c.steps = append(c.steps, n)
		c.next[n] = i
	}
	return i
}

// classify returns the step to the rules that match a peer.
func (c *calculation) classify(q *identity) int {
	at := 0
	for i := range c.rules {
		var m match
		for _, p := range c.rules[i].rule.peers {
			if p.chooses(q) && p.holds(c.subject, q) {
				m.is, m.joins = true, m.joins || p.joins
			}
		}
		if m.is {
			at = c.child(step{at, i, m.joins})
		}
	}
	return at
}

// verdicts judges a peer, nil for whoever no rule chooses, that the rules of a node match.
func (c *calculation) verdicts(at int, q *identity) *Verdicts {
	k := class{step: at}
	var ports []registry.EndpointPort
	if c.named && q != nil && q.workload != nil {
		k.ports, ports = q.workload.portsKey, q.workload.Ports
	}
	if v := c.done[k]; v != nil {
		return v
	}
	c.collect(at, ports)
	v := c.table.intern(c.hits.verdicts())
	c.done[k] = v
	return v
}

// collect lists the rules of a step, and those about everyone, in the order in which they are asked.
// ports are the peer's.
func (c *calculation) collect(at int, ports []registry.EndpointPort) {
	clear(c.matches)
	for ; at != 0; at = c.steps[at].parent {
		c.matches[c.steps[at].rule] = match{true, c.steps[at].joins}
	}
	c.hits.rules = c.hits.rules[:0]
	for i, h := range c.rules {
		if !c.matches[i].is && !h.rule.everyone {
			continue
		}
		h.joins = c.matches[i].joins
		if c.d == int(registry.Egress) && h.ports != nil {
			h.ports = h.rule.ports.resolve(ports)
		}
		c.hits.rules = append(c.hits.rules, h)
	}
}
