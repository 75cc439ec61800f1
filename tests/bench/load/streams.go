package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
)

// streams are written to for as long as there is room in any: TCP_STREAM is one of them, TCP_STREAMS
// several. What counts is what the sink tells that it has got, so that what rests in buffers does not.
type streams struct {
	fds  []unix.PollFd
	sent []int // of each, bytes
	data []byte
}

func (s *streams) open(o batch.Order) error {
	if o.Bytes < 1 || o.Bytes > chunk {
		return fmt.Errorf("writes of %d bytes", o.Bytes)
	}
	n := 1
	if o.Kind == batch.TCPStreams {
		n = o.Streams
	}
	if n < 1 || n > sinks {
		return fmt.Errorf("%d streams: want 1 to %d", n, sinks)
	}
	s.data, s.sent = make([]byte, o.Bytes), make([]int, n)
	for range n {
		fd, err := dial(o, unix.SOCK_STREAM)
		if err != nil {
			return err
		}
		s.fds = append(s.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("set a stream not to block: %w", err)
		}
	}
	return nil
}

func (s *streams) run(length time.Duration, _ int, _ *batch.Histogram) (r batch.Result, errno unix.Errno) {
	start := now()
	if errno = s.fill(start + length); errno == 0 {
		errno = s.settle()
	}
	r.Elapsed = now() - start
	for i := range s.sent {
		r.N += s.sent[i] / 1024
		s.sent[i] = 0
	}
	return r, errno
}

// fill writes to each stream in turn that has room, to the end of a chunk after the time is over.
//
//go:nosplit
func (s *streams) fill(until time.Duration) unix.Errno {
	for open := len(s.fds); open > 0; {
		full := true
		for i := range s.fds {
			if s.fds[i].Events == 0 {
				continue
			}
			n, errno := write(int(s.fds[i].Fd), s.data[:min(len(s.data), chunk-s.sent[i]%chunk)])
			if errno == unix.EAGAIN {
				continue
			}
			if errno != 0 {
				return errno
			}
			full = false
			if s.sent[i] += n; s.sent[i]%chunk == 0 && now() >= until {
				s.fds[i].Events = 0
				open--
			}
		}
		if full {
			if errno := poll(s.fds); errno != 0 {
				return errno
			}
		}
	}
	return 0
}

// settle waits until the sink has got all that was sent.
//
//go:nosplit
func (s *streams) settle() unix.Errno {
	for i := range s.fds {
		p := s.fds[i : i+1]
		for left := s.sent[i] / chunk; left > 0; {
			p[0].Events = unix.POLLIN
			if errno := poll(p); errno != 0 {
				return errno
			}
			n, errno := read(int(p[0].Fd), s.data[:min(left, len(s.data))])
			if errno != 0 && errno != unix.EAGAIN {
				return errno
			}
			if errno == 0 && n == 0 {
				return unix.ECONNRESET
			}
			left -= max(0, n)
		}
		p[0].Events = unix.POLLOUT
	}
	return 0
}

func (s *streams) close() {
	for _, p := range s.fds {
		closeFD(int(p.Fd))
	}
}
