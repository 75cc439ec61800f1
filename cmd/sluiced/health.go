package main

import (
	"context"

	"github.com/sluice-net/sluice/registry/health"
)

// healthConfig says how this node checks instances.
type healthConfig struct {
	Exec bool // instances may name commands, which run here as the agent does
}

func (h *healthConfig) schema(d *document) decoder {
	return d.object(keys{"exec": d.boolean(&h.Exec)})
}

func (a *agent) newChecker() *health.Checker {
	return health.New(health.Options{
		Node: a.node.Name, Source: a.hub, Store: a.store, Exec: a.config.Health.Exec, Logger: a.log.With("part", "health"),
	})
}

// checkHealth checks instances until ctx ends.
func (a *agent) checkHealth(ctx context.Context) error { return ended(ctx, a.checker.Run(ctx)) }
