package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/registry/access"
)

const (
	listenRetry   = 5 * time.Second  // until a listener is tried again
	headerTimeout = 10 * time.Second // of a request from the network
	writeTimeout  = time.Minute      // of an answer; streams extend it as they are read
)

// network is a part of the agent that is served over TCP.
type network struct {
	name    string
	addrs   []netip.AddrPort
	local   []netip.AddrPort // for this node only: its containers and itself
	tls     *tls.Config      // of those of addrs that are not loopback
	plain   bool             // these have none
	limiter *access.Limiter
	own     func(netip.Addr) []netip.Addr
	handler http.Handler
	log     *slog.Logger
}

// serve answers at all addresses until ctx ends. An address that cannot be had is waited for: other things of the
// agent are more important, and it may come any time.
func (n *network) serve(ctx context.Context) error {
	var group errgroup.Group
	reuse := slices.ContainsFunc(n.addrs, func(a netip.AddrPort) bool { return a.Addr().IsUnspecified() })
	for _, at := range n.addrs {
		group.Go(func() error { return n.serveAt(ctx, at, false, reuse) })
	}
	for _, at := range n.local {
		group.Go(func() error { return n.serveAt(ctx, at, true, reuse) })
	}
	return group.Wait()
}

func (n *network) serveAt(ctx context.Context, at netip.AddrPort, local, reuse bool) error {
	l := n.listen(ctx, at, reuse)
	if l == nil {
		return nil
	}
	var only func(netip.Addr) bool
	if local {
		only = func(a netip.Addr) bool { return n.own(a) != nil }
	}
	l = n.limiter.Listener(l, only)
	if !local && !at.Addr().IsLoopback() && !n.plain {
		l = tls.NewListener(l, n.tls)
	}
	s := newHTTPServer(n.handler, n.log)
	s.ReadHeaderTimeout, s.WriteTimeout = headerTimeout, writeTimeout
	n.log.Info("listening", "for", n.name, "address", at.String())
	return serveUntil(ctx, s, l, n.log)
}

// listen returns nil when ctx has ended before the address could be had.
func (n *network) listen(ctx context.Context, at netip.AddrPort, reuse bool) net.Listener {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return socketOptions(c, at, reuse) }}
	last := ""
	for {
		l, err := config.Listen(ctx, "tcp", at.String())
		if err == nil {
			return l
		}
		noteOnce(n.log, "listen for "+n.name, &last, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenRetry):
		}
	}
}

// socketOptions lets a socket be bound before a device has its address. With reuse, one that is bound to an address has
// what comes there, and one that is bound to all has the rest.
func socketOptions(c syscall.RawConn, at netip.AddrPort, reuse bool) (err error) {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if at.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	ctlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), level, option, 1)
		if err == nil && reuse {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	})
	if ctlErr != nil {
		return ctlErr
	}
	return err
}
