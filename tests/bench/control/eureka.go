package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/bench/crowd"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

const (
	eurekaApps    = 500
	eurekaClients = 8   // that ask, each as soon as it has its answer
	eurekaChanges = 100 // changed instances that a small delta holds
)

// Steps of which there is an aim.
const (
	putHeartbeat  = "PUT_heartbeat"
	getSmallDelta = "GET_small_delta_gzip"
)

// refusedPause is how long a client waits that has asked too often.
const refusedPause = 10 * time.Millisecond

// request is what Eureka's clients ask for; it returns the length of the answer's body.
type request struct {
	kind string
	ask  func(ctx context.Context, n int) (int64, error)
}

// eureka measures what Eureka's clients ask for all the time.
func (b *bench) eureka(ctx context.Context) (err error) {
	node, c, err := crowd.NewEureka(ctx, b.Lab)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(), node.Close()) }()
	instances := b.times(10_000, 2000)
	instance := func(n int) registry.Instance {
		n %= instances
		return crowd.Instance(n%eurekaApps, n/eurekaApps)
	}
	took, err := crowd.InParallel(ctx, crowd.Writers, instances, func(ctx context.Context, n int) error { return c.Register(ctx, instance(n)) })
	if err != nil {
		return err
	}
	b.Sheet.Add(of("kind", "Eureka_load", "step", "POST_register", "instances", instances), 0, instances,
		sheet.Value{Unit: "ops/s", Value: float64(instances) / took.Seconds()})
	get := func(path, encoding string, want int) func(context.Context, int) (int64, error) {
		return func(ctx context.Context, _ int) (int64, error) {
			return c.Ask(ctx, http.MethodGet, path, encoding, "", want)
		}
	}
	if err := b.requests(ctx, node, instances, []request{
		{"GET_none", get("apps/NONE/none", "gzip", http.StatusNotFound)},
		{putHeartbeat, func(ctx context.Context, n int) (int64, error) { return 0, c.Renew(ctx, instance(n).InstanceID) }},
		{"GET_delta_of_all_gzip", get("apps/delta", "gzip", http.StatusOK)},
		{"GET_apps_gzip", get("apps/", "gzip", http.StatusOK)},
		{"GET_apps_plain", get("apps/", "identity", http.StatusOK)},
	}); err != nil {
		return err
	}
	// An agent that has just started knows of no change.
	if err := errors.Join(node.StopAgent(), node.StartAgent(ctx)); err != nil {
		return err
	}
	if _, err := crowd.InParallel(ctx, crowd.Writers, eurekaChanges, func(ctx context.Context, n int) error {
		path := crowd.InstancePath(instance(n).InstanceID) + "/status?value=OUT_OF_SERVICE"
		_, err := c.Ask(ctx, http.MethodPut, path, "identity", "", http.StatusOK)
		return err
	}); err != nil {
		return err
	}
	return b.requests(ctx, node, instances, []request{
		{getSmallDelta, get("apps/delta", "gzip", http.StatusOK)},
	})
}

// requests makes them in turn, round by round.
func (b *bench) requests(ctx context.Context, node *nstest.Node, instances int, list []request) error {
	for round := -1; round < b.Rounds; round++ {
		for _, r := range list {
			if err := b.request(ctx, node, round, of("kind", "Eureka", "step", r.kind, "instances", instances), r); err != nil {
				return fmt.Errorf("%s: %w", r.kind, err)
			}
		}
	}
	return nil
}

// request has several clients ask for a while: how often, how long it took, and what it cost the agent.
func (b *bench) request(ctx context.Context, node *nstest.Node, round int, c sheet.Case, r request) error {
	before, err := part.UsageOf(node.AgentPID())
	if err != nil {
		return err
	}
	lasts := time.Duration(b.times(120, 60)) * time.Millisecond
	var mu sync.Mutex
	var all []time.Duration
	var next, size, refused atomic.Int64
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for range eurekaClients {
		group.Go(func() error {
			var took []time.Duration
			for time.Since(start) < lasts || len(took) == 0 {
				sent := time.Now()
				n, err := r.ask(ctx, int(next.Add(1)))
				if errors.Is(err, crowd.ErrTooOften) {
					refused.Add(1)
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(refusedPause):
					}
					continue
				}
				if err != nil {
					return err
				}
				size.Store(n)
				took = append(took, time.Since(sent))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	lasted := time.Since(start)
	after, err := part.UsageOf(node.AgentPID())
	if err == nil && round >= 0 {
		if round == 0 && refused.Load() > 0 {
			b.Sheet.Note(Name, "%s: one address may ask for no more, and was refused %d times in %s; ops/s is that bound.",
				r.kind, refused.Load(), lasted.Round(time.Millisecond))
		}
		b.took.Round(c, round, all,
			sheet.Value{Unit: "ops/s", Value: float64(len(all)) / lasted.Seconds()},
			sheet.Value{Unit: "cpu-ns/op", Value: float64(after.CPU-before.CPU) / float64(len(all))},
			sheet.Value{Unit: "body-B", Value: float64(size.Load())})
	}
	return err
}
