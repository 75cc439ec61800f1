package loader

import (
	"net/netip"
	"slices"
)

// raise makes every flow be decided anew that is judged by other rules or identities now.
func (p *isolationPass) raise() {
	if p.raiseAll {
		for a := range p.wired {
			p.raised[a] = struct{}{}
		}
		p.raiseAll = false
	}
	for pair := range p.moved {
		for i := range p.locals {
			if !i.fixedRules() && (i.sides[0].apart(p.self, pair) || i.sides[1].apart(p.self, pair)) {
				p.raiseOwner(&i.sides[0])
			}
		}
	}
	if len(p.raised) == 0 {
		return
	}
	addrs := make([]netip.Addr, 0, len(p.raised))
	for a := range p.raised {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	p.tables.raise(addrs)
}

// fixedRules says whether the identity has no sides.
func (i *identity) fixedRules() bool { return i.fixed != 0 }

// apart says whether the side judges two identities by different rulesets.
func (s *side) apart(node *identity, pair [2]*identity) bool {
	if s.any != nil && s.any.id == rulesetOpen || pair[0] == pair[1] {
		return false
	}
	return pair[0] == node || pair[1] == node || s.held(pair[0]) != s.held(pair[1])
}

// reap removes the identities that went, when nothing leads to them and no program can still be about to
// judge by them.
func (s *isolation) reap(now bool) (reaped bool) {
	s.reapErr = nil
	var stay []*identity
	for _, i := range s.leaving {
		if i.used() || !now && s.now().Sub(i.since) < s.grace {
			stay = append(stay, i)
			continue
		}
		if err := s.remove(i); err != nil {
			s.reapErr = err
			stay = append(stay, i)
			continue
		}
		reaped = true
	}
	s.leaving = stay
	return reaped
}

func (s *isolation) remove(i *identity) error {
	type entry struct {
		side *side
		peer *identity
	}
	var entries []entry
	for d := range i.sides {
		for peer := range i.sides[d].cells {
			entries = append(entries, entry{&i.sides[d], peer})
		}
	}
	for side := range i.holders {
		if side.owner != i {
			entries = append(entries, entry{side, i})
		}
	}
	var keys []policyKey
	for _, e := range entries {
		if e.side.cells[e.peer].held != nil {
			keys = append(keys, policyKey{
				Subject: e.side.owner.number(), Peer: e.peer.number(), Direction: e.side.direction,
			})
		}
	}
	// Deleting what is deleted already does no harm, so all of it is tried again after an error.
	if _, err := s.tables.deletePolicies(keys); err != nil {
		return err
	}
	for _, e := range entries {
		s.hold(e.side, e.peer, nil)
		e.side.set(e.peer, cell{})
		delete(e.side.dirty, e.peer)
	}
	for d := range i.sides {
		delete(s.dirtySides, &i.sides[d])
		delete(s.failedSides, &i.sides[d])
	}
	if i.num != nil {
		if err := s.identities.drop(i.num); err != nil {
			return err
		}
	}
	for d := range i.sides {
		// Whoever has the number next gets rules before an address.
		if i.num != nil {
			s.tables.setSubject(i.num.number, i.sides[d].direction, rulesetClosed)
		}
		s.holdAny(&i.sides[d], s.rulesets.closed)
	}
	delete(s.byDigest, i.digest)
	return nil
}

// crowded says whether something found no room that is only at rest.
func (s *isolation) crowded() bool {
	resting := s.rulesets.resting() + len(s.identities.ids.rest.queue) + len(s.networks.ids.rest.queue)
	if resting == 0 && !slices.ContainsFunc(s.leaving, func(i *identity) bool { return !i.used() }) {
		return false
	}
	return s.isFull()
}

// endRest makes room of what is at rest, by waiting for programs instead of for the clock. That takes
// some milliseconds, so it is done only when there is no other room.
func (s *isolation) endRest() error {
	if err := s.tables.wait(); err != nil {
		return err
	}
	s.reap(true)
	s.rulesets.endRest()
	s.identities.ids.rest.end()
	s.networks.ids.rest.end()
	return nil
}
