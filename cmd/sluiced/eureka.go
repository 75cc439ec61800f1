package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/eureka"
)

// newEureka returns nil where Eureka's clients are not to be answered.
func (a *agent) newEureka() (*eureka.Server, error) {
	c := &a.config.Eureka
	if !c.Enabled {
		return nil, nil
	}
	transport, err := eureka.NewTransport(c.PeerCA)
	if err != nil {
		return nil, fmt.Errorf("eureka: %w", err)
	}
	return eureka.New(eureka.Options{
		Source: a.hub, Registrar: a.store, Guard: a.guard,
		Namespace: c.Namespace, Node: a.node.Name, Peers: c.Peers, Transport: transport, Registry: a.store.ID,
		Logger: a.log.With("part", "eureka"),
	}), nil
}

// peersCondition remarks on servers that are to be told of what Eureka's clients do here, and are not. It is no reason
// to keep a node from work.
func (a *agent) peersCondition() []api.Condition {
	if a.eureka == nil || len(a.config.Eureka.Peers) == 0 {
		return nil
	}
	c := condition("peers", nil)
	c.Message = remark(a.eureka.Peers())
	return []api.Condition{c}
}

// remark says which peers are not told; empty: all are.
func remark(peers []eureka.Peer) string {
	var silent []string
	for _, p := range peers {
		if p.Err != nil {
			silent = append(silent, fmt.Sprintf("%s: %v, since %s, with %d tasks to be told",
				p.Name, p.Err, p.Since.UTC().Format(time.RFC3339), p.Waiting))
		}
	}
	if len(silent) == 0 {
		return ""
	}
	return "servers of eureka.peers are not told of changes: " + strings.Join(silent, "; ")
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
