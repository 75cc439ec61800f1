package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// plain is a TCP or UDP socket of the kernel's.
type plain struct {
	fd  int
	udp bool
	v6  bool
	to  netip.AddrPort // the peer that it is connected to; none: it is not
}

func openPlain(a report.Act) (*plain, netip.AddrPort, error) {
	at := a.To.Addr()
	if !at.IsValid() {
		at = a.From.Addr()
	}
	s := &plain{udp: a.Net == "udp", v6: at.Is6()}
	kind := unix.SOCK_STREAM
	if s.udp {
		kind = unix.SOCK_DGRAM
	}
	var err error
	if s.fd, err = open(at, kind, a.Patience); err != nil {
		return nil, netip.AddrPort{}, err
	}
	local, err := s.begin(a)
	if err != nil {
		unix.Close(s.fd)
		return nil, local, err
	}
	return s, local, nil
}

// begin sets the socket up, binds and connects it.
func (s *plain) begin(a report.Act) (local netip.AddrPort, err error) {
	if err := s.options(a); err != nil {
		return local, os.NewSyscallError("setsockopt", err)
	}
	if a.From.IsValid() {
		if err := unix.Bind(s.fd, sockaddr(a.From)); err != nil {
			return local, os.NewSyscallError("bind", err)
		}
	}
	if a.To.IsValid() {
		if err := s.connect(a); err != nil {
			return local, err
		}
	}
	name, err := unix.Getsockname(s.fd)
	return addrPort(name), os.NewSyscallError("getsockname", err)
}

func (s *plain) options(a report.Act) error {
	set := map[[2]int]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR}: 1}
	if !s.udp {
		set[[2]int{unix.IPPROTO_TCP, unix.TCP_NODELAY}] = 1
	}
	if a.Beside {
		set[[2]int{unix.SOL_SOCKET, unix.SO_REUSEPORT}] = 1
	}
	if a.Errors {
		set[s.choose(unix.IP_RECVERR, unix.IPV6_RECVERR)] = 1
	}
	if a.NoFragment {
		set[s.choose(unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER)] = unix.IP_PMTUDISC_DO // the same number for both
	}
	if a.TTL > 0 {
		set[s.choose(unix.IP_TTL, unix.IPV6_UNICAST_HOPS)] = a.TTL
	}
	for option, value := range set {
		if err := unix.SetsockoptInt(s.fd, option[0], option[1], value); err != nil {
			return err
		}
	}
	return nil
}

// choose returns level and number of the family's option.
func (s *plain) choose(v4, v6 int) [2]int {
	if s.v6 {
		return [2]int{unix.IPPROTO_IPV6, v6}
	}
	return [2]int{unix.IPPROTO_IP, v4}
}

func (s *plain) connect(a report.Act) error {
	s.to = a.To
	return connect(s.fd, sockaddr(a.To))
}

func (s *plain) ask(a report.Act) (did report.Did, err error) {
	switch a.Do {
	case report.Shutdown:
		if err := unix.Shutdown(s.fd, unix.SHUT_WR); err != nil {
			return did, os.NewSyscallError("shutdown", err)
		}
		return s.receive()
	case report.Receive:
		return s.receive()
	case report.Trouble:
		return s.trouble(a)
	case report.PathMTU:
		option := s.choose(unix.IP_MTU, unix.IPV6_MTU)
		did.MTU, err = unix.GetsockoptInt(s.fd, option[0], option[1])
		return did, os.NewSyscallError("getsockopt", err)
	}
	if err := s.send(a); err != nil || a.Do == report.Send {
		return did, err
	}
	if did, err = s.answer(a); err != nil {
		return did, err
	}
	return did, s.isPeer(did.Peer, a.To)
}

// send sends a request.
func (s *plain) send(a report.Act) error {
	request := []byte{askKeep}
	switch {
	case a.Last:
		request[0] = askClose
	case a.Size > 0 && s.udp:
		request = append([]byte{askBig}, make([]byte, a.Size-1)...)
	case a.Size > 0:
		request = append(bytes.Repeat([]byte{askNothing}, a.Size-1), askBig)
	}
	if s.to.IsValid() {
		return write(s.fd, request)
	}
	return os.NewSyscallError("sendto", retry(func() error { return unix.Sendto(s.fd, request, 0, sockaddr(a.To)) }))
}

// answer reads one answer, to its end.
func (s *plain) answer(a report.Act) (did report.Did, err error) {
	var text []byte
	buf := make([]byte, 64<<10)
	for !bytes.HasSuffix(text, []byte("\n")) {
		n, from, err := s.read(buf)
		if err != nil {
			return did, err
		}
		if n == 0 {
			return did, fmt.Errorf("closed after %d bytes of an answer", len(text))
		}
		text, did.Peer = append(text, buf[:n]...), from
	}
	if s.udp && a.Size > len(text) {
		return did, fmt.Errorf("the answer has %d bytes, not %d", len(text), a.Size)
	}
	did.Name = strings.TrimSpace(string(text))
	return did, nil
}

func (s *plain) read(buf []byte) (n int, from netip.AddrPort, err error) {
	var sender unix.Sockaddr
	err = retry(func() error {
		n, sender, err = unix.Recvfrom(s.fd, buf, 0)
		return err
	})
	return n, addrPort(sender), os.NewSyscallError("recvfrom", err)
}

// isPeer wants the answer to come from who was asked, and a connected socket to say that its peer is that.
func (s *plain) isPeer(from, asked netip.AddrPort) error {
	if s.to.IsValid() {
		asked = s.to
		name, err := unix.Getpeername(s.fd)
		if err != nil {
			return os.NewSyscallError("getpeername", err)
		}
		if got := addrPort(name); got != asked {
			return fmt.Errorf("the peer is %s, not %s", got, asked)
		}
	}
	if s.udp && from != asked {
		return fmt.Errorf("the answer is from %s, not %s", from, asked)
	}
	return nil
}

// receive waits for a datagram, or for the end of a connection: then nothing has come.
func (s *plain) receive() (did report.Did, err error) {
	buf := make([]byte, 64<<10)
	n, from, err := s.read(buf)
	if err != nil {
		return did, err
	}
	did.Peer, did.Name = from, strings.TrimSpace(string(buf[:n]))
	return did, nil
}

// trouble waits for an ICMP error about what was sent.
func (s *plain) trouble(a report.Act) (did report.Did, err error) {
	poll := []unix.PollFd{{Fd: int32(s.fd)}} // POLLERR comes unasked
	err = retry(func() error {
		n, err := unix.Poll(poll, int(a.Patience.Milliseconds()))
		if n == 0 && err == nil {
			return unix.EAGAIN
		}
		return err
	})
	if err != nil {
		return did, os.NewSyscallError("poll", err)
	}
	control := make([]byte, 512)
	_, n, _, about, err := unix.Recvmsg(s.fd, make([]byte, 64<<10), control, unix.MSG_ERRQUEUE)
	if err != nil {
		return did, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return did, err
	}
	for _, m := range messages {
		if m.Header.Type == unix.IP_RECVERR || m.Header.Type == unix.IPV6_RECVERR {
			did.ICMP = extended(m.Data)
			did.ICMP.To = addrPort(about)
		}
	}
	if did.ICMP == nil {
		return did, fmt.Errorf("an error without details")
	}
	return did, nil
}

// extended reads struct sock_extended_err (linux/errqueue.h) and the address behind it.
func extended(b []byte) *report.ICMP {
	var e unix.SockExtendedErr
	size := int(unsafe.Sizeof(e))
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e)), size), b)
	icmp := &report.ICMP{Errno: int(e.Errno), Type: int(e.Type), Code: int(e.Code)}
	if unix.Errno(e.Errno) == unix.EMSGSIZE {
		icmp.MTU = int(e.Info)
	}
	switch by := b[size:]; binary.NativeEndian.Uint16(by) {
	case unix.AF_INET:
		icmp.By = netip.AddrFrom4([4]byte(by[4:8]))
	case unix.AF_INET6:
		icmp.By = netip.AddrFrom16([16]byte(by[8:24]))
	}
	return icmp
}

func (s *plain) close(reset bool) error {
	if reset && !s.udp {
		if err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return os.NewSyscallError("close", unix.Close(s.fd))
}
