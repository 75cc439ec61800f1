package policy

import (
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// site is a prefix that something is known of: an address that containers or this node claim, or a
// block that policies name. A full-length prefix can be all three.
type site struct {
	prefix netip.Prefix
	claims []*endpoint // that have the address; the first one has it
	node   bool        // it is an address of this node, unless a container here has it
	refs   int         // policies that name the block

	container *identity // of the container that has the address
	block     *identity // of the block's addresses
	told      ID        // what Delta.Blocks told of it last

	identities map[*identity]struct{} // that the block covers
	selectors  map[*selector]struct{} // of this CIDR
}

// endpoint is a container's interface, as far as Attach and the registry have told.
type endpoint struct {
	id              registry.EndpointID
	attached, known *registry.Endpoint
	spec            *spec
	addresses       []netip.Prefix
}

// effective returns what counts, or nil: the addresses and network that it was attached with, and the
// registry's word on all else.
func (ep *endpoint) effective() *registry.Endpoint {
	if ep.attached == nil || ep.known == nil {
		if ep.known != nil {
			return ep.known
		}
		return ep.attached
	}
	both := *ep.known
	both.Addresses, both.Network = ep.attached.Addresses, ep.attached.Network
	return &both
}

// before orders the claims on an address: whoever is attached here has it for certain.
func (ep *endpoint) before(o *endpoint) bool {
	if (ep.attached != nil) != (o.attached != nil) {
		return ep.attached != nil
	}
	return ep.id.Compare(o.id) < 0
}

// normal returns a prefix in the one form that it is compared in.
func normal(p netip.Prefix) (netip.Prefix, bool) {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	return p, p.IsValid()
}

func normalAll(list []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		if p, ok := normal(p); ok {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// hosts returns addresses as full-length prefixes.
func hosts(addrs []netip.Addr) []netip.Prefix {
	list := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return normalAll(list)
}

// table returns the trie of a prefix's family.
func (e *Engine) table(p netip.Prefix) *trie {
	if p.Addr().Is4() {
		return &e.sites[0]
	}
	return &e.sites[1]
}

// touch makes a prefix be identified again before the Delta is made.
func (e *Engine) touch(p netip.Prefix) *site {
	s := e.table(p).insert(p)
	e.touched[s] = struct{}{}
	return s
}

// setEndpoint carries out that attached or known of an endpoint are other than they were.
func (e *Engine) setEndpoint(ep *endpoint) {
	for _, p := range ep.addresses {
		s := e.touch(p)
		s.claims = slices.DeleteFunc(s.claims, func(o *endpoint) bool { return o == ep })
	}
	now := ep.effective()
	if now == nil {
		delete(e.endpoints, ep.id)
		return
	}
	e.endpoints[ep.id] = ep
	ep.spec, ep.addresses = specOf(now), hosts(now.Addresses)
	for _, p := range ep.addresses {
		s := e.touch(p)
		i, _ := slices.BinarySearchFunc(s.claims, ep, func(a, b *endpoint) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		s.claims = slices.Insert(s.claims, i, ep)
	}
}

// setNode gives this node other addresses.
func (e *Engine) setNode(addrs []netip.Addr) {
	for _, p := range e.own {
		e.touch(p).node = false
	}
	e.own = hosts(addrs)
	for _, p := range e.own {
		e.touch(p).node = true
	}
}

// hold counts one more policy that names a block, unhold one fewer. When it is the first or the last
// one, whatever the block covers is identified again.
func (e *Engine) hold(p netip.Prefix) {
	s := e.table(p).insert(p)
	if s.refs++; s.refs == 1 {
		e.table(p).covered(p, func(c *site) { e.touched[c] = struct{}{} })
	}
}

func (e *Engine) unhold(p netip.Prefix) {
	s := e.table(p).get(p)
	if s.refs--; s.refs == 0 {
		e.table(p).covered(p, func(c *site) { e.touched[c] = struct{}{} })
	}
}

// cover returns the blocks that cover a prefix, the longest last.
func (e *Engine) cover(p netip.Prefix) []*site {
	var list []*site
	e.table(p).covering(p, func(s *site) {
		if s.refs > 0 {
			list = append(list, s)
		}
	})
	return list
}

// reidentify finds the identities of a touched site, and tells what has changed.
func (e *Engine) reidentify(s *site, delta *Delta) {
	var container, block *identity
	cover := e.cover(s.prefix)
	held := len(s.claims) > 0 && s.claims[0].attached != nil
	node := s.node && !held // whoever is attached has it for certain, and must not lose its policies
	if len(s.claims) > 0 && !node {
		container = e.identify(s.claims[0].spec, cover)
	}
	told := None
	if s.refs > 0 {
		block = e.identify(nil, cover)
		told = block.ID
	}
	if node {
		told = Node
	}
	if e.assign(&s.container, container) {
		delta.Addresses = append(delta.Addresses, AddressChange{Addr: s.prefix.Addr(), Identity: idOf(container)})
	}
	e.assign(&s.block, block)
	if told != s.told {
		s.told = told
		delta.Blocks = append(delta.Blocks, BlockChange{Block: s.prefix, Identity: told})
	}
	if len(s.claims) == 0 && !s.node && s.refs == 0 {
		e.table(s.prefix).remove(s.prefix)
	}
}

// assign gives a site another identity, and reports whether it is another one.
func (e *Engine) assign(at **identity, q *identity) bool {
	old := *at
	if old == q {
		return false
	}
	*at = q
	if q != nil {
		q.refs++
	}
	if old != nil {
		if old.refs--; old.refs == 0 {
			e.loose[old] = struct{}{}
		}
	}
	return true
}

func idOf(q *identity) ID {
	if q == nil {
		return None
	}
	return q.ID
}

// locate returns the identity of an address.
func (e *Engine) locate(a netip.Addr) *identity {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return e.world
	}
	p := netip.PrefixFrom(a, a.BitLen())
	q := e.world
	e.table(p).covering(p, func(s *site) {
		switch {
		case s.container != nil:
			q = s.container
		case s.node:
			q = e.self
		case s.block != nil:
			q = s.block
		}
	})
	return q
}
