package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// serveUDP answers a datagram with what it holds and the member's name.
func (m *member) serveUDP(at netip.AddrPort) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	_ = conn.SetReadBuffer(1 << 20)
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err == nil {
				conn.WriteToUDPAddrPort(append(buf[:n:n], " "+m.name...), from)
			}
		}
	}()
	return nil
}

// udpSender sends datagrams ROUND TARGET.
type udpSender struct {
	member *member
	round  int
	kept   map[bool]*net.UDPConn // for good; by whether it is IPv4
	fresh  map[bool]*net.UDPConn // of this round
}

func newUDPSender(m *member) (sender, error) {
	s := &udpSender{member: m}
	var err error
	s.kept, err = s.open()
	return s, err
}

func (s *udpSender) open() (map[bool]*net.UDPConn, error) {
	conns := map[bool]*net.UDPConn{}
	for _, a := range s.member.addrs {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		if err != nil {
			return nil, err
		}
		_ = conn.SetReadBuffer(1 << 20)
		conns[a.Is4()] = conn
		go s.receive(conn)
	}
	return conns, nil
}

func (s *udpSender) begin(ctx context.Context, round int) (err error) {
	s.round = round
	if s.fresh, err = s.open(); err != nil {
		return err
	}
	for _, conn := range s.fresh {
		context.AfterFunc(ctx, func() { conn.Close() })
	}
	return nil
}

func (s *udpSender) send(i int, t report.Target) error {
	conns := s.kept
	if t.Fresh {
		conns = s.fresh
	}
	conn := conns[t.To.Addr().Is4()]
	if conn == nil {
		return fmt.Errorf("no address of that family")
	}
	_, err := conn.WriteToUDPAddrPort(fmt.Appendf(nil, "%d %d", s.round, i), t.To)
	return err
}

// receive takes the answers ROUND TARGET NAME until the socket is closed.
func (s *udpSender) receive(conn *net.UDPConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		var round, i int
		var name string
		if _, err := fmt.Fscan(strings.NewReader(string(buf[:n])), &round, &i, &name); err != nil {
			s.member.note("udp: %q from %s: %v", buf[:n], from, err)
			continue
		}
		if i < len(s.member.targets) && from != s.member.targets[i].To {
			s.member.note("udp to %s: the answer is from %s", s.member.targets[i].To, from)
			continue
		}
		s.member.answer(round, i, name)
	}
}
