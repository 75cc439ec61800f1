package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// caller makes calls to one address and counts what came of them.
type caller struct {
	to      netip.AddrPort
	udp     bool
	keep    bool // one socket for all calls
	connect bool // UDP: connect the socket
	timeout time.Duration
	fd      int // kept socket; -1: none

	mu     sync.Mutex
	report report.Report
	times  []time.Duration
}

func call(args []string) error {
	c := &caller{fd: -1}
	c.report.Answers, c.report.Last = map[string]int{}, map[string]time.Time{}
	fs := flag.NewFlagSet("call", flag.ExitOnError)
	network := fs.String("net", "tcp", "tcp or udp")
	count := fs.Int("count", 0, "calls to make; 0: until standard input closes")
	gap := fs.Duration("gap", 0, "pause between calls")
	cpu := fs.Int("cpu", -1, "CPU to run on; -1: any")
	fs.BoolVar(&c.keep, "keep", false, "make all calls on one socket")
	fs.BoolVar(&c.connect, "connect", false, "udp: connect the socket")
	fs.DurationVar(&c.timeout, "timeout", 5*time.Second, "for each step of a call")
	fs.Func("addr", "ADDRESS:PORT to call; an IPv4-mapped address is called on an IPv6 socket",
		func(s string) (err error) { c.to, err = netip.ParseAddrPort(s); return err })
	fs.Parse(args)
	if !c.to.IsValid() {
		return fmt.Errorf("want --addr ADDRESS:PORT")
	}
	c.udp = *network == "udp"
	if err := pin(*cpu); err != nil {
		return err
	}
	if *count > 0 {
		for range *count {
			c.once()
			time.Sleep(*gap)
		}
		return c.print()
	}
	return c.untilClosed(*gap)
}

// untilClosed calls until standard input closes, and prints a report for each line read there and
// at the end.
func (c *caller) untilClosed(gap time.Duration) error {
	done := make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if err := c.print(); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			return c.print()
		default:
			c.once()
			time.Sleep(gap)
		}
	}
}

func (c *caller) print() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Answers, r.Last = maps.Clone(r.Answers), maps.Clone(r.Last)
	r.SetTimes(slices.Clone(c.times))
	return json.NewEncoder(os.Stdout).Encode(r)
}

// once makes one call.
func (c *caller) once() {
	start := time.Now()
	name, took, err := c.ask()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Calls++
	if err != nil {
		c.report.Failed++
		f := report.Failure{Start: start, End: time.Now(), Error: explain(err).Error()}
		c.report.Failures = append(c.report.Failures, f)
		if n := len(c.report.Failures); n > report.Most {
			c.report.Failures = c.report.Failures[n-report.Most:]
		}
		return
	}
	c.times = append(c.times, took)
	c.report.Answers[name]++
	c.report.Last[name] = start
}

func (c *caller) ask() (name string, took time.Duration, err error) {
	start := time.Now()
	fd := c.fd
	if fd < 0 {
		if fd, err = c.dial(); err != nil {
			return "", 0, err
		}
	}
	defer func() {
		if c.keep && err == nil {
			c.fd = fd
			return
		}
		unix.Close(fd)
		c.fd = -1
	}()
	name, peer, err := c.exchange(fd)
	took = time.Since(start)
	if err != nil {
		return "", took, err
	}
	if peer == nil {
		if peer, err = unix.Getpeername(fd); err != nil {
			return "", took, os.NewSyscallError("getpeername", err)
		}
	}
	if got := addrPort(peer); got != c.to {
		return "", took, fmt.Errorf("the peer is %s, not %s", got, c.to)
	}
	return name, took, nil
}

func (c *caller) dial() (int, error) {
	kind := unix.SOCK_STREAM
	if c.udp {
		kind = unix.SOCK_DGRAM
	}
	fd, err := open(c.to.Addr(), kind, c.timeout)
	if err != nil {
		return -1, err
	}
	if !c.udp || c.connect {
		if err := connect(fd, sockaddr(c.to)); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	if !c.udp {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	return fd, nil
}

// exchange sends a request and returns the answer, without its closing newline, and for a socket
// that is not connected who sent it.
func (c *caller) exchange(fd int) (name string, peer unix.Sockaddr, err error) {
	buf := make([]byte, 512)
	n := 0
	switch {
	case c.udp && !c.connect:
		if err := unix.Sendto(fd, []byte{askKeep}, 0, sockaddr(c.to)); err != nil {
			return "", nil, os.NewSyscallError("sendto", err)
		}
		err = os.NewSyscallError("recvfrom", retry(func() error {
			n, peer, err = unix.Recvfrom(fd, buf, 0)
			return err
		}))
	case c.udp || c.keep:
		if err := write(fd, []byte{askKeep}); err != nil {
			return "", nil, err
		}
		n, err = read(fd, buf)
	default:
		if err := write(fd, []byte{askClose}); err != nil {
			return "", nil, err
		}
		n, peer, err = c.last(fd, buf)
	}
	if err != nil {
		return "", nil, err
	}
	answer, whole := bytes.CutSuffix(buf[:n], []byte("\n"))
	if !whole {
		return "", nil, fmt.Errorf("connection closed after %d bytes", n)
	}
	return string(answer), peer, nil
}

// last reads the last answer of a connection and its end. The peer's name is asked for in between:
// a closed socket has none.
func (c *caller) last(fd int, buf []byte) (n int, peer unix.Sockaddr, err error) {
	if n, err = read(fd, buf); err != nil || n == 0 {
		return n, nil, err
	}
	if peer, err = unix.Getpeername(fd); err != nil {
		return n, nil, os.NewSyscallError("getpeername", err)
	}
	for more := 1; more > 0 && err == nil; {
		more, err = read(fd, buf[n:])
		n += more
	}
	return n, peer, err
}
