package tests

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/nstest"
)

// frameRows are about packets that no socket sends. They count what is dropped, and are alone for that.
var frameRows = []row{
	{says: "a fragment that comes before its first is dropped and counted", nets: "udp", alone: true, show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a")))
		c := s.container("sender", nstest.Spec{Empty: true})
		out := openWire(s.T, c)
		for i, w := range byTC(s.ways) {
			from, to := netip.AddrPortFrom(w.pick(c.V4, c.V6), 6040), s.vip(w, "web")
			packet := datagram(from, to, append([]byte{'k'}, make([]byte, 31)...))
			first, later := fragment(packet, uint32(i+1), 0, 16), fragment(packet, uint32(i+1), 16, 40)
			before := drops(s.T, s.node, "fragment")
			out.send(s.T, framed(out, later))
			s.await("the drop to be counted", func() bool { return drops(s.T, s.node, "fragment") == before+1 })
			out.send(s.T, framed(out, first))
			out.send(s.T, framed(out, later))
			s.await(fmt.Sprintf("%s: an answer to the datagram once its first fragment came first", w), func() bool {
				return slices.ContainsFunc(out.received(s.T), func(frame []byte) bool { return isDatagram(frame, to, from) })
			})
			if got := drops(s.T, s.node, "fragment"); got != before+1 {
				s.Errorf("%s: %d fragments were dropped, want 1", w, got-before)
			}
		}
	}},
	{says: "frames with a VLAN tag are left alone", nets: "udp", alone: true, show: func(s *scene) {
		x, c := s.container("x", nstest.Spec{Empty: true}), s.container("sender", nstest.Spec{Empty: true})
		s.must(s.apply(s.service("web", ""), s.slices("web", "x")))
		out, in := openWire(s.T, c), openWire(s.T, x)
		reasons := []string{"vlan", "malformed", "spoofed", "fragment"}
		before := map[string]int{}
		for _, reason := range reasons {
			before[reason] = drops(s.T, s.node, reason)
		}
		for _, w := range byTC(s.ways) {
			to := s.vip(w, "web")
			from := netip.AddrPortFrom(w.pick(c.V4, c.V6), 6041)
			plain := framed(out, datagram(from, to, []byte("x")))
			for _, kind := range []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD} {
				tagged := binary.BigEndian.AppendUint16(plain[:12:12], kind)
				out.send(s.T, append(append(tagged, 0, 5), plain[12:]...))
			}
			s.only(out, in, w, from.Addr(), to)
		}
		for _, reason := range reasons {
			if got := drops(s.T, s.node, reason) - before[reason]; got != 0 {
				s.Errorf("%d are counted as %s", got, reason)
			}
		}
	}},
	{says: "malformed packets to a VIP are counted, and reach nobody", nets: "udp", alone: true, show: func(s *scene) {
		x, c := s.container("x", nstest.Spec{Empty: true}), s.container("sender", nstest.Spec{Empty: true})
		s.must(s.apply(s.service("web", ""), s.slices("web", "x")))
		out, in := openWire(s.T, c), openWire(s.T, x)
		for _, w := range byTC(s.ways) {
			from, to := netip.AddrPortFrom(w.pick(c.V4, c.V6), 6042), s.vip(w, "web")
			all := malformed4
			if w.v6 {
				all = malformed6
			}
			for name, bad := range all {
				before := drops(s.T, s.node, bad.reason)
				kind := framed(out, datagram(from, to, []byte("x")))[12:14]
				packet := bad.make(datagram(from, to, []byte("beyond the header")))
				out.send(s.T, frame(gatewayMAC, out.mac, binary.BigEndian.Uint16(kind), packet))
				s.await(fmt.Sprintf("%s: %s to be counted as %s", w, name, bad.reason), func() bool {
					return drops(s.T, s.node, bad.reason) == before+1
				})
			}
			s.only(out, in, w, from.Addr(), to)
		}
	}},
}

// byTC returns the ways in which no socket has a part.
func byTC(ways []way) []way {
	return slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return !w.tc })
}

func (s *scene) await(what string, cond func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	defer cancel()
	s.must(nstest.Await(ctx, what, func() (bool, error) { return cond(), nil }))
}

// only sends a datagram that is right, and wants it to be all that has come to the backend: what was sent before it
// has been dealt with then.
func (s *scene) only(out, in *wire, w way, from netip.Addr, to netip.AddrPort) {
	s.Helper()
	sender := netip.AddrPortFrom(from, 6049)
	out.send(s.T, framed(out, datagram(sender, to, []byte("right"))))
	var came [][]byte
	s.await(fmt.Sprintf("%s: the datagram that is right", w), func() bool {
		came = append(came, in.received(s.T)...)
		return slices.ContainsFunc(came, func(frame []byte) bool { return isDatagram(frame, sender, s.addr(w, "x")) })
	})
	if len(came) != 1 {
		s.Errorf("%s: %d frames came to the backend, want one: %x", w, len(came), came)
	}
}

// framed is a packet in a frame to the gateway.
func framed(out *wire, packet []byte) []byte {
	kind := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		kind = unix.ETH_P_IPV6
	}
	return frame(gatewayMAC, out.mac, kind, packet)
}

// datagram makes a UDP packet with a right checksum.
func datagram(from, to netip.AddrPort, data []byte) []byte {
	p := binary.BigEndian.AppendUint16(nil, from.Port())
	p = binary.BigEndian.AppendUint16(p, to.Port())
	p = binary.BigEndian.AppendUint16(p, uint16(8+len(data)))
	p = append(append(p, 0, 0), data...)
	sum := slices.Concat(from.Addr().AsSlice(), to.Addr().AsSlice(), []byte{0, unix.IPPROTO_UDP}, p[4:6], p, make([]byte, len(p)%2))
	binary.BigEndian.PutUint16(p[6:], internetChecksum(sum))
	if to.Addr().Is4() {
		return ip4(from.Addr(), to.Addr(), unix.IPPROTO_UDP, nil, p)
	}
	return ip6(from.Addr(), to.Addr(), unix.IPPROTO_UDP, p)
}

// isDatagram tells whether a frame holds a UDP packet between these ends, without options.
func isDatagram(frame []byte, from, to netip.AddrPort) bool {
	proto, src, dst, l4 := 14+9, 14+12, 14+16, 14+20
	if from.Addr().Is6() {
		proto, src, dst, l4 = 14+6, 14+8, 14+24, 14+40
	}
	n := len(from.Addr().AsSlice())
	return len(frame) >= l4+8 && frame[proto] == unix.IPPROTO_UDP &&
		string(frame[src:src+n]) == string(from.Addr().AsSlice()) && string(frame[dst:dst+n]) == string(to.Addr().AsSlice()) &&
		binary.BigEndian.Uint16(frame[l4:]) == from.Port() && binary.BigEndian.Uint16(frame[l4+2:]) == to.Port()
}

// fragment makes a packet of the bytes begin to end of another's payload (RFC 791, 3.2; RFC 8200, 4.5).
func fragment(packet []byte, id uint32, begin, end int) []byte {
	header, more := 20, uint16(0)
	if packet[0]>>4 == 6 {
		header = 40
	}
	payload := packet[header:]
	if end < len(payload) {
		more = 1
	}
	p := slices.Clone(packet[:header])
	if header == 20 {
		binary.BigEndian.PutUint16(p[2:], uint16(header+end-begin))
		binary.BigEndian.PutUint16(p[4:], uint16(id))
		binary.BigEndian.PutUint16(p[6:], more<<13|uint16(begin/8))
		binary.BigEndian.PutUint16(p[10:], 0)
		binary.BigEndian.PutUint16(p[10:], internetChecksum(p))
		return append(p, payload[begin:end]...)
	}
	next := p[6]
	p[6] = unix.IPPROTO_FRAGMENT
	binary.BigEndian.PutUint16(p[4:], uint16(8+end-begin))
	p = append(p, next, 0)
	p = binary.BigEndian.AppendUint16(p, uint16(begin)|more)
	p = binary.BigEndian.AppendUint32(p, id)
	return append(p, payload[begin:end]...)
}

// malformation makes a packet of one that is right.
type malformation struct {
	reason string // of the drop
	make   func([]byte) []byte
}

// setByte changes a byte of a header; cut4 and cut6 leave so many bytes, of another protocol, and say so in the header.
func setByte(at int, value byte) malformation {
	return malformation{"malformed", func(p []byte) []byte { p[at] = value; return p }}
}

func cut4(length int, proto byte) malformation {
	return malformation{"malformed", func(p []byte) []byte {
		p[9] = proto
		binary.BigEndian.PutUint16(p[2:], uint16(length))
		return p[:length]
	}}
}

func cut6(length int, next byte) malformation {
	return malformation{"malformed", func(p []byte) []byte {
		p[6] = next
		binary.BigEndian.PutUint16(p[4:], uint16(length-40))
		return p[:length]
	}}
}

// extended6 puts extension headers before the rest, each of 8 bytes; the first is of type next.
func extended6(reason string, next byte, headers ...byte) malformation {
	return malformation{reason, func(p []byte) []byte {
		var all []byte
		for _, following := range headers {
			all = append(all, following, 0, 0, 0, 0, 0, 0, 0)
		}
		p[6] = next
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40+len(all)))
		return slices.Concat(p[:40], all, p[40:])
	}}
}

var malformed4 = map[string]malformation{
	"another version":                 setByte(0, 0x65),
	"a header of 16 bytes":            setByte(0, 0x44),
	"a header longer than the packet": setByte(0, 0x4f),
	"a length beyond the frame":       setByte(2, 0x40),
	"a length below the header's":     {"malformed", func(p []byte) []byte { p[2], p[3] = 0, 19; return p }},
	"a cut header":                    {"malformed", func(p []byte) []byte { return p[:19] }},
	"a cut UDP header":                cut4(27, unix.IPPROTO_UDP),
	"a cut TCP header":                cut4(39, unix.IPPROTO_TCP),
	"a cut SCTP header":               cut4(31, unix.IPPROTO_SCTP),
	"a cut ICMP header":               cut4(27, unix.IPPROTO_ICMP),
}

var malformed6 = map[string]malformation{
	"another version":             setByte(0, 0x40),
	"a length beyond the frame":   setByte(4, 0x40),
	"a cut header":                {"malformed", func(p []byte) []byte { return p[:39] }},
	"a cut UDP header":            cut6(47, unix.IPPROTO_UDP),
	"a cut TCP header":            cut6(59, unix.IPPROTO_TCP),
	"a cut SCTP header":           cut6(51, unix.IPPROTO_SCTP),
	"a cut ICMPv6 header":         cut6(47, unix.IPPROTO_ICMPV6),
	"a cut extension header":      cut6(42, unix.IPPROTO_DSTOPTS),
	"a fragment of a fragment":    extended6("malformed", unix.IPPROTO_FRAGMENT, unix.IPPROTO_FRAGMENT, unix.IPPROTO_UDP),
	"too many extension headers":  extended6("extensions", unix.IPPROTO_DSTOPTS, slices.Repeat([]byte{unix.IPPROTO_DSTOPTS}, 20)...),
	"an IPv4 address as IPv6 has": {"malformed", func(p []byte) []byte { copy(p[24:], netip.MustParseAddr("::ffff:10.96.0.1").AsSlice()); return p }},
}
