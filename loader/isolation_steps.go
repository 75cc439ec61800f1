package loader

// writeInSteps changes what is in use. Where both directions change, a flow between two containers
// changes at its two ends one after the other, and must not pass in between when it may neither before
// nor after; nor be dropped when it may both. That is so when everywhere, first, what is no longer
// allowed is denied, and what newly joins networks does where allowed; then what no longer joins does
// not; and what is newly allowed is last. Entries that would go both ways take these steps one by one,
// over rulesets of their own. No program sees more than one step while it judges a flow: each has a
// generation.
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
