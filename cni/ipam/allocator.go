// Package ipam hands out container addresses and keeps the record of what is wired.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

var (
	// ErrFull is returned by Allocate when a family has no free address.
	ErrFull = errors.New("no free address")
	// ErrUsed is returned by Take for an address that belongs to someone else.
	ErrUsed = errors.New("address in use")
	// ErrOutside is returned by Take for an address that the ranges do not hand out.
	ErrOutside = errors.New("address not in the node's ranges")
)

// Allocator hands out addresses of some ranges. It goes round: the next address is the first free one
// after the last that was handed out, so that a freed address rests. It is not safe for
// concurrent use.
type Allocator struct {
	v4, v6 family
	kept   map[netip.Addr]bool // not handed out, by order of the owner
}

// family is the ranges of one IP version, in the order given, as one ring.
type family struct {
	ranges []addrRange
	last   netip.Addr // handed out last; invalid: none yet
}

// addrRange is one prefix with the addresses in it that may be handed out.
type addrRange struct {
	prefix      netip.Prefix
	first, last netip.Addr
	limit       uint64 // addresses from first to last; saturates at 2^63
	kept        uint64 // of these, that are kept and that nobody has
	used        map[netip.Addr]bool
}

// Usage says how full a range is.
type Usage struct {
	Prefix netip.Prefix
	Used   uint64 // addresses handed out
	Limit  uint64 // addresses that can be; saturates at 2^63
}

// NewAllocator returns an allocator over prefixes, which may be of both IP versions but must not
// overlap. Not handed out are the keep addresses, an IPv4 network's own and broadcast address, an
// IPv6 subnet's router anycast address, and in a range of 8 or more addresses the first for hosts:
// that is where people put a gateway or the node itself.
func NewAllocator(prefixes []netip.Prefix, keep ...netip.Addr) (*Allocator, error) {
	a := &Allocator{}
	for i, p := range prefixes {
		if err := checkPrefix(p); err != nil {
			return nil, fmt.Errorf("range %s: %w", p, err)
		}
		for _, q := range prefixes[:i] {
			if p.Overlaps(q) {
				return nil, fmt.Errorf("range %s: overlaps %s", p, q)
			}
		}
		f := a.family(p.Addr())
		f.ranges = append(f.ranges, newRange(p))
	}
	a.Keep(keep...)
	return a, nil
}

// Keep has these addresses not handed out, in place of those before. Whoever has one keeps it, too.
func (a *Allocator) Keep(addrs ...netip.Addr) {
	a.kept = map[netip.Addr]bool{}
	for _, f := range []*family{&a.v4, &a.v6} {
		for i := range f.ranges {
			f.ranges[i].kept = 0
		}
	}
	for _, addr := range addrs {
		addr = addr.Unmap()
		r := a.rangeOf(addr)
		if r == nil || a.kept[addr] {
			continue
		}
		a.kept[addr] = true
		if !r.used[addr] {
			r.kept++
		}
	}
}

func checkPrefix(p netip.Prefix) error {
	addr := p.Addr()
	switch {
	case !p.IsValid() || addr.Is4In6():
		return errors.New("want a plain IPv4 or IPv6 prefix")
	case p != p.Masked():
		return fmt.Errorf("bits beyond the prefix length are set, %s is the network", p.Masked())
	case addr.IsLoopback(), addr.IsMulticast(), addr.IsLinkLocalUnicast(), addr.IsUnspecified():
		return errors.New("want unicast addresses that are not loopback or link-local")
	case p.Bits() < 8:
		return errors.New("prefix length below 8")
	}
	return nil
}

func newRange(p netip.Prefix) addrRange {
	r := addrRange{prefix: p, first: p.Addr(), last: lastOf(p), used: map[netip.Addr]bool{}}
	hostBits := p.Addr().BitLen() - p.Bits()
	r.limit = 1 << min(hostBits, 63)
	if hostBits >= 2 { // RFC 3021 and RFC 6164: both addresses of a pair are hosts
		r.first = r.first.Next()
		r.limit--
		if p.Addr().Is4() {
			r.last = r.last.Prev()
			r.limit--
		}
	}
	if hostBits >= 3 {
		r.first = r.first.Next()
		r.limit--
	}
	return r
}

// lastOf returns the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// full reports whether none is left to hand out.
func (r *addrRange) full() bool { return uint64(len(r.used))+r.kept >= r.limit }

func (r *addrRange) contains(a netip.Addr) bool {
	return r.prefix.Contains(a) && r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
}

func (a *Allocator) family(addr netip.Addr) *family {
	if addr.Is4() {
		return &a.v4
	}
	return &a.v6
}

// Allocate hands out one address of each IP version that has ranges, and for the versions among want
// exactly those. On an error nothing is handed out.
func (a *Allocator) Allocate(want ...netip.Addr) (addrs []netip.Addr, err error) {
	defer func() {
		if err != nil {
			a.Release(addrs...)
			addrs = nil
		}
	}()
	for _, w := range want {
		if err := a.Take(w); err != nil {
			return addrs, err
		}
		addrs = append(addrs, w)
	}
	for _, f := range []*family{&a.v4, &a.v6} {
		if len(f.ranges) == 0 || slices.ContainsFunc(want, func(w netip.Addr) bool { return a.family(w) == f }) {
			continue
		}
		addr, err := a.next(f)
		if err != nil {
			return addrs, err
		}
		addrs = append(addrs, addr)
	}
	slices.SortFunc(addrs, netip.Addr.Compare) // IPv4 first
	return addrs, nil
}

// next takes the first free address after the family's last, going round.
func (a *Allocator) next(f *family) (netip.Addr, error) {
	start := 0
	for i := range f.ranges {
		if f.ranges[i].contains(f.last) {
			start = i
		}
	}
	// The range of last comes first with what follows last, and once more at the end with the rest.
	for i := range len(f.ranges) + 1 {
		r := &f.ranges[(start+i)%len(f.ranges)]
		if r.full() {
			continue
		}
		from := r.first
		if i == 0 && r.contains(f.last) {
			from = f.last.Next()
		}
		for addr := from; addr.IsValid() && r.contains(addr); addr = addr.Next() {
			if !r.used[addr] && !a.kept[addr] {
				r.used[addr] = true
				f.last = addr
				return addr, nil
			}
		}
	}
	version := "IPv6"
	if f == &a.v4 {
		version = "IPv4"
	}
	return netip.Addr{}, fmt.Errorf("allocate %s address: %w", version, ErrFull)
}

// Take hands out a given address: ErrOutside when it is not for handing out, ErrUsed when it is
// already.
func (a *Allocator) Take(addr netip.Addr) error {
	if a.kept[addr] {
		return fmt.Errorf("take %s: it is kept for the node: %w", addr, ErrOutside)
	}
	return a.Retake(addr)
}

// Retake is Take of an address that somebody has already: also of one that is kept since.
func (a *Allocator) Retake(addr netip.Addr) error {
	r := a.rangeOf(addr)
	if r == nil {
		return fmt.Errorf("take %s: %w", addr, ErrOutside)
	}
	if r.used[addr] {
		return fmt.Errorf("take %s: %w", addr, ErrUsed)
	}
	r.used[addr] = true
	if a.kept[addr] {
		r.kept--
	}
	return nil
}

// Used reports whether an address is handed out.
func (a *Allocator) Used(addr netip.Addr) bool {
	r := a.rangeOf(addr)
	return r != nil && r.used[addr]
}

// Release gives addresses back. Those that are not handed out are passed by.
func (a *Allocator) Release(addrs ...netip.Addr) {
	for _, addr := range addrs {
		if r := a.rangeOf(addr); r != nil && r.used[addr] {
			delete(r.used, addr)
			if a.kept[addr] {
				r.kept++
			}
		}
	}
}

func (a *Allocator) rangeOf(addr netip.Addr) *addrRange {
	f := a.family(addr)
	for i := range f.ranges {
		if f.ranges[i].contains(addr) {
			return &f.ranges[i]
		}
	}
	return nil
}

// Last returns the address that each IP version handed out last; invalid ones are left out.
func (a *Allocator) Last() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{a.v4.last, a.v6.last}, func(l netip.Addr) bool { return !l.IsValid() })
}

// Resume goes on after addresses that Last returned. Those outside the ranges are passed by.
func (a *Allocator) Resume(last []netip.Addr) {
	for _, l := range last {
		if a.rangeOf(l) != nil {
			a.family(l).last = l
		}
	}
}

// Usage returns how full each range is, IPv4 first.
func (a *Allocator) Usage() []Usage {
	var out []Usage
	for _, f := range []*family{&a.v4, &a.v6} {
		for i := range f.ranges {
			r := &f.ranges[i]
			out = append(out, Usage{Prefix: r.prefix, Used: uint64(len(r.used)), Limit: r.limit - r.kept})
		}
	}
	return out
}

// Free returns ErrFull when Allocate would.
func (a *Allocator) Free() error {
	for name, f := range map[string]*family{"IPv4": &a.v4, "IPv6": &a.v6} {
		if len(f.ranges) > 0 && !slices.ContainsFunc(f.ranges, func(r addrRange) bool { return !r.full() }) {
			return fmt.Errorf("every %s address is taken: %w", name, ErrFull)
		}
	}
	return nil
}
