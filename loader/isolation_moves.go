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
	i = s.addresses[a]
	switch {
	case s.wired[a].lost:
		return tag{identity: identityClosed}, s.closed, nil, fmt.Errorf("nobody tells any more which container has %s", a)
	case i == nil || i.info.Workload == nil:
		return tag{identity: identityClosed}, s.closed, nil, fmt.Errorf("the compiler takes container %s for %s", a, s.find(s.engine.Lookup(a).ID))
	case i.number() == 0:
		return tag{identity: identityClosed}, s.closed, nil, fmt.Errorf("no number for %s: %w", i, s.unnumbered[i])
	case i.info.Workload.Network == "":
		return tag{identity: i.number()}, i, nil, nil
	}
	net, err = s.networks.get(i.info.Workload.Network, nil)
	if err != nil {
		return tag{identity: identityClosed}, s.closed, nil, fmt.Errorf("no number for network %s: %w", i.info.Workload.Network, err)
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
		s.rest(i)
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
	if key.Length == 128 {
		a := fromAddress(key.Addr)
		w := s.wired[a]
		if _, own := s.nodeAddrs[key]; own && w == nil {
			return s.self
		}
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
		p.foresee(key, want)
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

// foresee closes the sides that would judge addresses wrongly once an entry of prefixes is written: those
// of longer blocks that could not be written are taken for the entry's.
func (p *isolationPass) foresee(key prefixKey, want *identity) {
	within := func(s stuckPrefix) bool {
		return p.dirtyPrefixes[s.key] != nil && s.key.Length > key.Length && truncate(s.key, key.Length) == key
	}
	have := p.prefixes[key]
	if have == nil || !slices.ContainsFunc(p.stuck, within) {
		return // a new entry waits for those
	}
	p.holdPrefix(key, want)
	p.closeStuck(true)
	p.holdPrefix(key, have)
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
		s.rest(old)
		s.lengths[key.Length]--
		delete(s.prefixes, key)
	}
	if i != nil {
		i.blocks++
		s.lengths[key.Length]++
		s.prefixes[key] = i
	}
}

// rest makes an identity that leaves stay for as long from now on as a program may still judge by it, when
// nothing leads there any more: the last address may have moved long after the compiler let go of it.
func (s *isolation) rest(i *identity) {
	if i.leaves() && !i.used() {
		i.since = s.now()
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
