package main

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka"
)

// newEureka returns nil where Eureka's clients are not to be answered.
func (a *agent) newEureka() *eureka.Server {
	if !a.config.Eureka.Enabled {
		return nil
	}
	return eureka.New(eureka.Options{
		Source: a.hub, Registrar: a.store, Guard: a.guard,
		Namespace: a.config.Eureka.Namespace, Node: a.node.Name,
		Logger: a.log.With("part", "eureka"),
	})
}

// serveEureka answers Eureka's clients until ctx ends.
func (a *agent) serveEureka(ctx context.Context) error {
	if a.eureka == nil {
		return nil
	}
	c := &a.config.Eureka
	n := network{
		name: "Eureka's clients", addrs: c.Listen, plain: c.Plain, own: a.owners.of, log: a.log.With("part", "eureka"),
		limiter: access.NewLimiter(access.Limits{}, a.owners.of),
	}
	n.handler = n.limiter.Handler(a.eureka, http.HandlerFunc(a.eureka.TooMany))
	if c.NodeLocal {
		n.local = a.config.nodeLocalAt(eureka.Port)
	}
	if c.TLS.Cert != "" {
		var err error
		if n.tls, err = c.TLS.ServerConfig(n.log); err != nil {
			return fmt.Errorf("eureka: %w", err)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		a.eureka.Run(ctx)
		return nil
	})
	group.Go(func() error { return n.serve(ctx) })
	return group.Wait()
}
