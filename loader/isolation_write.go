package loader

import (
	"cmp"
	"errors"
	"slices"
)

// cellWrite is one entry of policy to write or delete.
type cellWrite struct {
	plan *sidePlan
	peer *identity
	to   *ruleset
}

func (w cellWrite) key() policyKey {
	s := w.plan.side
	return policyKey{Subject: s.owner.number(), Peer: w.peer.number(), Direction: s.direction}
}

// write brings sides to their plans: entries are written, then what holds for all others, then entries
// go. A side of which something fails is closed at once, and its plan has the error. No program judges a
// flow by what was before an earlier write and by this one.
func (p *isolationPass) write(plans []*sidePlan) {
	if len(plans) == 0 {
		return
	}
	var puts, deletes []cellWrite
	for _, plan := range plans {
		for peer, r := range plan.cells {
			switch held := plan.side.cells[peer].held; {
			case r == held:
			case r != nil:
				puts = append(puts, cellWrite{plan, peer, r})
			case held != nil:
				deletes = append(deletes, cellWrite{plan, peer, nil})
			}
		}
	}
	slices.SortFunc(puts, compareWrites)
	slices.SortFunc(deletes, compareWrites)
	p.tables.raiseGeneration()
	p.putCells(puts)
	for _, plan := range plans {
		if plan.err != nil {
			plan.any = p.rulesets.closed
		}
		p.storeAny(plan.side, plan.any)
	}
	p.deleteCells(deletes)
}

func compareWrites(a, b cellWrite) int {
	return cmp.Or(compareSides(a.plan.side, b.plan.side), cmp.Compare(a.peer.number(), b.peer.number()))
}

func (p *isolationPass) putCells(writes []cellWrite) {
	keys, values := make([]policyKey, len(writes)), make([]policyEntry, len(writes))
	for i, w := range writes {
		keys[i], values[i] = w.key(), policyEntry{Ruleset: w.to.id}
	}
	for i := 0; i < len(writes); {
		n, err := p.tables.putPolicies(keys[i:], values[i:])
		for ; n > 0; n-- {
			p.setHeld(writes[i].plan.side, writes[i].peer, writes[i].to)
			i++
		}
		if err != nil && i < len(writes) {
			writes[i].plan.err = errors.Join(writes[i].plan.err, err)
			i++
		}
	}
}

func (p *isolationPass) deleteCells(writes []cellWrite) {
	keys := make([]policyKey, len(writes))
	for i, w := range writes {
		keys[i] = w.key()
	}
	for i := 0; i < len(writes); {
		n, err := p.tables.deletePolicies(keys[i:])
		for ; n > 0; n-- {
			p.setHeld(writes[i].plan.side, writes[i].peer, nil)
			i++
		}
		if err != nil && i < len(writes) {
			plan := writes[i].plan
			plan.err = errors.Join(plan.err, err)
			p.storeAny(plan.side, p.rulesets.closed)
			i++
		}
	}
}

// setHeld notes what the maps hold of a cell now.
func (p *isolationPass) setHeld(side *side, peer *identity, r *ruleset) {
	p.hold(side, peer, r)
	if peer.used() {
		p.raiseOwner(side)
	}
}

// raiseOwner notes that whoever has the side's identity is judged by other rules now.
func (p *isolationPass) raiseOwner(side *side) {
	for a := range side.owner.addrs {
		p.raised[a] = struct{}{}
	}
}

// hold notes what a cell's entry leads to.
func (s *isolation) hold(side *side, peer *identity, r *ruleset) {
	c := side.cells[peer]
	old := c.held
	c.held = r
	side.set(peer, c)
	switch {
	case r == nil && old != nil:
		s.entries--
	case r != nil && old == nil:
		s.entries++
	}
	if r != nil {
		r.refs++
	}
	s.rulesets.release(old)
}

// storeAny switches what holds for peers without an entry.
func (p *isolationPass) storeAny(side *side, r *ruleset) {
	if r == nil || r == side.any {
		return
	}
	p.tables.setSubject(side.owner.number(), side.direction, r.id)
	p.holdAny(side, r)
	p.raiseOwner(side)
}

func (s *isolation) holdAny(side *side, r *ruleset) {
	old := side.any
	side.any = r
	r.refs++
	s.rulesets.release(old)
}
