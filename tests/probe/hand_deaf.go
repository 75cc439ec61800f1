package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// deaf is a TCP port where nobody answers: its listener's filter takes all that comes, so that not even a reset
// goes back. Whoever asks for a connection can be asked for one in turn, while he still waits.
type deaf struct {
	listener int
	raw      int // hears what the listener does not
	at       netip.AddrPort
}

func openDeaf(a report.Act) (s *deaf, err error) {
	s = &deaf{listener: -1, raw: -1, at: a.From}
	defer func() {
		if err != nil {
			s.close(false)
		}
	}()
	if s.raw, err = openProtocol(a.From.Addr(), unix.SOCK_RAW, unix.IPPROTO_TCP, a.Patience); err != nil {
		return s, err
	}
	if s.listener, err = open(a.From.Addr(), unix.SOCK_STREAM, 0); err != nil {
		return s, err
	}
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(s.listener, unix.SOL_SOCKET, option, 1); err != nil {
			return s, os.NewSyscallError("setsockopt", err)
		}
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // accept 0 bytes
	if err := unix.SetsockoptSockFprog(s.listener, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing}); err != nil {
		return s, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(s.listener, sockaddr(a.From)); err != nil {
		return s, os.NewSyscallError("bind", err)
	}
	return s, os.NewSyscallError("listen", unix.Listen(s.listener, 1))
}

func (s *deaf) connect(report.Act) error { return fmt.Errorf("a deaf socket does not connect") }

// ask waits for a SYN.
func (s *deaf) ask(a report.Act) (did report.Did, err error) {
	if a.Do != report.Receive {
		return did, fmt.Errorf("a deaf socket cannot %s", a.Do)
	}
	buf := make([]byte, 2048)
	for {
		var n int
		var from unix.Sockaddr
		err := retry(func() (err error) {
			n, from, err = unix.Recvfrom(s.raw, buf, 0)
			return err
		})
		if err != nil {
			return did, os.NewSyscallError("recvfrom", err)
		}
		tcp := buf[:n]
		if s.at.Addr().Is4() && n > 0 {
			tcp = tcp[min(n, int(buf[0]&0xf)*4):] // raw(7): IPv4 comes with its header, IPv6 without
		}
		if len(tcp) >= 20 && binary.BigEndian.Uint16(tcp[2:]) == s.at.Port() && tcp[13]&0x17 == 0x02 { // SYN alone
			did.Peer = netip.AddrPortFrom(addrPort(from).Addr(), binary.BigEndian.Uint16(tcp))
			return did, nil
		}
	}
}

func (s *deaf) close(bool) error {
	var err error
	for _, fd := range []int{s.listener, s.raw} {
		if fd >= 0 {
			err = os.NewSyscallError("close", unix.Close(fd))
		}
	}
	return err
}
