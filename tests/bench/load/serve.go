package main

import (
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
)

// The server has one thread for what is asked for one by one, and so many for streams, at each port. They block in
// what they wait for, as netperf's do: a poll in between would be a part of what is measured that no way changes.
const sinks = 8

// A request's first byte says whether another may follow on the same connection, or the server closes it.
// The server does so first: TIME_WAIT stays with it, where it takes a new connection of the same ports
// (timestamps tell them apart), and the client's source ports are free at once.
const (
	askKeep  = 'k'
	askClose = 'c'
)

func serve(cpu int) error {
	failed := make(chan error)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for set := range batch.Sets {
			if err := serveSet(family, set*batch.Step, cpu, failed); err != nil {
				return err
			}
		}
	}
	go func() {
		fmt.Println("ready")
		_, err := io.Copy(io.Discard, os.Stdin)
		failed <- err
	}()
	return <-failed
}

// serveSet serves at one set of ports.
func serveSet(family, above, cpu int, failed chan<- error) error {
	for _, s := range []struct {
		kind, port, threads int
		loop                func(fd int, buf []byte)
		buf                 int
	}{
		{unix.SOCK_STREAM, batch.Echo, 1, echo, batch.MaxBytes},
		{unix.SOCK_DGRAM, batch.Echo, 1, datagrams, batch.MaxBytes},
		{unix.SOCK_STREAM, batch.Accept, 1, accepts, 0},
		{unix.SOCK_STREAM, batch.Sink, sinks, sink, 128 << 10},
	} {
		fd, err := listen(family, s.kind, s.port+above)
		if err != nil {
			return err
		}
		for range s.threads {
			go func() {
				if err := pin(cpu); err != nil {
					failed <- err
					return
				}
				s.loop(fd, make([]byte, s.buf))
			}()
		}
	}
	return nil
}

func listen(family, kind, port int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	var any unix.Sockaddr = &unix.SockaddrInet4{Port: port}
	if family == unix.AF_INET6 {
		// The IPv4 socket is apart: a mapped address costs more.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return -1, os.NewSyscallError("setsockopt", err)
		}
		any = &unix.SockaddrInet6{Port: port}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, any); err != nil {
		return -1, fmt.Errorf("bind to port %d: %w", port, err)
	}
	if kind == unix.SOCK_STREAM {
		// What is accepted inherits it.
		if err := undelayed(fd); err != nil {
			return -1, err
		}
		err = os.NewSyscallError("listen", unix.Listen(fd, 1024))
	}
	return fd, err
}

// echo answers requests with themselves, one connection after the other.
//
//go:nosplit
func echo(listener int, buf []byte) {
	for {
		fd, errno := accept(listener)
		if errno != 0 {
			continue // ended before it was accepted
		}
		for {
			n, errno := read(fd, buf)
			if errno != 0 || n == 0 {
				break
			}
			write(fd, buf[:n])
			if buf[0] == askClose {
				break
			}
		}
		closeFD(fd)
	}
}

// datagrams answers with what it gets.
//
//go:nosplit
func datagrams(fd int, buf []byte) {
	var from [unix.SizeofSockaddrInet6]byte
	for {
		size := uint32(len(from))
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)),
			0, uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
		if errno != 0 {
			continue // an answer that was not wanted any more
		}
		unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), n,
			0, uintptr(unsafe.Pointer(&from)), uintptr(size))
	}
}

// accepts closes connections.
//
//go:nosplit
func accepts(listener int, _ []byte) {
	for {
		if fd, errno := accept(listener); errno == 0 {
			closeFD(fd)
		}
	}
}

// chunk is how much of a stream the sink tells that it has got, by one byte.
const chunk = 1 << 20

// sink takes streams.
//
//go:nosplit
func sink(listener int, buf []byte) {
	var told [1]byte
	for {
		fd, errno := accept(listener)
		if errno != 0 {
			continue
		}
		for got := 0; ; {
			n, errno := read(fd, buf)
			if errno != 0 || n == 0 {
				break
			}
			for got += n; got >= chunk; got -= chunk {
				write(fd, told[:])
			}
		}
		closeFD(fd)
	}
}
