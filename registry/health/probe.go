package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/sluice-net/sluice/registry"
)

const (
	maxReason = 256 // bytes of what a check found
	userAgent = "sluice-health"
)

// subject is what a check asks, made ready.
type subject struct {
	addrs []netip.AddrPort // all of the instance's own, and nothing else
	http  *httpQuestion
	err   error // why the check cannot be made
}

func newSubject(w *watched, c *registry.HealthCheck) (s subject) {
	port := c.Port
	if port == 0 {
		port = firstPort(w.Ports)
	}
	for _, a := range w.addrs {
		s.addrs = append(s.addrs, netip.AddrPortFrom(a, port))
	}
	if c.Type == registry.CheckHTTP {
		s.http, s.err = newHTTPQuestion(c)
	}
	if port == 0 && c.Type != registry.CheckExec {
		s.err = errors.New("the instance has no port")
	}
	return s
}

// probe makes a check, of each address: each is a backend.
func probe(ctx context.Context, t *task) error {
	if t.subject.err != nil {
		return t.subject.err
	}
	if t.check.Type == registry.CheckExec {
		return probeExec(ctx, t)
	}
	for _, a := range t.subject.addrs {
		if err := probeAddr(ctx, t, a); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err() // whichever step it was that time ran out in
			}
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return nil
}

func probeAddr(ctx context.Context, t *task, a netip.AddrPort) error {
	switch t.check.Type {
	case registry.CheckTCP:
		return probeTCP(ctx, a)
	case registry.CheckHTTP:
		return t.subject.http.ask(ctx, a)
	case registry.CheckGRPC:
		return probeGRPC(ctx, a, t.check.Service)
	}
	return fmt.Errorf("type %q is not known", t.check.Type)
}

// dial connects to an address, through no proxy and after no look-up.
func dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", a.String())
}

// probeTCP wants a connection. It is ended with a reset: at a thousand checks a second, connections that wait for a minute
// after their end (TIME-WAIT, RFC 9293, 3.6) would take up the ports.
func probeTCP(ctx context.Context, a netip.AddrPort) error {
	conn, err := dial(ctx, a)
	if err != nil {
		return err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return conn.Close()
}

// errOurs is of a check that was not made, because this node has no more of what it takes.
var errOurs = errors.New("the check could not be made")

// ours tells whether an error speaks of this node, and of no instance: open files, processes and memory are all taken
// (socket(2), connect(2), fork(2)).
func ours(err error) bool {
	if errors.Is(err, errOurs) {
		return true
	}
	var number syscall.Errno
	if !errors.As(err, &number) {
		return false
	}
	switch number {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN:
		return true
	}
	return false
}

// reason says in a line what a check found. What the instance has sent may be part of it.
func reason(c *registry.HealthCheck, err error) string {
	var number syscall.Errno
	text := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		_, ms := c.Times()
		text = fmt.Sprintf("no answer within %d ms", ms)
	case errors.As(err, &number):
		text = number.Error()
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if text = string(c.Type) + ": " + text; len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}
