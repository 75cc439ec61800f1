package loader

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry/policy"
)

// isolationPass is one go at bringing the maps to what is desired.
type isolationPass struct {
	*isolation
	plans    []*sidePlan
	interned map[*policy.Verdicts]*ruleset
	holds    []*ruleset                // references until the end
	raised   map[netip.Addr]struct{}   // whose flows are to be decided anew
	moved    map[[2]*identity]struct{} // which identities addresses elsewhere moved from and to
	stuck    []stuckPrefix
	freed    bool // something went
}

// sidePlan is the way of one side from what the maps hold to what is desired.
type sidePlan struct {
	side  *side
	any   *ruleset
	cells map[*identity]*ruleset // nil: the entry goes
	pins  map[*identity]bool     // peers with an entry that goes at the end
	err   error                  // why the side is closed
	later bool                   // nobody has the side's identity yet, but its rules are not due before somebody has
}

// runPass makes the changes that are due, with again also those that failed before. It says whether more
// could be done now: something made room, or what others wait for was done.
func (s *isolation) runPass(again bool) (freed bool) {
	p := &isolationPass{
		isolation: s, interned: map[*policy.Verdicts]*ruleset{},
		raised: map[netip.Addr]struct{}{}, moved: map[[2]*identity]struct{}{},
	}
	entries, troubles := s.entries, s.troubles()
	p.number(again)
	fresh, later := p.moves(again)
	p.findStuck()
	p.plan(again)
	p.closeFailed()
	if s.inherited && len(fresh) > 0 {
		p.imitate(fresh, later)
	} else {
		p.pin(fresh)
	}
	s.inherited = false
	p.writeFresh()
	p.move(fresh)
	p.closeStuck(false)
	p.writeInSteps()
	p.move(later)
	p.closeStuck(false)
	for _, r := range p.holds {
		s.rulesets.release(r)
	}
	p.raise()
	reaped := s.reap(false)
	// What could not be dropped is tried again with the next pass.
	_ = s.rulesets.dropIdle(s.policies)
	return p.freed || reaped || s.entries < entries || s.troubles() < troubles
}

// number gives new identities their numbers. Whatever leads to one without is closed.
func (p *isolationPass) number(again bool) {
	for i, err := range p.unnumbered {
		if err != nil && !again {
			continue
		}
		if i.num, err = p.identities.get(i.info.Key, nil); err != nil {
			p.unnumbered[i] = err
			continue
		}
		delete(p.unnumbered, i)
		for d := range i.sides {
			i.sides[d].any, i.sides[d].all = nil, true
			p.touchSide(&i.sides[d])
		}
	}
}

// plan finds out where the sides that are due are to go, and takes rulesets for that.
func (p *isolationPass) plan(again bool) {
	due := p.dirtySides
	p.dirtySides = map[*side]struct{}{}
	if again {
		for side := range p.failedSides {
			due[side] = struct{}{}
		}
	}
	for _, side := range slices.SortedFunc(maps.Keys(due), compareSides) {
		switch o := side.owner; {
		case o.restored && !p.synced:
			p.dirtySides[side] = struct{}{}
		case o.leaves() && o.info.Key == "": // nothing but what a predecessor wanted is known of it
		case o.number() == 0: // it is planned when it has one
		default:
			p.plans = append(p.plans, p.planSide(side))
		}
	}
}

func (p *isolationPass) planSide(side *side) *sidePlan {
	plan := &sidePlan{side: side, cells: map[*identity]*ruleset{}}
	var err error
	if plan.any, err = p.intern(side.want); err != nil {
		return p.planClosed(side, err)
	}
	peers := maps.Keys(side.dirty)
	if side.all {
		peers = maps.Keys(side.cells)
	}
	for peer := range peers {
		c := side.cells[peer]
		if peer.leaves() && (c.want == nil && side.owner.used() || peer.number() == 0) {
			continue // its entry goes with it; but nobody is to come to rules that are not its own
		}
		var target *ruleset
		if c.want != nil {
			if peer.number() == 0 {
				return p.planClosed(side, fmt.Errorf("no number for %s: %w", peer, p.unnumbered[peer]))
			}
			if target, err = p.intern(c.want); err != nil {
				return p.planClosed(side, err)
			}
		}
		if target != c.held {
			plan.cells[peer] = target
		}
	}
	if err := p.stuckFor(side, plan.target); err != nil {
		return p.planClosed(side, err)
	}
	return plan
}

// planClosed returns the plan of a side that cannot be as desired: it is closed, and its entries make
// room for others.
func (p *isolationPass) planClosed(side *side, err error) *sidePlan {
	plan := &sidePlan{side: side, any: p.rulesets.closed, cells: map[*identity]*ruleset{}, err: err}
	for peer, c := range side.cells {
		if c.held != nil {
			plan.cells[peer] = nil
		}
	}
	return plan
}

// intern returns the ruleset of verdicts; it stays until the end of the pass.
func (p *isolationPass) intern(v *policy.Verdicts) (*ruleset, error) {
	if v == nil {
		return p.rulesets.open, nil
	}
	if r := p.interned[v]; r != nil {
		return r, nil
	}
	r, err := p.rulesets.internVerdicts(v)
	if err != nil {
		return nil, err
	}
	p.interned[v] = r
	p.holds = append(p.holds, r)
	return r, nil
}

// target returns the ruleset by which a peer is judged after the plan.
func (plan *sidePlan) target(peer *identity) *ruleset {
	if plan.any.special() {
		return plan.any
	}
	if r, planned := plan.cells[peer]; planned {
		if r != nil {
			return r
		}
		return plan.any
	}
	if c := plan.side.cells[peer]; c.held != nil {
		return c.held
	}
	return plan.any
}

// pin gives entries to peers that are judged as everyone else is, where that is about to change while
// addresses move: to those that go what holds now, to those that come what is to hold. An entry that is no
// longer needed goes with what it was for. That there is no room for one is no error: it matters for a
// moment only.
func (p *isolationPass) pin(fresh []move) {
	coming, going := map[*identity]bool{}, map[*identity]bool{}
	for _, m := range fresh {
		coming[m.want] = true
	}
	for _, i := range p.leaving {
		if i.used() {
			going[i] = true
		}
	}
	var pins []*sidePlan
	for _, plan := range p.plans {
		now := plan.side.any
		if plan.err != nil || !plan.side.owner.used() || now == plan.any || now == p.rulesets.closed {
			continue
		}
		pin := &sidePlan{side: plan.side, any: now, cells: map[*identity]*ruleset{}}
		plan.pins = map[*identity]bool{}
		for i := range going {
			if plan.side.cells[i].held == nil {
				pin.cells[i] = now
			}
		}
		for i := range coming {
			if plan.side.cells[i].held == nil && plan.cells[i] == nil {
				pin.cells[i], plan.cells[i] = plan.any, nil
				plan.pins[i] = true
			}
		}
		if len(pin.cells) > 0 && p.real(pin) == nil {
			pins = append(pins, pin)
		}
	}
	p.write(pins)
}

// writeFresh writes what nobody is judged by yet: the sides of identities that no address has, and
// entries for such peers.
func (p *isolationPass) writeFresh() {
	var whole, parts []*sidePlan
	for _, plan := range p.plans {
		if plan.later {
			continue
		}
		if !plan.side.owner.used() {
			whole = append(whole, plan)
			continue
		}
		part := &sidePlan{side: plan.side, any: plan.side.any, cells: map[*identity]*ruleset{}}
		for peer, r := range plan.cells {
			if !peer.used() && !plan.pins[peer] {
				part.cells[peer] = r
				delete(plan.cells, peer)
			}
		}
		if plan.err == nil && len(part.cells) > 0 {
			parts = append(parts, part)
		}
	}
	p.carryOut(whole)
	p.write(parts)
	p.plans = slices.DeleteFunc(p.plans, func(plan *sidePlan) bool {
		return !plan.side.owner.used() && !plan.later
	})
	for _, part := range parts {
		if part.err != nil {
			p.fail(part.side, part.err)
		}
	}
	p.closeFailed()
}

// fail turns what is left of a side's plan into closing it.
func (p *isolationPass) fail(side *side, err error) {
	closing := p.planClosed(side, err)
	for i, plan := range p.plans {
		if plan.side == side {
			p.plans[i] = closing
			return
		}
	}
	p.plans = append(p.plans, closing)
}

// carryOut brings sides to their plans, or closes them.
func (p *isolationPass) carryOut(plans []*sidePlan) {
	p.write(plans)
	for _, plan := range plans {
		s := plan.side
		s.all = plan.err != nil
		clear(s.dirty)
		if plan.err == nil {
			delete(p.failedSides, s)
			continue
		}
		p.failedSides[s] = plan.err
		// What was written of it before it failed is of no use.
		if closing := p.planClosed(s, plan.err); len(closing.cells) > 0 {
			p.write([]*sidePlan{closing})
		}
	}
}

// closeFailed closes the sides whose plans failed. That comes before anything that could open something.
func (p *isolationPass) closeFailed() {
	var failed []*sidePlan
	p.plans = slices.DeleteFunc(p.plans, func(plan *sidePlan) bool {
		if plan.err != nil {
			failed = append(failed, plan)
		}
		return plan.err != nil
	})
	p.carryOut(failed)
}
