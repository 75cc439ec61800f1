package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
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

// SCTP's chunks and parameters, RFC 9260, 3.2 and 3.3.
const (
	sctpInit    = 1
	sctpInitAck = 2
	sctpCookie  = 7
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
		return sctpPacket(sport, t.To.Port(), 0, sctpInit, tag(s.round, i), "")
	}
	return s, nil
}

// takeSCTP answers an INIT to a port that is served with INIT ACK, whose cookie is the member's name,
// and takes note of such answers. The answer's verification tag is the INIT's initiate tag.
func takeSCTP(s *rawSender, p []byte, from *net.IPAddr, conn *net.IPConn) {
	m := s.member
	if len(p) < 32 {
		return
	}
	sport, dport := binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	sum := binary.LittleEndian.Uint32(p[8:])
	if want := sctpSum(p); sum != want {
		m.note("sctp from %s: checksum %#x, want %#x", from, sum, want)
		return
	}
	switch {
	case p[12] == sctpInit && slices.Contains(m.ports, int(dport)):
		conn.WriteToIP(sctpPacket(dport, sport, binary.BigEndian.Uint32(p[16:]), sctpInitAck, 1, m.name), from)
	case p[12] == sctpInitAck && len(p) > 36:
		round, i := untag(binary.BigEndian.Uint32(p[4:]))
		name := p[36:min(len(p), 32+int(binary.BigEndian.Uint16(p[34:])))]
		if i < len(m.targets) {
			addr, _ := netip.AddrFromSlice(from.IP)
			if got := netip.AddrPortFrom(addr.Unmap(), sport); got != m.targets[i].To {
				m.note("sctp to %s: the answer is from %s", m.targets[i].To, got)
				return
			}
		}
		m.answer(round, i, string(name))
	}
}

// sctpPacket makes an INIT or INIT ACK; the latter carries a cookie.
func sctpPacket(sport, dport uint16, vtag uint32, chunk byte, initiate uint32, cookie string) []byte {
	p := binary.BigEndian.AppendUint16(nil, sport)
	p = binary.BigEndian.AppendUint16(p, dport)
	p = binary.BigEndian.AppendUint32(p, vtag)
	p = append(p, 0, 0, 0, 0, chunk, 0, 0, 0)
	p = binary.BigEndian.AppendUint32(p, initiate)
	p = binary.BigEndian.AppendUint32(p, 65536)
	p = append(p, 0, 1, 0, 1) // streams out and in
	p = binary.BigEndian.AppendUint32(p, 1)
	if cookie != "" {
		p = binary.BigEndian.AppendUint16(p, sctpCookie)
		p = binary.BigEndian.AppendUint16(p, uint16(4+len(cookie)))
		p = append(p, cookie...)
	}
	binary.BigEndian.PutUint16(p[14:], uint16(len(p)-12))
	for len(p)%4 != 0 {
		p = append(p, 0)
	}
	binary.LittleEndian.PutUint32(p[8:], sctpSum(p))
	return p
}

// sctpSum is a packet's CRC32c, as it stands in the packet read in little-endian order.
func sctpSum(p []byte) uint32 {
	whole := slices.Clone(p)
	clear(whole[8:12])
	return crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli))
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
