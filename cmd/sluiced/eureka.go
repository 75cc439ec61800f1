package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry/eureka"
)

// listenAgain is how long to wait before an address is tried again that something else has.
const listenAgain = 5 * time.Second

func (a *agent) newEureka() *eureka.Server {
	if !a.config.Eureka.Enabled {
		return nil
	}
	return eureka.New(eureka.Options{
		Source: a.hub, Registrar: a.store, Guard: a.guard,
		Namespace: a.config.Eureka.Namespace, Node: a.node.Name, Rate: a.config.Eureka.Rate,
		Logger: a.log.With("part", "eureka"),
	})
}

// serveEureka answers Eureka's clients until ctx ends.
func (a *agent) serveEureka(ctx context.Context) error {
	if a.eureka == nil {
		return nil
	}
	c, log := &a.config.Eureka, a.log.With("part", "eureka")
	var encryption *tls.Config
	if c.TLS.Cert != "" {
		var err error
		if encryption, err = c.TLS.ServerConfig(log); err != nil {
			return fmt.Errorf("eureka: %w", err)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		a.eureka.Run(ctx)
		return nil
	})
	for _, at := range c.Listen {
		group.Go(func() error {
			return a.serveEurekaAt(ctx, at, func(l net.Listener) net.Listener {
				if encryption == nil || at.Addr().IsLoopback() {
					return l
				}
				return tls.NewListener(l, encryption)
			}, log)
		})
	}
	for _, addr := range a.config.nodeLocal() {
		group.Go(func() error {
			return a.serveEurekaAt(ctx, netip.AddrPortFrom(addr, eureka.Port), func(l net.Listener) net.Listener {
				return ownListener{l, &a.owners}
			}, log)
		})
	}
	return group.Wait()
}

// serveEurekaAt answers at one address. One that something else has, such as a Eureka server that this one is to
// follow, is tried again: nothing else of the agent depends on it.
func (a *agent) serveEurekaAt(ctx context.Context, at netip.AddrPort, wrap func(net.Listener) net.Listener, log *slog.Logger) error {
	var said string
	for {
		l, err := net.Listen("tcp", at.String())
		if err == nil {
			return serveHTTP(ctx, wrap(a.eureka.Limit(l)), a.eureka, log)
		}
		if said != err.Error() {
			said = err.Error()
			log.Warn("Eureka's clients are not answered there; it is tried again", "address", at.String(), "error", errors.Unwrap(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
	}
}

// ownListener lets in only this node and its containers, whose addresses are their own: the kernel has seen to it.
type ownListener struct {
	net.Listener
	owners *owners
}

// Accept implements net.Listener.
func (l ownListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err == nil && len(l.owners.of(from.Addr().Unmap())) > 0 {
			return conn, nil
		}
		conn.Close()
	}
}
