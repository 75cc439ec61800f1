package policy

import (
	"math/bits"
	"net/netip"
)

// bitString is a prefix in a form that is quick to compare: its first n bits, the rest zero.
type bitString struct {
	hi, lo uint64
	n      int
}

func bitsOf(p netip.Prefix) bitString {
	b := p.Addr().As16()
	var s bitString
	for i := range 8 {
		s.hi = s.hi<<8 | uint64(b[i])
		s.lo = s.lo<<8 | uint64(b[8+i])
	}
	if p.Addr().Is4() {
		s.hi, s.lo = s.lo<<32, 0
	}
	s.n = p.Bits()
	return s
}

// bit returns the i-th bit, from 0.
func (s bitString) bit(i int) int {
	if i < 64 {
		return int(s.hi >> (63 - i) & 1)
	}
	return int(s.lo >> (127 - i) & 1)
}

// common returns how many bits two strings begin with alike.
func (s bitString) common(o bitString) int {
	n := bits.LeadingZeros64(s.hi ^ o.hi)
	if n == 64 {
		n += bits.LeadingZeros64(s.lo ^ o.lo)
	}
	return min(n, s.n, o.n)
}

// trie holds sites by prefix, of one address family: those that cover a prefix and those that it
// covers are found without looking at others.
type trie struct {
	root *trieNode
}

type trieNode struct {
	key   bitString // longer than its parent's, which it begins with
	child [2]*trieNode
	site  *site // nil: it only joins its two children
}

// insert returns the site of a prefix, which it makes if there is none.
func (t *trie) insert(p netip.Prefix) *site {
	key := bitsOf(p)
	at := &t.root
	for *at != nil {
		n := *at
		c := n.key.common(key)
		if c == n.key.n && c == key.n {
			break
		}
		if c == n.key.n {
			at = &n.child[key.bit(c)]
			continue
		}
		*at = &trieNode{key: key.first(c)}
		(*at).child[n.key.bit(c)] = n
	}
	if *at == nil {
		*at = &trieNode{key: key}
	}
	if (*at).site == nil {
		(*at).site = &site{prefix: p}
	}
	return (*at).site
}

// first returns the first n bits.
func (s bitString) first(n int) bitString {
	s.n = n
	switch {
	case n == 0:
		s.hi, s.lo = 0, 0
	case n <= 64:
		s.hi, s.lo = s.hi>>(64-n)<<(64-n), 0
	default:
		s.lo = s.lo >> (128 - n) << (128 - n)
	}
	return s
}

// get returns the site of a prefix, or nil.
func (t *trie) get(p netip.Prefix) *site {
	key := bitsOf(p)
	n := t.root
	for n != nil && n.key.common(key) == n.key.n {
		if n.key.n == key.n {
			return n.site
		}
		n = n.child[key.bit(n.key.n)]
	}
	return nil
}

// remove forgets the site of a prefix.
func (t *trie) remove(p netip.Prefix) { t.root = t.root.without(bitsOf(p)) }

func (n *trieNode) without(key bitString) *trieNode {
	if n == nil || n.key.common(key) < n.key.n {
		return n
	}
	if n.key.n == key.n {
		n.site = nil
	} else {
		b := key.bit(n.key.n)
		n.child[b] = n.child[b].without(key)
	}
	switch {
	case n.site != nil || n.child[0] != nil && n.child[1] != nil:
		return n
	case n.child[0] != nil:
		return n.child[0]
	}
	return n.child[1]
}

// covering calls f for the sites whose prefixes cover p, p itself too, the shortest first.
func (t *trie) covering(p netip.Prefix, f func(*site)) {
	key := bitsOf(p)
	n := t.root
	for n != nil && n.key.common(key) == n.key.n {
		if n.site != nil {
			f(n.site)
		}
		if n.key.n == key.n {
			return
		}
		n = n.child[key.bit(n.key.n)]
	}
}

// covered calls f for the sites within p, p itself too.
func (t *trie) covered(p netip.Prefix, f func(*site)) {
	key := bitsOf(p)
	n := t.root
	for n != nil && n.key.n < key.n {
		if n.key.common(key) < n.key.n {
			return
		}
		n = n.child[key.bit(n.key.n)]
	}
	if n != nil && n.key.common(key) == key.n {
		n.each(f)
	}
}

func (n *trieNode) each(f func(*site)) {
	if n == nil {
		return
	}
	if n.site != nil {
		f(n.site)
	}
	n.child[0].each(f)
	n.child[1].each(f)
}
