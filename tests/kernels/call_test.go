package kernels

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serverPort is where each container answers over TCP and UDP: a line with its name and the caller's
// address, then what it was sent.
const serverPort = 7000

// patience with one call: an emulated machine may be slow.
const patience = 10 * time.Second

// serve starts the container's server, which ends with the test.
func (c *container) serve(t *testing.T) {
	t.Helper()
	var tcp net.Listener
	var udp *net.UDPConn
	err := in(c.netns, func() (err error) {
		if tcp, err = net.Listen("tcp", fmt.Sprintf(":%d", serverPort)); err != nil {
			return err
		}
		udp, err = net.ListenUDP("udp", &net.UDPAddr{Port: serverPort})
		return err
	})
	if err != nil {
		t.Fatalf("start server of %s: %v", c.name, err)
	}
	t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintf(conn, "%s %s\n", c.name, conn.RemoteAddr())
				io.Copy(conn, conn)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			udp.WriteToUDPAddrPort(fmt.Appendf(nil, "%s %s\n%s", c.name, from, buf[:n]), from)
		}
	}()
}

// answer is what came of a call.
type answer struct {
	name string         // of the container that answered
	seen netip.Addr     // the caller's address as the server saw it
	peer netip.AddrPort // the server's address as the caller saw it
}

// call sends size bytes from a namespace over tcp, udp (a connected socket) or sendto (an unconnected
// one), and wants them back.
func call(netns *os.File, network string, to netip.AddrPort, size int) (a answer, err error) {
	var got []byte
	sent := bytes.Repeat([]byte("sluice!\n"), (size+7)/8)[:size]
	err = in(netns, func() error {
		switch network {
		case "sendto":
			a.peer, got, err = sendto(to, sent)
		case "udp":
			a.peer, got, err = exchange("udp", to, sent)
		default:
			a.peer, got, err = exchange("tcp", to, sent)
		}
		return err
	})
	if err != nil {
		return a, err
	}
	line, echo, _ := bytes.Cut(got, []byte("\n"))
	if !bytes.Equal(echo, sent) {
		return a, fmt.Errorf("%d bytes came back, not the %d that were sent", len(echo), len(sent))
	}
	name, from, _ := strings.Cut(string(line), " ")
	seen, err := netip.ParseAddrPort(from)
	a.name, a.seen = name, seen.Addr().Unmap().WithZone("")
	return a, err
}

// exchange makes a call on a connected socket.
func exchange(network string, to netip.AddrPort, sent []byte) (peer netip.AddrPort, got []byte, err error) {
	conn, err := net.Dial(network, to.String())
	if err != nil {
		return peer, nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if network == "udp" {
		if _, err := conn.Write(sent); err != nil {
			return peer, nil, err
		}
		buf := make([]byte, 1<<16)
		n, err := conn.Read(buf)
		if err != nil {
			return peer, nil, err
		}
		peer, err = peerOf(conn.(syscall.Conn))
		return peer, buf[:n], err
	}
	// Before the end: a closed socket has no peer.
	if peer, err = peerOf(conn.(syscall.Conn)); err != nil {
		return peer, nil, err
	}
	go func() {
		conn.Write(sent)
		conn.(*net.TCPConn).CloseWrite()
	}()
	got, err = io.ReadAll(conn)
	return peer, got, err
}

// sendto makes a call on a socket that is not connected.
func sendto(to netip.AddrPort, sent []byte) (peer netip.AddrPort, got []byte, err error) {
	conn, err := net.ListenUDP(map[bool]string{true: "udp4", false: "udp6"}[to.Addr().Is4()], nil)
	if err != nil {
		return peer, nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteToUDPAddrPort(sent, to); err != nil {
		return peer, nil, err
	}
	buf := make([]byte, 1<<16)
	n, peer, err := conn.ReadFromUDPAddrPort(buf)
	return peer, buf[:n], err
}

// peerOf asks the kernel, as an application may at any time.
func peerOf(conn syscall.Conn) (peer netip.AddrPort, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peer, err
	}
	var sa unix.Sockaddr
	if cerr := raw.Control(func(fd uintptr) { sa, err = unix.Getpeername(int(fd)) }); cerr != nil {
		return peer, cerr
	}
	if err != nil {
		return peer, os.NewSyscallError("getpeername", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return peer, fmt.Errorf("getpeername: a %T", sa)
}

// stream is a TCP connection to a container's server.
type stream struct {
	net.Conn
	lines *bufio.Reader
}

func dial(netns *os.File, to netip.AddrPort) (*stream, error) {
	s := &stream{}
	err := in(netns, func() (err error) {
		s.Conn, err = net.Dial("tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	s.lines = bufio.NewReader(s.Conn)
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	_, err = s.lines.ReadString('\n')
	return s, err
}

// ping sends a line and wants it back.
func (s *stream) ping() error {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(s, "ping"); err != nil {
		return err
	}
	line, err := s.lines.ReadString('\n')
	if err == nil && line != "ping\n" {
		err = fmt.Errorf("ping: %q came back", line)
	}
	return err
}
