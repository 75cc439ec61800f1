package dns

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/sluice-net/sluice/registry"
)

const (
	defaultNamespace = "default"
	// schemaVersion is that of Kubernetes' DNS-based service discovery, which the names follow.
	schemaVersion = "1.1.0"
	schemaTTL     = 28800 // seconds; as the specification's example has it
	maxSOATTL     = 300   // seconds
	// The SOA's refresh, retry and expire are for secondaries, which there are not; as CoreDNS has them.
	soaRefresh, soaRetry, soaExpire = 7200, 1800, 86400
	// The smallest records, compressed: name, type, class, TTL, length, data. No message has room for more of them.
	leastA, leastSRV = 12 + 4, 12 + 6 + 2
	maxMessage       = 65535
)

// zone answers for one domain, and for the reverse names of what is in the registry.
type zone struct {
	domain string // with a closing dot, in lower case
	ttl    uint32 // seconds
	ns     []netip.Addr
	local  []netip.Prefix // ranges of which nobody else knows names
}

// reply is what a zone has to say: the records of the answer and beside it, or a reason why there are none.
type reply struct {
	rcode  int
	answer []dns.RR
	extra  []dns.RR
	// target is what the name stands for (ExternalName); its records are wanted behind the CNAME.
	target string
	// soa is the owner of the SOA that a negative answer carries.
	soa string
}

// question is what is asked of a zone.
type question struct {
	spelt string // as the client wrote it: answers keep that
	name  string // in lower case
	qtype uint16
	room  int // bytes that the client takes
}

// below returns the part of a name before a domain, without the dot between them; false: it is not of the domain.
func below(name, domain string) (rest string, ok bool) {
	if !strings.HasSuffix(name, domain) {
		return "", false
	}
	rest = name[:len(name)-len(domain)]
	if rest == "" {
		return "", true
	}
	return rest[:len(rest)-1], rest[len(rest)-1] == '.'
}

// labels splits a name. No name of ours has more than five labels below the domain: true means that it has.
func labels(rest string) (list []string, tooMany bool) {
	if rest == "" {
		return nil, false
	}
	if strings.Count(rest, ".") > 4 || strings.IndexByte(rest, '\\') >= 0 {
		return nil, true
	}
	return strings.Split(rest, "."), false
}

// nothing says that the name exists, but has no records of the type.
func (z *zone) nothing() reply { return reply{soa: z.domain} }

// unknown says that there is no such name, and none below it.
func (z *zone) unknown() reply { return reply{rcode: dns.RcodeNameError, soa: z.domain} }

// find answers a name of the domain; rest is its part before the domain.
func (z *zone) find(x *index, q question, rest string) reply {
	list, tooMany := labels(rest)
	if tooMany {
		return z.unknown()
	}
	n := len(list)
	if n == 0 {
		return z.apex(x, q)
	}
	switch list[n-1] {
	case "dns-version":
		return z.version(q, n)
	case "dns":
		return z.server(q, list[:n-1])
	case "svc":
	default: // also pods' names (1-2-3-4.NAMESPACE.pod): who is not a service's has none
		return z.unknown()
	}
	if n == 1 {
		return z.nothing()
	}
	namespace := list[n-2]
	if x.namespaces[namespace] == 0 {
		return z.unknown()
	}
	if n == 2 {
		return z.nothing()
	}
	s := x.services[registry.Name{Namespace: namespace, Name: list[n-3]}]
	if s == nil || s.headless() && len(s.members) == 0 {
		return z.unknown()
	}
	if s.Type == registry.TypeExternalName {
		return z.external(s, q, n)
	}
	switch n {
	case 3:
		return z.service(s, q)
	case 4:
		return z.below(s, q, list[0])
	}
	return z.port(s, q, list[0], list[1])
}

// apex answers the domain's own name.
func (z *zone) apex(x *index, q question) reply {
	switch q.qtype {
	case dns.TypeSOA:
		return reply{answer: []dns.RR{z.soa(q.spelt, x.revision)}}
	case dns.TypeNS:
		return reply{answer: []dns.RR{&dns.NS{Hdr: z.header(q.spelt, dns.TypeNS), Ns: "ns.dns." + z.domain}}, extra: z.addresses("ns.dns."+z.domain, z.ns)}
	}
	return z.nothing()
}

func (z *zone) version(q question, n int) reply {
	switch {
	case n > 1:
		return z.unknown()
	case q.qtype != dns.TypeTXT:
		return z.nothing()
	}
	txt := &dns.TXT{Hdr: z.header(q.spelt, dns.TypeTXT), Txt: []string{schemaVersion}}
	txt.Hdr.Ttl = schemaTTL
	return reply{answer: []dns.RR{txt}}
}

// server answers dns.DOMAIN and ns.dns.DOMAIN.
func (z *zone) server(q question, before []string) reply {
	switch {
	case len(before) == 0:
		return z.nothing()
	case len(before) > 1 || before[0] != "ns":
		return z.unknown()
	}
	r := z.nothing()
	for _, a := range z.ns {
		r.answer = z.appendAddress(r.answer, q.spelt, a, q.qtype)
	}
	return r
}

// external answers for a service that stands for a name elsewhere. There is nothing below it.
func (z *zone) external(s *service, q question, n int) reply {
	if n > 3 {
		return z.unknown()
	}
	r := reply{answer: []dns.RR{&dns.CNAME{Hdr: z.header(q.spelt, dns.TypeCNAME), Target: dns.Fqdn(s.ExternalName)}}}
	if q.qtype == dns.TypeA || q.qtype == dns.TypeAAAA {
		r.target = dns.Fqdn(s.ExternalName)
	}
	return r
}

// service answers a service's own name.
func (z *zone) service(s *service, q question) reply {
	r := z.nothing()
	switch {
	case q.qtype == dns.TypeSRV: // not in the specification, but CoreDNS answers it
		return z.ports(s, q, func(*registry.ServicePort) bool { return true })
	case q.qtype != dns.TypeA && q.qtype != dns.TypeAAAA:
	case s.headless():
		z.members(&r, s.members, q)
	default:
		for _, a := range s.VIPs {
			r.answer = z.appendAddress(r.answer, q.spelt, a.Unmap(), q.qtype)
		}
	}
	return r
}

// members appends the addresses of a family, in an order that begins anywhere: many clients take the first.
func (z *zone) members(r *reply, members []member, q question) {
	seen := map[netip.Addr]struct{}{}
	for _, m := range rotated(members) {
		if len(r.answer) > q.room/leastA {
			return // the message is too long already
		}
		if _, twice := seen[m.addr]; !twice {
			seen[m.addr] = struct{}{}
			r.answer = z.appendAddress(r.answer, q.spelt, m.addr, q.qtype)
		}
	}
}

func rotated(members []member) func(func(int, member) bool) {
	return func(yield func(int, member) bool) {
		if len(members) == 0 {
			return
		}
		start := rand.IntN(len(members))
		for i := range members {
			if !yield(i, members[(start+i)%len(members)]) {
				return
			}
		}
	}
}

// below answers HOST.SERVICE, and _PROTOCOL.SERVICE, which exists because there are names below it (RFC 8020).
func (z *zone) below(s *service, q question, label string) reply {
	if p, ok := protocol(label); ok {
		for i := range s.Ports {
			if s.Ports[i].Protocol == p && s.Ports[i].Name != "" {
				return z.nothing()
			}
		}
		return z.unknown()
	}
	members := s.named(label)
	if len(members) == 0 {
		return z.unknown()
	}
	r := z.nothing()
	if q.qtype == dns.TypeA || q.qtype == dns.TypeAAAA {
		z.members(&r, members, q)
	}
	return r
}

// port answers _PORT._PROTOCOL.SERVICE.
func (z *zone) port(s *service, q question, port, proto string) reply {
	p, ok := protocol(proto)
	name, isPort := strings.CutPrefix(port, "_")
	if !ok || !isPort || name == "" {
		return z.unknown()
	}
	is := func(sp *registry.ServicePort) bool { return sp.Protocol == p && sp.Name == name }
	for i := range s.Ports {
		if !is(&s.Ports[i]) {
			continue
		}
		if q.qtype != dns.TypeSRV {
			return z.nothing()
		}
		return z.ports(s, q, is)
	}
	return z.unknown()
}

// protocol reads _tcp, _udp or _sctp.
func protocol(label string) (registry.Protocol, bool) {
	switch label {
	case "_tcp":
		return registry.TCP, true
	case "_udp":
		return registry.UDP, true
	case "_sctp":
		return registry.SCTP, true
	}
	return 0, false
}

// ports answers with the SRV records of those ports that are wanted, and the addresses that they lead to.
func (z *zone) ports(s *service, q question, wanted func(*registry.ServicePort) bool) reply {
	r := z.nothing()
	own := s.Name.Name + "." + s.Namespace + ".svc." + z.domain
	if !s.headless() {
		for i := range s.Ports {
			if wanted(&s.Ports[i]) {
				r.answer = append(r.answer, z.srv(q.spelt, s.Ports[i].Port, own))
			}
		}
		if len(r.answer) > 0 {
			r.extra = z.addresses(own, s.VIPs)
		}
	} else {
		z.memberPorts(&r, s, q, own, wanted)
	}
	// Each an even share; the specification leaves it open, and this is what CoreDNS says.
	weight := max(1, uint16(100/max(1, len(r.answer))))
	for _, rr := range r.answer {
		rr.(*dns.SRV).Weight = weight
	}
	return r
}

// memberPorts appends a record for each name below the service and each of its ports.
func (z *zone) memberPorts(r *reply, s *service, q question, own string, wanted func(*registry.ServicePort) bool) {
	type target struct {
		host string
		port uint16
	}
	seen := map[target]struct{}{}
	for _, m := range rotated(s.members) {
		if len(r.answer) > q.room/leastSRV {
			return
		}
		host := m.name()
		name := host + "." + own
		leads := false
		for _, p := range m.backing(s.Service).Ports {
			if !wanted(&registry.ServicePort{Name: p.Name, Protocol: p.Protocol}) {
				continue
			}
			leads = true
			if _, twice := seen[target{host, p.Port}]; !twice {
				seen[target{host, p.Port}] = struct{}{}
				r.answer = append(r.answer, z.srv(q.spelt, p.Port, name))
			}
		}
		if leads {
			r.extra = append(r.extra, z.addresses(name, []netip.Addr{m.addr})...)
		}
	}
}

func (z *zone) srv(owner string, port uint16, target string) dns.RR {
	return &dns.SRV{Hdr: z.header(owner, dns.TypeSRV), Port: port, Target: target}
}

func (z *zone) header(owner string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: z.ttl}
}

// appendAddress appends an address if it is of the family that a type asks for.
func (z *zone) appendAddress(list []dns.RR, owner string, a netip.Addr, qtype uint16) []dns.RR {
	switch {
	case qtype == dns.TypeA && a.Is4():
		return append(list, &dns.A{Hdr: z.header(owner, qtype), A: a.AsSlice()})
	case qtype == dns.TypeAAAA && a.Is6():
		return append(list, &dns.AAAA{Hdr: z.header(owner, qtype), AAAA: a.AsSlice()})
	}
	return list
}

// addresses are the records of both types for a name.
func (z *zone) addresses(owner string, addrs []netip.Addr) []dns.RR {
	var list []dns.RR
	for _, a := range addrs {
		a = a.Unmap()
		list = z.appendAddress(list, owner, a, dns.TypeA)
		list = z.appendAddress(list, owner, a, dns.TypeAAAA)
	}
	return list
}

// soa is the record that says how long a negative answer holds (RFC 2308, 3). Its serial is the registry's revision.
func (z *zone) soa(owner string, revision int64) *dns.SOA {
	soa := &dns.SOA{
		Hdr: z.header(owner, dns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: uint32(revision), Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: z.ttl,
	}
	soa.Hdr.Ttl = min(z.ttl, maxSOATTL)
	return soa
}
