package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// The programs that are given packets.
const (
	fromPod = "from_pod"
	toPod   = "to_pod"
)

// class is one kind of packet, and what its program must do with it.
type class struct {
	name    string
	program string
	// at is the container at whose veth the packet is seen: from_pod sees what it sends.
	at string
	// before are packets that are seen first, which make what the class needs to be there.
	before []sent
	packet packet
	// fresh: each run's packet is another flow's. It and its answers have these ends, but for the client's port.
	fresh *ends
	// spread: each run's packet goes to another of the services.
	spread bool

	verdict uint32
	// becomes says where the packet is from and to afterwards; what is not valid there is as it was.
	becomes struct{ src, dst netip.AddrPort }
	counts  []string // counters that each packet adds 1 to; no other counter changes
	may     []string // counters that it may change
}

// sent is a packet, and what sees it.
type sent struct {
	program, at string
	packet      packet
}

// ends are a flow's: who asks, whom, and who answers.
type ends struct{ client, asked, answers netip.AddrPort }

// What tc programs return (linux/pkt_cls.h).
const (
	verdictPass     = 0xffffffff // TC_ACT_UNSPEC: the next program, or the stack
	verdictDrop     = 2          // TC_ACT_SHOT
	verdictRedirect = 7          // TC_ACT_REDIRECT
)

// Ports of a client's flows that go on. A flow to the VIP and one to the server behind it may not share one, or the
// second would get another.
const (
	clientPort = 900
	directPort = 901 // to the server
	quietPort  = 902 // to each of the other services
)

const (
	tcp  = unix.IPPROTO_TCP
	udp  = unix.IPPROTO_UDP
	sctp = unix.IPPROTO_SCTP
)

// stage makes the packets of a dataplane and a family.
type stage struct {
	on     *plane
	family int // 0: IPv4, 1: IPv6
}

func (s stage) addr(place string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(s.on.places[place][s.family], port)
}

// between is a packet from a container, or from elsewhere to one.
func (s stage) between(from string, sport uint16, to string, dport uint16, proto, flags uint8) packet {
	p := packet{src: s.addr(from, sport), dst: s.addr(to, dport), proto: proto, flags: flags}
	if probe := s.on.probes[from]; probe != nil {
		p.smac = probe.MAC
	} else if probe := s.on.probes[to]; probe != nil {
		p.dmac = probe.MAC
	}
	return p
}

// classes are those of both programs.
func (s stage) classes() []class {
	list := slices.Concat(s.requests(), s.judged(), s.answers(), s.fragments(), s.arrivals())
	if s.on.others() > 0 {
		list = slices.Concat(list, s.remoteArrivals(), s.spreads())
	}
	if s.family == 0 {
		lldp := packet{ethertype: 0x88cc, body: make([]byte, 46)}
		list = append(list,
			class{name: "not_ours", program: fromPod, at: client, packet: lldp, verdict: verdictPass},
			class{name: "not_ours", program: toPod, at: client, packet: lldp, verdict: verdictPass})
	}
	return list
}

// requests are what a client sends by from_pod, in flows that go on and in new ones.
func (s stage) requests() (list []class) {
	for _, to := range []struct {
		kind      string
		from      uint16
		asked     string
		port      uint16
		answers   string
		protocols []uint8
		verdict   uint32
	}{
		{"vip", clientPort, vip, servicePort, server, []uint8{tcp, udp, sctp}, verdictRedirect},
		{"direct", directPort, server, targetPort, server, []uint8{tcp}, verdictRedirect},
		{"uplink", clientPort, far, targetPort, far, []uint8{tcp}, verdictPass},
	} {
		for _, proto := range to.protocols {
			open := s.between(client, to.from, to.asked, to.port, proto, flagSYN)
			established := class{
				name: "established_" + to.kind, program: fromPod, at: client,
				before:  []sent{{fromPod, client, open}},
				packet:  s.between(client, to.from, to.asked, to.port, proto, flagACK),
				verdict: to.verdict,
			}
			established.becomes.dst = s.addr(to.answers, targetPort)
			fresh := established
			fresh.name, fresh.before, fresh.packet = "new_"+to.kind, nil, open
			fresh.fresh, fresh.counts = &ends{open.src, open.dst, established.becomes.dst}, []string{"flows_created"}
			list = append(list, established, fresh)
		}
	}
	return list
}

// judged are requests that policies are about.
func (s stage) judged() []class {
	list := []class{{
		name: "denied", program: fromPod, at: client,
		packet:  s.between(client, clientPort, closed, targetPort, tcp, flagSYN),
		verdict: verdictDrop, counts: []string{"drop_ingress"}, may: []string{"events_lost"},
	}}
	for _, pair := range []struct{ kind, from, to string }{{"everyone", guest, host}, {"peers", asker, asked}} {
		open := s.between(pair.from, clientPort, pair.to, targetPort, tcp, flagSYN)
		list = append(list, class{
			name: "new_policy_" + pair.kind, program: fromPod, at: pair.from, packet: open,
			fresh:   &ends{open.src, open.dst, open.dst},
			verdict: verdictRedirect, counts: []string{"flows_created"},
		})
	}
	return list
}

// answers are what a server sends by from_pod.
func (s stage) answers() (list []class) {
	add := func(c class, before packet) {
		c.program, c.at, c.verdict = fromPod, server, verdictRedirect
		c.before = []sent{{fromPod, client, before}}
		c.becomes.src = s.addr(vip, servicePort)
		list = append(list, c)
	}
	for _, proto := range []uint8{tcp, udp} {
		add(class{name: "reply", packet: s.between(server, targetPort, client, clientPort, proto, flagACK)},
			s.between(client, clientPort, vip, servicePort, proto, flagSYN))
	}
	asked := s.between(client, clientPort, server, targetPort, udp, 0)
	add(class{name: "icmp_error", packet: s.unreachable(server, asked), counts: []string{"icmp_translated"}},
		s.between(client, clientPort, vip, servicePort, udp, 0))
	return list
}

// unreachable is an ICMP error about a packet.
func (s stage) unreachable(from string, about packet) packet {
	p := s.between(from, 0, client, 0, unix.IPPROTO_ICMP, 0)
	typ, code := byte(3), byte(3) // RFC 792
	if s.family == 1 {
		p.proto, typ, code = unix.IPPROTO_ICMPV6, 1, 4 // RFC 4443
	}
	p.body = append([]byte{typ, code, 0x12, 0x34, 0, 0, 0, 0}, about.bytes()[ethLen:]...)
	return p
}

// fragments are the two kinds of pieces of a client's datagram.
func (s stage) fragments() (list []class) {
	whole := s.between(client, clientPort, vip, servicePort, udp, 0)
	one, other := whole, whole
	one.piece = first
	other.piece, other.body = later, make([]byte, 16)
	list = []class{{
		name: "fragment_first", program: fromPod, at: client,
		before: []sent{{fromPod, client, whole}}, packet: one, verdict: verdictRedirect,
	}, {
		name: "fragment_later", program: fromPod, at: client,
		before: []sent{{fromPod, client, whole}, {fromPod, client, one}}, packet: other, verdict: verdictRedirect,
	}}
	for i := range list {
		list[i].becomes.dst = s.addr(server, targetPort)
	}
	return list
}

// arrivals are what comes from outside by to_pod.
func (s stage) arrivals() (list []class) {
	arrive := func(c class) {
		c.program = toPod
		if c.at == "" {
			c.at = client
		}
		list = append(list, c)
	}
	for _, proto := range []uint8{tcp, udp} {
		arrive(class{
			name:    "established_uplink",
			before:  []sent{{fromPod, client, s.between(client, clientPort, far, targetPort, proto, flagSYN)}},
			packet:  s.between(far, targetPort, client, clientPort, proto, flagACK),
			verdict: verdictPass,
		})
	}
	open := s.between(far, clientPort, client, targetPort, tcp, flagSYN)
	arrive(class{
		name: "new_uplink", packet: open, fresh: &ends{open.src, open.dst, open.dst},
		verdict: verdictPass, counts: []string{"flows_created"},
	})
	arrive(class{
		name: "denied", at: closed, packet: s.between(far, clientPort, closed, targetPort, tcp, flagSYN),
		verdict: verdictDrop, counts: []string{"drop_ingress"}, may: []string{"events_lost"},
	})
	return append(list, s.arrivingFragments()...)
}

// remoteArrivals are what comes to a client of its flow to the first of the other services; see fill.
func (s stage) remoteArrivals() []class {
	reply := s.between(far, 0, client, quietPort, tcp, flagACK)
	reply.src = netip.AddrPortFrom(backendOf(0)[s.family], targetPort)
	asked := packet{src: reply.dst, dst: reply.src, proto: tcp}
	answer := class{name: "reply", program: toPod, at: client, packet: reply, verdict: verdictPass}
	answer.becomes.src = netip.AddrPortFrom(vipOf(0)[s.family], servicePort)
	return []class{answer, {
		name: "icmp_error", program: toPod, at: client, packet: s.unreachable(far, asked),
		verdict: verdictPass, counts: []string{"icmp_translated"},
	}}
}

func (s stage) arrivingFragments() []class {
	open := s.between(client, clientPort, far, targetPort, udp, 0)
	one := s.between(far, targetPort, client, clientPort, udp, 0)
	one.piece = first
	other := one
	other.piece, other.body = later, make([]byte, 16)
	return []class{{
		name: "fragment_first", program: toPod, at: client,
		before: []sent{{fromPod, client, open}}, packet: one, verdict: verdictPass,
	}, {
		name: "fragment_later", program: toPod, at: client,
		before: []sent{{fromPod, client, open}, {toPod, client, one}}, packet: other, verdict: verdictPass,
	}}
}

// spreads are packets each of which is of another service's flow: of what they look up, the more there is the
// less is in the CPU's caches.
func (s stage) spreads() []class {
	to := s.between(client, quietPort, far, servicePort, tcp, flagACK)
	to.dst = netip.AddrPortFrom(vipOf(0)[s.family], servicePort)
	open := to
	open.flags = flagSYN
	return []class{{
		name: "established_vip", program: fromPod, at: client, packet: to, spread: true, verdict: verdictPass,
	}, {
		name: "new_vip", program: fromPod, at: client, packet: open, spread: true, verdict: verdictPass,
		fresh:  &ends{open.src, open.dst, netip.AddrPortFrom(backendOf(0)[s.family], targetPort)},
		counts: []string{"flows_created"},
	}}
}

// flowKey is struct flow_key in bpf/types.h.
type flowKey [40]byte

// key is what a flow has in the map of flows.
func key(src, dst netip.AddrPort, proto uint8) (k flowKey) {
	from, to := src.Addr().As16(), dst.Addr().As16()
	b := append(from[:], to[:]...)
	b = binary.NativeEndian.AppendUint16(b, src.Port())
	b = binary.NativeEndian.AppendUint16(b, dst.Port())
	copy(k[:], append(b, proto))
	return k
}

func protocol(number uint8) string {
	switch number {
	case tcp:
		return "TCP"
	case udp:
		return "UDP"
	case sctp:
		return "SCTP"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "ICMP"
	case 0:
		return "none"
	}
	return fmt.Sprint(number)
}
