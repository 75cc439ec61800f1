package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// rawSender sends what no kernel makes for it: SCTP's INIT, ICMP's echo request.
type rawSender struct {
	member *member
	round  int
	conns  map[bool]*net.IPConn // by whether it is IPv4
	// packet makes the packet for a target.
	packet func(i int, t report.Target) []byte
}

// newRawSender opens a socket a family, and hands what it receives to take.
func newRawSender(m *member, v4, v6 string, take func(s *rawSender, packet []byte, from *net.IPAddr, conn *net.IPConn)) (*rawSender, error) {
	s := &rawSender{member: m, conns: map[bool]*net.IPConn{}}
	for _, a := range m.addrs {
		network := v4
		if a.Is6() {
			network = v6
		}
		conn, err := net.ListenIP(network, &net.IPAddr{IP: a.AsSlice()})
		if err != nil {
			return nil, err
		}
		_ = conn.SetReadBuffer(1 << 20)
		s.conns[a.Is4()] = conn
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := conn.ReadFromIP(buf)
				if err == nil {
					take(s, buf[:n], from, conn)
				}
			}
		}()
	}
	return s, nil
}

func (s *rawSender) begin(_ context.Context, round int) error {
	s.round = round
	return nil
}

func (s *rawSender) send(i int, t report.Target) error {
	conn := s.conns[t.To.Addr().Is4()]
	if conn == nil {
		return fmt.Errorf("no address of that family")
	}
	_, err := conn.WriteToIP(s.packet(i, t), &net.IPAddr{IP: t.To.Addr().AsSlice()})
	return err
}

// A round and a target are one 32-bit number on the wire, which is never 0.
const targetBits = 14

func tag(round, i int) uint32 { return uint32(round)<<targetBits | uint32(i) }

func untag(tag uint32) (round, i int) { return int(tag >> targetBits), int(tag & (1<<targetBits - 1)) }

// Source ports of SCTP: the lasting one, and the first of those that serve one round.
const (
	sctpKept  = 20000
	sctpFresh = 20001
)

func newSCTPSender(m *member) (sender, error) {
	s, err := newRawSender(m, "ip4:132", "ip6:132", takeSCTP)
	if err != nil {
		return nil, err
	}
	s.packet = func(i int, t report.Target) []byte {
		sport := uint16(sctpKept)
		if t.Fresh {
			sport = uint16(sctpFresh + s.round)
		}
		init := sctpMessage{sport: sport, dport: t.To.Port(), kind: sctpInit, body: sctpInitBody(tag(s.round, i), "")}
		return init.packet()
	}
	return s, nil
}

// takeSCTP answers an INIT to a port that is served with INIT ACK, whose cookie is the member's name,
// and takes note of such answers. The answer's verification tag is the INIT's initiate tag.
func takeSCTP(s *rawSender, p []byte, from *net.IPAddr, conn *net.IPConn) {
	m := s.member
	c, right, ok := parseSCTP(p)
	if !ok || len(p) < sctpInitWhole {
		return
	}
	if !right {
		m.note("sctp from %s: wrong checksum", from)
		return
	}
	if c.kind == sctpInit && slices.Contains(m.ports, int(c.dport)) {
		ack := sctpMessage{sport: c.dport, dport: c.sport, vtag: c.initiate(), kind: sctpInitAck, body: sctpInitBody(1, m.name)}
		conn.WriteToIP(ack.packet(), from)
	}
	if name, ok := c.cookie(); ok {
		round, i := untag(c.vtag)
		if i < len(m.targets) {
			addr, _ := netip.AddrFromSlice(from.IP)
			if got := netip.AddrPortFrom(addr.Unmap(), c.sport); got != m.targets[i].To {
				m.note("sctp to %s: the answer is from %s", m.targets[i].To, got)
				return
			}
		}
		m.answer(round, i, name)
	}
}

// echoID is the identifier of a member's echo requests: one member lives in a namespace.
const echoID = 0x5149

func newICMPSender(m *member) (sender, error) {
	s, err := newRawSender(m, "ip4:icmp", "ip6:ipv6-icmp", takeICMP)
	if err != nil {
		return nil, err
	}
	s.packet = func(i int, t report.Target) []byte {
		p := []byte{8, 0, 0, 0, echoID >> 8, echoID & 0xff}
		if t.To.Addr().Is6() {
			p[0] = 128 // the kernel fills in the checksum
		}
		p = binary.BigEndian.AppendUint16(p, uint16(i))
		p = binary.BigEndian.AppendUint32(p, tag(s.round, i))
		if t.To.Addr().Is4() {
			binary.BigEndian.PutUint16(p[2:], ^internetSum(p))
		}
		return p
	}
	return s, nil
}

func takeICMP(s *rawSender, p []byte, from *net.IPAddr, _ *net.IPConn) {
	if len(p) < 12 || p[0] != 0 && p[0] != 129 || binary.BigEndian.Uint16(p[4:]) != echoID {
		return
	}
	round, i := untag(binary.BigEndian.Uint32(p[8:]))
	addr, _ := netip.AddrFromSlice(from.IP)
	if i >= len(s.member.targets) || s.member.targets[i].To.Addr() != addr.Unmap() {
		s.member.note("icmp: an answer from %s for target %d", from, i)
		return
	}
	s.member.answer(round, i, "")
}

func internetSum(p []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
