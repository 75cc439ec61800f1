package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// association is a client's end of an SCTP association, on a raw socket that is connected to the peer: the
// kernel hands it only what comes from there.
type association struct {
	conn     *net.IPConn
	port     uint16
	to       netip.AddrPort
	tag      uint32 // of both sides
	sent     uint32 // user messages
	reserved *plain // a UDP socket that keeps the port from other associations of the namespace
}

func openAssociation(a report.Act, ports *ports) (*association, netip.AddrPort, error) {
	s := &association{port: a.From.Port(), tag: rand.Uint32() | 1}
	err := error(nil)
	if s.port == 0 {
		err = s.reserve(a.To, ports)
	}
	if err == nil {
		err = s.connect(a)
	}
	if err != nil {
		s.close(false)
		return nil, netip.AddrPort{}, err
	}
	local, _ := netip.AddrFromSlice(s.conn.LocalAddr().(*net.IPAddr).IP)
	return s, netip.AddrPortFrom(local.Unmap(), s.port), nil
}

func (s *association) connect(a report.Act) (err error) {
	s.to = a.To
	network := "ip4:132"
	if a.To.Addr().Is6() {
		network = "ip6:132"
	}
	if s.conn, err = net.DialIP(network, nil, &net.IPAddr{IP: a.To.Addr().AsSlice()}); err != nil {
		return err
	}
	if err := s.hearErrors(); err != nil {
		return err
	}
	ack, err := s.exchange(a.Patience, sctpInit, sctpInitBody(s.tag, ""), sctpInitAck)
	if err != nil {
		return err
	}
	cookie, _ := ack.cookie()
	_, err = s.exchange(a.Patience, sctpCookieEcho, []byte(cookie), sctpCookieAck)
	return err
}

// reserve takes a port that no other association has, nor has had with this peer.
func (s *association) reserve(peer netip.AddrPort, ports *ports) error {
	anywhere := report.Act{From: netip.AddrPortFrom(netip.IPv4Unspecified(), 0), Net: "udp"}
	if peer.Addr().Is6() {
		anywhere.From = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	for {
		held, local, err := openPlain(anywhere)
		if err != nil {
			return err
		}
		if ports.take(peer, local.Port()) {
			s.reserved, s.port = held, local.Port()
			return nil
		}
		defer held.close(false)
	}
}

// exchange sends a chunk and waits for one of another kind, or for an ABORT.
func (s *association) exchange(patience time.Duration, kind byte, body []byte, want byte) (m sctpMessage, err error) {
	if err := s.send(kind, body); err != nil {
		return m, err
	}
	return s.await(patience, want)
}

func (s *association) send(kind byte, body []byte) error {
	m := sctpMessage{sport: s.port, dport: s.to.Port(), vtag: s.tag, kind: kind, body: body}
	if kind == sctpInit {
		m.vtag = 0
	}
	_, err := s.conn.Write(m.packet())
	if err != nil && !s.concerned() {
		_, err = s.conn.Write(m.packet())
	}
	return err
}

// hearErrors has the kernel keep the packets that ICMP errors are about: it tells of them whatever raw socket
// has the same peer.
func (s *association) hearErrors() error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if s.to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	controlled := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(controlled, os.NewSyscallError("setsockopt", err))
}

// concerned tells whether one of the errors so far is about a packet of the association.
func (s *association) concerned() bool {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return true
	}
	ours := false
	raw.Control(func(fd uintptr) {
		packet, control := make([]byte, 512), make([]byte, 512)
		for {
			n, _, _, _, err := unix.Recvmsg(int(fd), packet, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			ours = ours || n >= 2 && binary.BigEndian.Uint16(packet) == s.port
		}
	})
	return ours
}

func (s *association) await(patience time.Duration, want byte) (m sctpMessage, err error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return m, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := s.conn.ReadFromIP(buf) // not Read, which leaves an IPv4 header before what it reads
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return m, unix.EAGAIN
		case err != nil && !s.concerned():
			continue
		case err != nil:
			return m, err
		}
		m, right, ok := parseSCTP(buf[:n])
		switch {
		case !ok || m.dport != s.port:
			continue // another association's
		case !right:
			return m, errors.New("wrong checksum")
		case m.sport != s.to.Port():
			return m, fmt.Errorf("the answer is from port %d, not %d", m.sport, s.to.Port())
		case m.kind == sctpAbort:
			return m, unix.ECONNRESET
		case m.kind == want && m.vtag == s.tag:
			return m, nil
		}
	}
}

func (s *association) ask(a report.Act) (did report.Did, err error) {
	var m sctpMessage
	switch a.Do {
	case report.Receive:
		m, err = s.await(a.Patience, sctpData)
	case report.Ask, report.Send:
		s.sent++
		err = s.send(sctpData, sctpDataBody(s.sent, string(askKeep)))
		if err == nil && a.Do == report.Ask {
			m, err = s.await(a.Patience, sctpData)
		}
	default:
		err = fmt.Errorf("%s: not with SCTP", a.Do)
	}
	if err != nil || a.Do == report.Send {
		return did, err
	}
	const fixed = 12
	if len(m.body) < fixed {
		return did, errors.New("a user message without contents")
	}
	did.Peer, did.Name = s.to, strings.TrimSpace(string(m.body[fixed:]))
	return did, nil
}

func (s *association) close(reset bool) error {
	if s.reserved != nil {
		s.reserved.close(false)
	}
	if s.conn == nil {
		return nil
	}
	if reset {
		s.send(sctpAbort, nil)
	}
	return s.conn.Close()
}

// ping sends an echo request, and waits for its answer by who was asked.
func ping(a report.Act) error {
	network, kind, answer := "ip4:icmp", byte(8), byte(0)
	if a.To.Addr().Is6() {
		network, kind, answer = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := net.DialIP(network, nil, &net.IPAddr{IP: a.To.Addr().AsSlice()})
	if err != nil {
		return err
	}
	defer conn.Close()
	p := binary.BigEndian.AppendUint32([]byte{kind, 0, 0, 0}, rand.Uint32())
	p = append(p, make([]byte, a.Size)...)
	if a.To.Addr().Is4() {
		binary.BigEndian.PutUint16(p[2:], ^internetSum(p))
	}
	if _, err := conn.Write(p); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(a.Patience)); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := conn.ReadFromIP(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return unix.EAGAIN
		}
		if err != nil {
			return err
		}
		if n == len(p) && buf[0] == answer && string(buf[4:n]) == string(p[4:]) {
			return nil
		}
	}
}
