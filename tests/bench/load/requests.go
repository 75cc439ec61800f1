package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
)

// requests are round trips on one socket: TCP_RR and UDP_RR.
type requests struct {
	kind   int // SOCK_STREAM or SOCK_DGRAM
	fd     int
	ask    []byte
	answer []byte
}

func (r *requests) open(o batch.Order) (err error) {
	if r.ask, r.answer, err = buffers(o.Bytes, askKeep); err != nil {
		return err
	}
	r.fd, err = dial(o, r.kind)
	return err
}

// buffers makes room for a request that asks for something, and for its answer.
func buffers(size int, ask byte) (request, answer []byte, err error) {
	if size < 1 || size > batch.MaxBytes {
		return nil, nil, fmt.Errorf("requests of %d bytes", size)
	}
	request = make([]byte, size)
	request[0] = ask
	return request, make([]byte, size), nil
}

// dial opens a socket and connects it.
func dial(o batch.Order, kind int) (int, error) {
	to := addressOf(o.To)
	fd, errno := socket(to.family, kind)
	if errno != 0 {
		return 0, fmt.Errorf("open socket: %w", errno)
	}
	if errno := connect(fd, to); errno != 0 {
		closeFD(fd)
		return 0, fmt.Errorf("connect: %w", errno)
	}
	if kind == unix.SOCK_STREAM {
		if err := undelayed(fd); err != nil {
			closeFD(fd)
			return 0, err
		}
	}
	return fd, nil
}

// undelayed has a TCP socket send at once what is less than a segment. Otherwise (Nagle) the end of a stream, and what
// the sink tells of it, wait until all before has been acknowledged, which the other kernel puts off for 40 ms
// (TCP_DELACK_MIN of include/net/tcp.h) when it has nothing to send itself: most of a batch would be that. Connections need no such call:
// nothing is ever under way when one of theirs is written to.
func undelayed(fd int) error {
	return os.NewSyscallError("setsockopt TCP_NODELAY", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

//go:nosplit
func (r *requests) once() unix.Errno { return exchange(r.fd, r.ask, r.answer) }

// exchange sends a request and receives all of its answer.
//
//go:nosplit
func exchange(fd int, ask, answer []byte) unix.Errno {
	if _, errno := write(fd, ask); errno != 0 {
		return errno
	}
	for got := 0; got < len(answer); {
		n, errno := read(fd, answer[got:])
		if errno != 0 {
			return errno
		}
		if n == 0 {
			return unix.ECONNRESET
		}
		got += n
	}
	return 0
}

func (r *requests) close() {
	if r.fd > 0 {
		closeFD(r.fd)
	}
}
