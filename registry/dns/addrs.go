package dns

import (
	"iter"
	"net/netip"
	"slices"
)

// addrIndex holds what there is by address. As a rule that is one for each, which then needs no list of its own.
type addrIndex[V comparable] struct {
	one  map[[16]byte]V
	more map[[16]byte][]V // the others
}

func newAddrIndex[V comparable]() addrIndex[V] {
	return addrIndex[V]{one: map[[16]byte]V{}, more: map[[16]byte][]V{}}
}

// add is told no address of both families (::ffff:10.0.0.1): it would count as the IPv4 one.
func (x addrIndex[V]) add(a netip.Addr, v V) {
	key := a.As16()
	if _, there := x.one[key]; there {
		x.more[key] = append(x.more[key], v)
		return
	}
	x.one[key] = v
}

func (x addrIndex[V]) remove(a netip.Addr, v V) {
	key := a.As16()
	more := x.more[key]
	one, there := x.one[key]
	switch i := slices.Index(more, v); {
	case there && one == v && len(more) == 0:
		delete(x.one, key)
		return
	case there && one == v:
		x.one[key] = more[0]
		more = slices.Delete(more, 0, 1)
	case i >= 0:
		more = slices.Delete(more, i, i+1)
	default:
		return
	}
	if x.more[key] = more; len(more) == 0 {
		delete(x.more, key)
	}
}

// at are those of an address.
func (x addrIndex[V]) at(a netip.Addr) iter.Seq[V] {
	return func(yield func(V) bool) {
		key := a.As16()
		one, there := x.one[key]
		if !there || a.Is4In6() || !yield(one) {
			return
		}
		for _, v := range x.more[key] {
			if !yield(v) {
				return
			}
		}
	}
}

// len counts the addresses.
func (x addrIndex[V]) len() int { return len(x.one) }
