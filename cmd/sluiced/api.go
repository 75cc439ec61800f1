package main

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/api"
	apiserver "github.com/sluice-net/sluice/registry/api/server"
)

// apiHandler answers all paths below /v1/. Streams end when stopping is closed: they would outlast the patience
// for requests under way.
func (a *agent) apiHandler(stopping <-chan struct{}) *apiserver.Server {
	return apiserver.New(apiserver.Options{
		Store:     a.store,
		Catalog:   a.catalog,
		Agent:     a,
		Version:   api.Version{Version: version, Node: a.node.Name},
		View:      a.view,
		Watch:     a.hub,
		Registrar: a.store,
		Keeper:    keeper{a.store, a.config.Paths.State},
		Guard:     a.guard,
		Observer:  observer{a.loader, a.store}, Stopping: stopping,
		Metrics: a.metricsHandler(),
		Logger:  a.log.With("part", "api"),
	})
}

// serveAPI serves the API over TCP until ctx ends.
func (a *agent) serveAPI(ctx context.Context, h *apiserver.Server) error {
	c := &a.config.API
	n := network{
		name: "the API", addrs: c.Listen, own: a.owners.of, log: a.log.With("part", "api"),
		limiter: access.NewLimiter(access.Limits{}, a.owners.of),
	}
	n.handler = n.limiter.Handler(h, http.HandlerFunc(h.TooMany))
	if c.NodeLocal {
		n.local = a.config.nodeLocalAt(apiPort)
	}
	if c.TLS.Cert != "" {
		var err error
		if n.tls, err = c.TLS.ServerConfig(n.log); err != nil {
			return err
		}
	}
	return n.serve(ctx)
}

// nodeLocalAt returns the node-local addresses with a port.
func (c *Config) nodeLocalAt(port uint16) (out []netip.AddrPort) {
	for _, a := range c.nodeLocal() {
		out = append(out, netip.AddrPortFrom(a, port))
	}
	return out
}
