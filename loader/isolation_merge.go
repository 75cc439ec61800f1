package loader

import (
	"slices"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// notePolicies keeps the numbers of policies that there are, also while no entry leads to them: their
// counts are not to begin anew.
func (s *isolation) notePolicies(changes []registry.Change, snapshot bool) {
	pool := s.rulesets
	number := func(id registry.PolicyID) *numbered {
		return pool.policies.byDigest[digestOf(numberPolicy, id.String())]
	}
	if snapshot {
		clear(s.policies)
		for id := range pool.policies.byNumber {
			pool.idle[id] = struct{}{}
		}
	}
	for _, c := range changes {
		switch {
		case c.Policy == nil:
		case c.Deleted:
			delete(s.policies, c.Policy.PolicyID)
			if n := number(c.Policy.PolicyID); n != nil {
				pool.idle[n.number] = struct{}{}
			}
		default:
			s.policies[c.Policy.PolicyID] = struct{}{}
			if n := number(c.Policy.PolicyID); n != nil {
				pool.names[n.number] = c.Policy.PolicyID
			}
		}
	}
}

// merge takes Deltas into what is desired.
func (s *isolation) merge(deltas ...policy.Delta) {
	for _, d := range deltas {
		for _, info := range d.New {
			s.welcome(info)
		}
		gone := map[policy.ID]bool{}
		for _, id := range d.Gone {
			gone[id] = true
		}
		for _, r := range d.Rules {
			s.mergeRules(r, gone)
		}
		for _, c := range d.Addresses {
			s.mergeAddress(c)
		}
		for _, c := range d.Blocks {
			key := toPrefixKey(c.Block)
			if c.Identity == policy.None {
				delete(s.blocks, key)
			} else {
				s.blocks[key] = s.find(c.Identity)
			}
			s.touchPrefix(key)
		}
		for _, id := range d.Gone {
			if i := s.byID[id]; i != nil {
				delete(s.byID, id)
				s.leave(i)
			}
		}
	}
}

// find returns an identity that the compiler named. Should it never have told of it, it is closed.
func (s *isolation) find(id policy.ID) *identity {
	if i := s.byID[id]; i != nil {
		return i
	}
	return s.closed
}

// welcome makes an identity known. One that was on its way out, or that a predecessor left, keeps its
// number, and those of its entries that are right.
func (s *isolation) welcome(info policy.Identity) {
	digest := digestOf(numberIdentity, info.Key)
	i := s.byDigest[digest]
	if i == nil {
		i = s.newIdentity(digest)
		s.unnumbered[i] = nil
	}
	if i.leaves() {
		s.leaving = slices.DeleteFunc(s.leaving, func(o *identity) bool { return o == i })
		i.since = time.Time{}
		if i.num == nil {
			s.unnumbered[i] = nil
		}
	}
	i.id, i.info = info.ID, info
	s.byID[info.ID] = i
	for holder := range i.holders {
		holder.set(i, cell{held: holder.cells[i].held})
		holder.dirty[i] = struct{}{}
		s.touchSide(holder)
	}
	for d := range i.sides {
		side := &i.sides[d]
		side.want, side.all = nil, true
		for peer, c := range side.cells {
			side.set(peer, cell{held: c.held})
		}
		s.touchSide(side)
	}
}

func (s *isolation) touchSide(side *side) { s.dirtySides[side] = struct{}{} }

func (s *isolation) touchPrefix(key prefixKey) {
	due(s.dirtyPrefixes, key)
}

func (s *isolation) mergeRules(r policy.Rules, gone map[policy.ID]bool) {
	owner := s.find(r.Subject)
	if owner.fixed != 0 {
		return // these have no rules
	}
	side := &owner.sides[r.Direction]
	s.touchSide(side)
	change := func(id policy.ID, want *policy.Verdicts) {
		peer := s.find(id)
		c := side.cells[peer]
		c.want = want
		side.set(peer, c)
		side.dirty[peer] = struct{}{}
	}
	if r.DefaultChanged {
		side.want = r.Default
		if r.Default == nil {
			for peer, c := range side.cells {
				side.set(peer, cell{held: c.held})
				side.dirty[peer] = struct{}{}
			}
		}
	}
	for id, want := range r.Set {
		change(id, want)
	}
	for _, id := range r.Removed {
		if !gone[id] { // these entries go with the identity
			change(id, nil)
		}
	}
}

func (s *isolation) mergeAddress(c policy.AddressChange) {
	a := c.Addr.Unmap()
	if c.Identity == policy.None {
		delete(s.addresses, a)
	} else {
		s.addresses[a] = s.find(c.Identity)
	}
	if w := s.wired[a]; w != nil && w.inMaps && w.identity == s.closed {
		s.dirtyAddrs[a] = nil // whatever it waited for may be here
	} else if w != nil {
		due(s.dirtyAddrs, a)
	}
	s.touchPrefix(toPrefixKey(hostPrefix(a)))
}

// leave lets an identity go when nothing leads there any more.
func (s *isolation) leave(i *identity) {
	i.id, i.since = 0, s.now()
	delete(s.unnumbered, i)
	s.leaving = append(s.leaving, i)
}

// due makes a thing be looked at in the next pass. What is known to have failed of it stays known.
func due[K comparable](dirty map[K]error, k K) {
	if _, already := dirty[k]; !already {
		dirty[k] = nil
	}
}
