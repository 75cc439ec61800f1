package etcd

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-net/sluice/registry"
)

// vipRange is a range of addresses [first, first+size) that VIPs come from.
type vipRange struct {
	prefix netip.Prefix
	first  netip.Addr
	size   uint64 // number of addresses; a range larger than 2^63 is used in part
}

// newRanges checks the configured CIDRs. The network address and IPv4's broadcast address are left
// out, except where a prefix is too short to have them.
func newRanges(cidrs []netip.Prefix) ([]vipRange, error) {
	var list []vipRange
	for _, p := range cidrs {
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("service range %s is not a valid CIDR", p)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("service range %s has host bits set: did you mean %s?", p, p.Masked())
		}
		for _, o := range list {
			if o.prefix.Overlaps(p) {
				return nil, fmt.Errorf("service ranges %s and %s overlap", o.prefix, p)
			}
		}
		hostBits := min(p.Addr().BitLen()-p.Bits(), 63)
		r := vipRange{prefix: p, first: p.Addr(), size: 1 << hostBits}
		if hostBits >= 2 {
			r.first = r.first.Next()
			r.size--
			if p.Addr().Is4() {
				r.size--
			}
		}
		list = append(list, r)
	}
	return list, nil
}

func (r vipRange) family() registry.Family { return registry.FamilyOf(r.first) }

// contains reports whether an address may be handed out to one who asks for it.
func (r vipRange) contains(a netip.Addr) bool {
	if !r.prefix.Contains(a) || a.Less(r.first) {
		return false
	}
	return a.Is6() || !r.at(r.size-1).Less(a)
}

// at returns the i-th address.
func (r vipRange) at(i uint64) netip.Addr {
	if r.first.Is4() {
		b := r.first.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
		return netip.AddrFrom4(b)
	}
	b := r.first.As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), i, 0)
	high := binary.BigEndian.Uint64(b[:8]) + carry
	binary.BigEndian.PutUint64(b[:8], high)
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}

// random returns some address of the range.
func (r vipRange) random() netip.Addr { return r.at(rand.Uint64N(r.size)) }

// firstFree walks from a random address on. Among one address more than are taken there is a free
// one, so that the walk is never longer than that.
func (r vipRange) firstFree(taken map[netip.Addr]struct{}) (netip.Addr, bool) {
	start := rand.Uint64N(r.size)
	for i := range min(r.size, uint64(len(taken))+1) {
		n := start + i // no overflow: both are below 2^63
		if n >= r.size {
			n -= r.size
		}
		if a := r.at(n); !has(taken, a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func has(set map[netip.Addr]struct{}, a netip.Addr) bool {
	_, ok := set[a]
	return ok
}

// PoolUse says how full a range of VIPs is.
type PoolUse struct {
	CIDR netip.Prefix
	Used int
	Size uint64 // addresses; at most 2^63, however large the range
}

func (s *Store) hasFamily(f registry.Family) bool {
	return slices.ContainsFunc(s.ranges, func(r vipRange) bool { return r.family() == f })
}

// families returns the families of the ranges in order of preference.
func (s *Store) families() []registry.Family {
	var list []registry.Family
	for _, r := range s.ranges {
		if !slices.Contains(list, r.family()) {
			list = append(list, r.family())
		}
	}
	return list
}

func (s *Store) inRange(a netip.Addr) bool {
	return slices.ContainsFunc(s.ranges, func(r vipRange) bool { return r.contains(a) })
}

func (s *Store) describeRanges() string {
	text := make([]string, len(s.ranges))
	for i, r := range s.ranges {
		text[i] = r.prefix.String()
	}
	if len(text) == 0 {
		return "none configured"
	}
	return strings.Join(text, ", ")
}
