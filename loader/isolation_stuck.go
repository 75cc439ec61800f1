package loader

import (
	"slices"
)

// stuckPrefix is an address block that the maps give to another identity than they should.
type stuckPrefix struct {
	key       prefixKey
	got, want *identity
	err       error
}

// maxStuck is up to how many blocks that could not be written are looked at one by one before a block
// around them is. With more of them, no block is added.
const maxStuck = 64

// findStuck lists the blocks that could not be written, or will not be as they should for want of a
// number.
func (p *isolationPass) findStuck() {
	p.stuck = p.stuck[:0]
	for key, err := range p.dirtyPrefixes {
		if want := p.wantPrefix(key); err == nil && want != nil && want.number() == 0 {
			err = p.unnumbered[want]
		}
		if err != nil {
			p.stuck = append(p.stuck, stuckPrefix{key, p.lookupHeld(key), p.lookupWant(key), err})
		}
	}
}

// stuckFor returns why a side must be closed: it would judge some address by what holds for another. It
// must be told by which ruleset the side judges an identity.
func (p *isolationPass) stuckFor(side *side, judge func(*identity) *ruleset) error {
	for a := range side.owner.addrs {
		if err := p.dirtyAddrs[a]; err != nil && p.addresses[a] != side.owner {
			return err
		}
	}
	differ := map[[2]*identity]bool{}
	for _, s := range p.stuck {
		pair := [2]*identity{s.got, s.want}
		if _, known := differ[pair]; !known {
			differ[pair] = s.got != s.want &&
				(s.got == p.self || s.want == p.self || judge(s.got) != judge(s.want))
		}
		if differ[pair] {
			return s.err
		}
	}
	return nil
}

// failedAddr says whether what an address is to be could not be written.
func (p *isolationPass) failedAddr() bool {
	for _, err := range p.dirtyAddrs {
		if err != nil {
			return true
		}
	}
	return false
}

// closeStuck closes the sides that would judge addresses by what holds for others: what failed to be
// written says which. With foreseen, an entry is about to be written that is taken for written here.
func (p *isolationPass) closeStuck(foreseen bool) {
	p.findStuck()
	if len(p.stuck) == 0 && !p.failedAddr() || !p.synced {
		return // every side's way is free, and nobody looks at all of them for each container that comes
	}
	planned := map[*side]bool{}
	for _, plan := range slices.Clone(p.plans) {
		planned[plan.side] = true
		if plan.err == nil {
			err := p.stuckFor(plan.side, plan.target)
			if err == nil && foreseen { // it is not where it goes yet
				err = p.stuckFor(plan.side, plan.side.held)
			}
			if err != nil {
				p.fail(plan.side, err)
			}
		}
	}
	for i := range p.locals {
		for d := range i.sides {
			side := &i.sides[d]
			if side.owner == nil || planned[side] || side.any == p.rulesets.closed {
				continue
			}
			if err := p.stuckFor(side, side.held); err != nil {
				p.fail(side, err)
			}
		}
	}
	p.closeFailed()
}
