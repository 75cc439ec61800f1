package main

import (
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
)

// reconnects connect one UDP socket to the same again and again: UDP_CONNECT_REUSED. Nothing is sent.
type reconnects struct {
	to *address
	fd int
}

func (r *reconnects) open(o batch.Order) (err error) {
	r.to = addressOf(o.To)
	r.fd, err = dial(o, unix.SOCK_DGRAM)
	return err
}

//go:nosplit
func (r *reconnects) once() unix.Errno { return connect(r.fd, r.to) }

func (r *reconnects) close() {
	if r.fd > 0 {
		closeFD(r.fd)
	}
}

// sockets are UDP sockets that are opened, connected and closed one after the other: UDP_CONNECT_NEW.
type sockets struct{ to *address }

func (s *sockets) open(o batch.Order) error {
	s.to = addressOf(o.To)
	return nil
}

//go:nosplit
func (s *sockets) once() unix.Errno {
	fd, errno := socket(s.to.family, unix.SOCK_DGRAM)
	if errno != 0 {
		return errno
	}
	errno = connect(fd, s.to)
	closeFD(fd)
	return errno
}

func (s *sockets) close() {}
