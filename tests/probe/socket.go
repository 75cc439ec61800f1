package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The sockets here are plain blocking ones, because Go's poller adds wake-ups of its own to a
// round trip of some 20 us.

// A request is one byte; what follows it in a datagram does not count.
const (
	askKeep    = 'k' // answer and wait for the next request
	askClose   = 'c' // TCP: answer and close, so that TIME_WAIT stays with the server
	askBig     = 'b' // answer, with many spaces before the name
	askNothing = 'n' // TCP: nothing
)

// retry calls f again when a signal interrupted it, which Go's runtime sends all the time.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func open(addr netip.Addr, kind int, timeout time.Duration) (int, error) {
	return openProtocol(addr, kind, 0, timeout)
}

// openProtocol opens a socket of a protocol that its kind does not say.
func openProtocol(addr netip.Addr, kind, protocol int, timeout time.Duration) (int, error) {
	family := unix.AF_INET6
	if addr.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if timeout > 0 {
		tv := unix.NsecToTimeval(int64(timeout))
		for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &tv); err != nil {
				unix.Close(fd)
				return -1, os.NewSyscallError("setsockopt", err)
			}
		}
	}
	return fd, nil
}

// connect differs from retry: a second call goes on waiting for the connection under way.
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	for err == unix.EINTR || err == unix.EALREADY {
		err = unix.Connect(fd, to)
	}
	if err == unix.EISCONN {
		err = nil
	}
	return os.NewSyscallError("connect", err)
}

func read(fd int, buf []byte) (n int, err error) {
	err = retry(func() error {
		n, err = unix.Read(fd, buf)
		return err
	})
	return n, os.NewSyscallError("read", err)
}

// explain names a timeout for what it is.
func explain(err error) error {
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("no answer in time: %w", err)
	}
	return err
}

func write(fd int, buf []byte) error {
	return os.NewSyscallError("write", retry(func() error {
		_, err := unix.Write(fd, buf)
		return err
	}))
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// listen binds to port on every address of both families.
func listen(kind, port int) (int, error) {
	fd, err := open(netip.IPv6Unspecified(), kind, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet6{Port: port})
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 1024)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return fd, nil
}
