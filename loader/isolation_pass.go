package loader

import (
	"cmp"
	"errors"
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
	p.pin(fresh)
	p.writeFresh()
	p.move(fresh)
	p.closeStuck()
	p.writeInSteps()
	p.move(later)
	p.closeStuck()
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
		if peer.leaves() && (c.want == nil || peer.number() == 0) {
			continue // its entry goes with it
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
	p.plans = slices.DeleteFunc(p.plans, func(plan *sidePlan) bool { return !plan.side.owner.used() })
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

// writeInSteps changes what is in use. Where both directions change, a flow between two containers
// changes at its two ends one after the other, and must not pass in between when it may neither before
// nor after; nor be dropped when it may both. That is so when everywhere, first, what is no longer
// allowed is denied, and what newly joins networks does where allowed; then what no longer joins does
// not; and what is newly allowed is last. Entries that would go both ways take these steps one by one,
// over rulesets of their own.
func (p *isolationPass) writeInSteps() {
	plans := p.plans
	p.plans = nil
	directions := map[uint32]bool{}
	for _, plan := range plans {
		directions[plan.side.direction] = true
	}
	if len(directions) > 1 {
		p.takeSteps(plans)
	}
	p.carryOut(plans)
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

// takeSteps goes all steps but the last.
func (p *isolationPass) takeSteps(plans []*sidePlan) {
	starts := map[*sidePlan]*sidePlan{}
	for _, plan := range plans {
		starts[plan] = p.start(plan)
	}
	for s := phaseDeny; s < phaseFinish; s++ {
		var now []*sidePlan
		for _, plan := range plans {
			if mid := p.halfway(plan, starts[plan], s); mid != nil {
				now = append(now, mid)
			}
		}
		p.write(now)
		for _, mid := range now {
			if mid.err != nil {
				// Closed until the last step, which opens it again.
				p.write([]*sidePlan{{side: mid.side, any: p.rulesets.closed}})
			}
		}
	}
}

// start returns what the maps hold of what a plan changes.
func (p *isolationPass) start(plan *sidePlan) *sidePlan {
	start := &sidePlan{side: plan.side, any: plan.side.any, cells: map[*identity]*ruleset{}}
	for peer := range plan.cells {
		start.cells[peer] = plan.side.held(peer)
	}
	return start
}

// halfway returns the plan that takes a side to one step of its way; nil: it is there.
func (p *isolationPass) halfway(plan, start *sidePlan, s phase) *sidePlan {
	if start.any == nil || start.any == p.rulesets.closed || plan.side.any == p.rulesets.closed {
		return nil // from closed to anything is the last step
	}
	mid := &sidePlan{side: plan.side, cells: map[*identity]*ruleset{}}
	same := true
	var err error
	between := func(from, to *ruleset) *ruleset {
		if err != nil || from == to {
			return to
		}
		c := combine(from.content, to.content, s.between)
		switch {
		case c.equal(from.content):
			return from
		case c.equal(to.content):
			same = false
			return to
		}
		same = false
		var r *ruleset
		if r, err = p.rulesets.intern(c); err == nil {
			p.holds = append(p.holds, r)
		}
		return r
	}
	mid.any = between(start.any, plan.any)
	for peer := range plan.cells {
		mid.cells[peer] = between(start.cells[peer], plan.target(peer))
	}
	if err != nil {
		return &sidePlan{side: plan.side, any: p.rulesets.closed}
	}
	if same || p.unchanged(mid) {
		return nil
	}
	if mid.any == p.rulesets.open { // beside which no entry counts
		mid.any, err = p.entry(mid.any)
	}
	if err != nil || p.real(mid) != nil {
		return &sidePlan{side: plan.side, any: p.rulesets.closed}
	}
	return mid
}

// unchanged says whether the maps hold what a plan wants.
func (p *isolationPass) unchanged(plan *sidePlan) bool {
	if plan.any != plan.side.any {
		return false
	}
	for peer, r := range plan.cells {
		if plan.side.held(peer) != r {
			return false
		}
	}
	return true
}

// real makes what is special of a plan's cells into rulesets that entries can lead to.
func (p *isolationPass) real(plan *sidePlan) (err error) {
	for peer, r := range plan.cells {
		if plan.cells[peer], err = p.entry(r); err != nil {
			return err
		}
	}
	return nil
}

// entry returns a ruleset that says what another one says, and is not special.
func (p *isolationPass) entry(r *ruleset) (*ruleset, error) {
	if r == nil || !r.special() {
		return r, nil
	}
	entry, err := p.rulesets.intern(r.content)
	if err == nil {
		p.holds = append(p.holds, entry)
	}
	return entry, err
}

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
// go. A side of which something fails is closed at once, and its plan has the error.
func (p *isolationPass) write(plans []*sidePlan) {
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
