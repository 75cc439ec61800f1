package loader

import "maps"

// imitation is how the pass after the first snapshot keeps to what a predecessor left while addresses
// move. The compiler does not know the identities that a predecessor used, so that no rules are for pairs
// of an old and a new one, which are met while one of two containers has moved and the other has not.
//
// So a new identity's rules are at first those of the identities that its addresses come from, and every
// side judges it as it judges these. Then it makes no difference which of the addresses have moved. When
// all have, the rules change in steps as those of identities in use do.
type imitation struct {
	*isolationPass
	from  map[*identity][]*identity // which identities those move from who come to a new one
	local map[*identity]bool        // new identities of containers here
	going map[*identity]bool        // identities that addresses leave after the rules changed
}

// imitate prepares the moves to new identities. A side for which there is no room is left to writeFresh:
// it matters for a moment only.
func (p *isolationPass) imitate(fresh, later []move) {
	m := &imitation{p, map[*identity][]*identity{}, map[*identity]bool{}, map[*identity]bool{}}
	for _, f := range fresh {
		m.from[f.want] = appendNew(m.from[f.want], m.heldBy(f))
		m.local[f.want] = m.local[f.want] || f.addr.IsValid()
	}
	for _, l := range later {
		m.going[m.heldBy(l)] = true
	}
	likes := map[*sidePlan]*sidePlan{}
	var writes []*sidePlan
	for _, plan := range p.plans {
		if m.local[plan.side.owner] {
			if like := m.like(plan); like != nil {
				likes[plan] = like
				writes = append(writes, like)
			}
		}
	}
	for i := range p.locals {
		for d := range i.sides {
			if pin := m.pinned(&i.sides[d]); pin != nil {
				writes = append(writes, pin)
			}
		}
	}
	p.write(writes)
	for _, plan := range p.plans {
		if like := likes[plan]; like != nil && like.err != nil {
			p.write([]*sidePlan{p.planClosed(plan.side, like.err)})
		} else if like != nil {
			plan.later = true
		}
		if likes[plan] != nil || plan.side.owner.used() {
			m.replan(plan)
		}
	}
}

func appendNew(list []*identity, i *identity) []*identity {
	for _, old := range list {
		if old == i {
			return list
		}
	}
	return append(list, i)
}

// heldBy returns the identity that a move is from.
func (m *imitation) heldBy(v move) *identity {
	if !v.addr.IsValid() {
		return m.lookupHeld(v.key)
	}
	if w := m.wired[v.addr]; w != nil && w.identity != nil {
		return w.identity
	}
	return m.world
}

// froms returns whose place an identity takes; its own if it is not new.
func (m *imitation) froms(i *identity) []*identity {
	if from := m.from[i]; len(from) > 0 {
		return from
	}
	return []*identity{i}
}

// held returns by which ruleset one identity judges another.
func (m *imitation) held(owner *identity, direction uint32, peer *identity) *ruleset {
	switch {
	case owner == m.closed:
		return m.rulesets.closed
	case owner.fixed != 0 || owner.number() == 0 || peer == m.self:
		return m.rulesets.open // these have no rules, or are from a time before there were any
	}
	if r := owner.sides[direction].held(peer); r != nil {
		return r
	}
	return m.rulesets.closed
}

// strictest returns the ruleset that allows what owners allow to all of some peers.
func (m *imitation) strictest(owners []*identity, direction uint32, peers []*identity) (*ruleset, error) {
	var out *ruleset
	for _, owner := range owners {
		for _, peer := range peers {
			r := m.held(owner, direction, peer)
			if out == nil || out == r {
				out = r
				continue
			}
			both, err := m.rulesets.intern(combine(out.content, r.content, stricter))
			if err != nil {
				return nil, err
			}
			m.holds = append(m.holds, both)
			out = both
		}
	}
	return out, nil
}

// stricter returns what two outcomes both allow.
func stricter(a, b outcome) outcome {
	if a.Flags&outcomeAllow == 0 {
		return a
	}
	if b.Flags&outcomeAllow == 0 {
		return b
	}
	a.Flags &^= outcomeJoin &^ b.Flags
	return a
}

// like returns the plan by which a new identity's side says what those say whose place it takes; nil:
// there is no room for that.
func (m *imitation) like(plan *sidePlan) *sidePlan {
	side, owners := plan.side, m.from[plan.side.owner]
	nobody := &identity{} // whom no entry is for
	everyone, err := m.strictest(owners, side.direction, []*identity{nobody})
	if err != nil {
		return nil
	}
	like := &sidePlan{side: side, any: everyone, cells: map[*identity]*ruleset{}}
	for peer := range side.cells {
		like.cells[peer] = nil
	}
	if everyone.special() {
		return like
	}
	peers := maps.Clone(m.going)
	for _, owner := range owners {
		if owner.fixed == 0 {
			for peer := range owner.sides[side.direction].cells {
				peers[peer] = true
			}
		}
	}
	for peer := range m.from {
		peers[peer] = true
	}
	for peer := range peers {
		r, err := m.strictest(owners, side.direction, m.froms(peer))
		if err != nil {
			return nil
		}
		if r != everyone || m.going[peer] {
			like.cells[peer] = r
		}
	}
	if m.real(like) != nil {
		return nil
	}
	return like
}

// pinned returns the plan by which the side of an identity in use judges new ones as it judges those
// whose place they take, and goes on to judge as it does those who leave later; nil: it does.
func (m *imitation) pinned(side *side) *sidePlan {
	if side.owner == nil || side.any == nil || side.any.special() {
		return nil
	}
	pin := &sidePlan{side: side, any: side.any, cells: map[*identity]*ruleset{}}
	for peer := range m.from {
		r, err := m.strictest([]*identity{side.owner}, side.direction, m.froms(peer))
		if err == nil && r != side.held(peer) {
			pin.cells[peer] = r
		}
	}
	for peer := range m.going {
		if side.cells[peer].held == nil && peer.leaves() {
			pin.cells[peer] = side.any
		}
	}
	if len(pin.cells) == 0 || m.real(pin) != nil {
		return nil
	}
	return pin
}

// replan makes a plan one from what the maps hold now.
func (m *imitation) replan(plan *sidePlan) {
	if plan.err != nil {
		return
	}
	if plan.later || plan.side.owner.used() {
		// Who is new is judged as before until all have moved.
		plan.pins = map[*identity]bool{}
		for peer := range m.from {
			plan.pins[peer] = true
		}
	}
	for peer, c := range plan.side.cells {
		target := m.interned[c.want]
		if target == c.held || target == nil && peer.leaves() { // its entry goes with it
			delete(plan.cells, peer)
		} else {
			plan.cells[peer] = target
		}
	}
}
