package main

import (
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
)

// connections are opened one after the other, up to their end: TCP_CRR with a request and its answer on each,
// TCP_CONNECT with none. The server closes first, which the client awaits.
type connections struct {
	silent      bool
	to          *address
	ask, answer []byte
}

func (c *connections) open(o batch.Order) (err error) {
	c.to = addressOf(o.To)
	c.ask, c.answer, err = buffers(o.Bytes, askClose)
	return err
}

//go:nosplit
func (c *connections) once() unix.Errno {
	fd, errno := socket(c.to.family, unix.SOCK_STREAM)
	if errno != 0 {
		return errno
	}
	errno = c.converse(fd)
	closeFD(fd)
	return errno
}

//go:nosplit
func (c *connections) converse(fd int) unix.Errno {
	if errno := connect(fd, c.to); errno != 0 {
		return errno
	}
	if !c.silent {
		if errno := exchange(fd, c.ask, c.answer); errno != 0 {
			return errno
		}
	}
	n, errno := read(fd, c.answer)
	if errno == 0 && n > 0 {
		errno = unix.EPROTO // more than was asked for
	}
	return errno
}

func (c *connections) close() {}
