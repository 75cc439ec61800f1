package loader

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// move is an address of this node, or an entry of prefixes, that may be due for another identity.
type move struct {
	addr netip.Addr // valid: in map endpoints
	key  prefixKey
	want *identity // nil: the entry goes
}

// stuckPrefix is an address block that the maps give to another identity than they should.
type stuckPrefix struct {
	key       prefixKey
	got, want *identity
	err       error
}

// maxStuck is up to how many blocks that could not be written are looked at one by one before a block
// around them is. With more of them, no block is added.
const maxStuck = 64

// moves returns what is due: moves to identities that no address has yet, and all others. Blocks come
// longest first; those that go come last, shortest first.
func (p *isolationPass) moves(again bool) (fresh, later []move) {
	sort := func(m move) {
		if m.want != nil && m.want.number() != 0 && !m.want.used() {
			fresh = append(fresh, m)
		} else {
			later = append(later, m)
		}
	}
	for a, err := range p.dirtyAddrs {
		if err == nil || again {
			sort(move{addr: a, want: p.addresses[a]})
		}
	}
	for key, err := range p.dirtyPrefixes {
		if err == nil || again {
			sort(move{key: key, want: p.wantPrefix(key)})
		}
	}
	slices.SortFunc(fresh, compareMoves)
	slices.SortFunc(later, compareMoves)
	return fresh, later
}

func compareMoves(a, b move) int {
	if a.addr.IsValid() || b.addr.IsValid() {
		return -cmp.Or(compareBool(a.addr.IsValid(), b.addr.IsValid()), b.addr.Compare(a.addr))
	}
	if c := compareBool(a.want == nil, b.want == nil); c != 0 {
		return c
	}
	length := cmp.Compare(a.key.Length, b.key.Length)
	if a.want != nil {
		length = -length
	}
	return cmp.Or(length, slices.Compare(a.key.Addr.Bytes[:], b.key.Addr.Bytes[:]))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (p *isolationPass) move(moves []move) {
	for _, m := range moves {
		if m.addr.IsValid() {
			p.moveAddr(m.addr)
		} else {
			p.movePrefix(m.key)
		}
	}
}

// tagFor returns what map endpoints is to say of a wired address. When something has no number the
// address is closed, and the error says why.
func (s *isolation) tagFor(a netip.Addr) (t tag, i *identity, net *numbered, err error) {
	w := s.wired[a]
	i = s.addresses[a]
	switch {
	case i == nil:
		return tag{identity: identityClosed}, s.closed, nil, fmt.Errorf("the compiler knows no identity of %s", a)
	case i.number() == 0:
		return tag{identity: identityClosed}, s.closed, nil, fmt.Errorf("no number for %s: %w", i, s.unnumbered[i])
	case w.endpoint.Network == "":
		return tag{identity: i.number()}, i, nil, nil
	}
	net, err = s.networks.get(w.endpoint.Network, nil)
	if err != nil {
		return tag{identity: identityClosed}, s.closed, nil, fmt.Errorf("no number for network %s: %w", w.endpoint.Network, err)
	}
	return tag{i.number(), net.number}, i, net, nil
}

func (p *isolationPass) moveAddr(a netip.Addr) {
	delete(p.dirtyAddrs, a)
	w := p.wired[a]
	if w == nil || !w.inMaps {
		return // it is put with the right one
	}
	t, i, net, err := p.tagFor(a)
	if t != w.held {
		if failed := p.tables.putTag(a, t); failed != nil {
			p.dirtyAddrs[a] = failed
			p.dropNetwork(net)
			return
		}
		p.raised[a] = struct{}{}
	}
	p.setTag(a, t, i, net)
	if err != nil {
		p.dirtyAddrs[a] = err
	}
}

// setTag notes what map endpoints says of an address now.
func (s *isolation) setTag(a netip.Addr, t tag, i *identity, net *numbered) {
	w := s.wired[a]
	oldNet := w.net
	s.clearTag(a)
	w.inMaps, w.held, w.identity, w.net = true, t, i, net
	if i != nil {
		i.addrs[a] = struct{}{}
		s.locals[i] = struct{}{}
	}
	if net != nil {
		net.refs++
	}
	s.dropNetwork(oldNet)
}

// clearTag undoes setTag. The network's number stays.
func (s *isolation) clearTag(a netip.Addr) {
	w := s.wired[a]
	if i := w.identity; i != nil {
		delete(i.addrs, a)
		if len(i.addrs) == 0 {
			delete(s.locals, i)
		}
	}
	if w.net != nil {
		w.net.refs--
	}
	w.inMaps, w.held, w.identity, w.net = false, tag{}, nil, nil
}

// dropNetwork takes a network's number back when no address has it any more. Should that fail, the
// number stays with its name.
func (s *isolation) dropNetwork(net *numbered) {
	if net != nil && net.refs == 0 {
		_ = s.networks.drop(net)
	}
}

// wantPrefix returns the identity that an entry of prefixes is to have; nil: there is to be none.
func (s *isolation) wantPrefix(key prefixKey) *identity {
	if i := s.fixed[key]; i != nil {
		return i
	}
	if key.Length == 128 {
		a := fromAddress(key.Addr)
		w := s.wired[a]
		// While a container is being attached, what is there stays.
		if w == nil || !w.inMaps && s.prefixes[key] != nil {
			if i := s.addresses[a]; i != nil {
				return i
			}
		}
	}
	if i := s.blocks[key]; i != nil {
		return i
	}
	if key == everyIPv4() {
		return s.world // a block of IPv6 around it is not about IPv4
	}
	return nil
}

func (p *isolationPass) movePrefix(key prefixKey) {
	delete(p.dirtyPrefixes, key)
	want, have := p.wantPrefix(key), p.prefixes[key]
	var err error
	if want != nil && want.number() == 0 {
		want, err = p.closed, fmt.Errorf("no number for %s: %w", want, p.unnumbered[want])
	}
	if want != have {
		from := p.lookupHeld(key)
		if failed := p.writePrefix(key, want); failed != nil {
			p.dirtyPrefixes[key] = failed
			p.stuck = append(p.stuck, stuckPrefix{key: key, err: failed})
			return
		}
		p.holdPrefix(key, want)
		p.freed = p.freed || want == nil
		p.moved[[2]*identity{from, p.lookupHeld(key)}] = struct{}{}
	}
	if err != nil {
		p.dirtyPrefixes[key] = err
	}
}

func (p *isolationPass) writePrefix(key prefixKey, want *identity) error {
	if want == nil {
		return p.tables.deletePrefix(key)
	}
	if p.prefixes[key] == nil {
		if len(p.stuck) > maxStuck {
			return fmt.Errorf("wait for longer blocks: %w", p.stuck[0].err)
		}
		for _, stuck := range p.stuck {
			if p.dirtyPrefixes[stuck.key] != nil && stuck.key.Length > key.Length && truncate(stuck.key, key.Length) == key {
				return fmt.Errorf("wait for %s: %w", fromPrefixKey(stuck.key), p.dirtyPrefixes[stuck.key])
			}
		}
	}
	return p.tables.putPrefix(key, prefixEntry{Identity: want.number()})
}

// holdPrefix notes what an entry of prefixes leads to now.
func (s *isolation) holdPrefix(key prefixKey, i *identity) {
	if old := s.prefixes[key]; old != nil {
		old.blocks--
		s.lengths[key.Length]--
		delete(s.prefixes, key)
	}
	if i != nil {
		i.blocks++
		s.lengths[key.Length]++
		s.prefixes[key] = i
	}
}

// truncate returns the block of some length around another.
func truncate(key prefixKey, length uint32) prefixKey {
	out := prefixKey{Length: length}
	n := copy(out.Addr.Bytes[:], key.Addr.Bytes[:length/8])
	if rest := length % 8; rest > 0 {
		out.Addr.Bytes[n] = key.Addr.Bytes[n] &^ (0xff >> rest)
	}
	return out
}

// lookupHeld returns the identity that the maps give to the addresses of a block that no longer block
// covers.
func (s *isolation) lookupHeld(key prefixKey) *identity {
	for length := int(key.Length); length >= 0; length-- {
		if s.lengths[length] == 0 {
			continue
		}
		if i := s.prefixes[truncate(key, uint32(length))]; i != nil {
			return i
		}
	}
	return s.world
}

// lookupWant is lookupHeld for what is desired.
func (s *isolation) lookupWant(key prefixKey) *identity {
	for length := int(key.Length); length >= 0; length-- {
		if i := s.wantPrefix(truncate(key, uint32(length))); i != nil {
			return i
		}
	}
	return s.world
}

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

// closeStuck closes the sides that would judge addresses by what holds for others: what failed to be
// written says which.
func (p *isolationPass) closeStuck() {
	p.findStuck()
	if len(p.stuck) == 0 && len(p.dirtyAddrs) == 0 || !p.synced {
		return
	}
	planned := map[*side]bool{}
	for _, plan := range slices.Clone(p.plans) {
		planned[plan.side] = true
		if plan.err == nil {
			if err := p.stuckFor(plan.side, plan.target); err != nil {
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

// raise makes every flow be decided anew that is judged by other rules or identities now.
func (p *isolationPass) raise() {
	if p.raiseAll && p.synced {
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
		side := &i.sides[d]
		delete(s.dirtySides, side)
		delete(s.failedSides, side)
		if i.num != nil {
			s.tables.setSubject(i.num.number, side.direction, rulesetOpen)
		}
		s.holdAny(side, s.rulesets.open)
	}
	if i.num != nil {
		if err := s.identities.drop(i.num); err != nil {
			return err
		}
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
