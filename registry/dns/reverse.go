package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

const (
	reverse4 = "in-addr.arpa."
	reverse6 = "ip6.arpa."
)

// reverseAddr reads a name of the reverse zones: the address that it is of, the zone, and whether it is of one of
// them. The address is invalid if the name is not that of a single one.
func reverseAddr(name string) (addr netip.Addr, in string, ok bool) {
	if rest, ok := below(name, reverse4); ok {
		var b [4]byte
		parts := strings.Split(rest, ".")
		if len(parts) != len(b) {
			return netip.Addr{}, reverse4, true
		}
		for i, part := range parts {
			n, err := strconv.ParseUint(part, 10, 8)
			if err != nil || strconv.FormatUint(n, 10) != part {
				return netip.Addr{}, reverse4, true
			}
			b[3-i] = byte(n)
		}
		return netip.AddrFrom4(b), reverse4, true
	}
	rest, ok := below(name, reverse6)
	if !ok {
		return netip.Addr{}, "", false
	}
	var b [16]byte
	if len(rest) != 4*len(b)-1 {
		return netip.Addr{}, reverse6, true
	}
	for i := range 2 * len(b) {
		digit := strings.IndexByte("0123456789abcdef", rest[2*i])
		if digit < 0 || i > 0 && rest[2*i-1] != '.' {
			return netip.Addr{}, reverse6, true
		}
		b[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), reverse6, true
}

// owns says whether nobody else can know the name of an address.
func (z *zone) owns(a netip.Addr) bool {
	return slices.Contains(z.ns, a) || slices.ContainsFunc(z.local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// reverse answers the name of an address; false: it is not ours to answer.
func (z *zone) reverse(x *index, q question, a netip.Addr, in string) (reply, bool) {
	names := z.names(x, a, q.room/leastSRV)
	if len(names) == 0 {
		return reply{rcode: dns.RcodeNameError, soa: in}, z.owns(a)
	}
	r := reply{soa: in}
	if q.qtype == dns.TypePTR {
		for _, name := range names {
			r.answer = append(r.answer, &dns.PTR{Hdr: z.header(q.spelt, dns.TypePTR), Ptr: name})
		}
	}
	return r, true
}

// names returns those that lead to an address: of services whose VIP it is, or else of what stands behind services.
func (z *zone) names(x *index, a netip.Addr, most int) []string {
	var names []string
	if slices.Contains(z.ns, a) {
		return []string{"ns.dns." + z.domain}
	}
	for s := range x.vips.at(a) {
		names = append(names, s.Name.Name+"."+s.Namespace+".svc."+z.domain)
	}
	if len(names) == 0 {
		for e := range x.sources.at(a) {
			for _, s := range e.source.services[:min(len(e.source.services), most)] {
				names = append(names, member{a, e}.name()+"."+s.Name.Name+"."+s.Namespace+".svc."+z.domain)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), most+1)]
}
