package scale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/bench/crowd"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// So many instances are there, of which every tenth has a lease and renews it as Eureka's clients do.
const (
	beatServices   = 1000
	beatInstances  = 100_000
	beating        = beatInstances / 10
	heartbeatEvery = 30 * time.Second
	beatFor        = heartbeatEvery     // the agent is watched
	beatFrom       = heartbeatEvery / 3 // the load has then settled
)

// heartbeat measures an agent with many registered instances. It takes long: a quick run leaves it out.
func heartbeat(ctx context.Context, env part.Env) (err error) {
	if env.Quick {
		env.Sheet.Note(Name, "%d registered instances with heartbeats are left to a whole run.", beatInstances)
		return nil
	}
	env.Log("scale: %d registered instances", beatInstances)
	node, eureka, err := crowd.NewEureka(ctx, env.Lab)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, eureka.Close(), node.Close()) }()
	before, err := part.UsageOf(node.AgentPID())
	if err != nil {
		return err
	}
	// Those with a lease come last, and begin to renew it at once.
	took, err := crowd.Register(ctx, node, beatInstances, beatInstance)
	if err != nil {
		return err
	}
	loaded, err := part.UsageOf(node.AgentPID())
	if err != nil {
		return err
	}
	name := func(step string) sheet.Case {
		return sheet.Of(Name, "grow", "instances", "instances", beatInstances, "step", step)
	}
	env.Sheet.Add(name("empty"), 0, 1, memory(before)...)
	env.Sheet.Add(name("register"), 0, beatInstances, append(memory(loaded),
		sheet.Value{Unit: "load-s", Value: took.Seconds()},
		sheet.Value{Unit: "cpu-ns/op", Value: float64(loaded.CPU-before.CPU) / beatInstances})...)
	h := &heartbeats{pid: node.AgentPID(), renewOne: eureka.Renew}
	steady, err := h.watched(ctx)
	if err != nil {
		return err
	}
	if _, err := node.Sluice(ctx, "", "check"); err != nil {
		return err
	}
	instances, err := node.API().Instances(ctx, api.InstanceQuery{Service: "s0"})
	if err != nil {
		return err
	}
	if len(instances) != beatInstances/beatServices {
		return fmt.Errorf("%d instances of a service are left", len(instances))
	}
	database, err := os.Stat(filepath.Join(node.State, "registry/member/snap/db"))
	if err != nil {
		return err
	}
	latencies := part.NewLatencies(env.Sheet)
	latencies.Round(name("heartbeat"), 0, h.took, append(memory(steady),
		sheet.Value{Unit: "cpu-percent", Value: 100 * steady.CPU.Seconds() / beatFor.Seconds()},
		sheet.Value{Unit: "database-B", Value: float64(database.Size())})...)
	latencies.Done()
	if late := h.late.Load(); late > 0 {
		env.Sheet.Note(Name, "%d of %d heartbeats were sent more than a second after their time: the machine was too busy.", late, len(h.took))
	}
	return nil
}

// beatInstance is the n-th of all.
func beatInstance(n int) registry.Instance {
	i := crowd.Instance(n%beatServices, n/beatServices)
	if n >= beatInstances-beating {
		i.Lease = crowd.Lease
	}
	return i
}

// heartbeats renew leases evenly over time, as Eureka's clients do.
type heartbeats struct {
	pid      int // of the agent
	renewOne func(context.Context, registry.InstanceID) error
	mu       sync.Mutex
	took     []time.Duration
	late     atomic.Int64 // sent more than a second after their time
}

// watched renews leases and returns what the agent used meanwhile, once the load has settled.
func (h *heartbeats) watched(ctx context.Context) (u part.Usage, err error) {
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	end := start.Add(beatFrom + beatFor)
	for w := range crowd.Writers {
		group.Go(func() error { return h.renew(ctx, w, start, end) })
	}
	var from part.Usage
	group.Go(func() (err error) {
		if err := pause(ctx, beatFrom); err != nil {
			return err
		}
		if from, err = part.UsageOf(h.pid); err != nil {
			return err
		}
		if err := pause(ctx, beatFor); err != nil {
			return err
		}
		u, err = part.UsageOf(h.pid)
		return err
	})
	err = group.Wait()
	u.CPU -= from.CPU
	return u, err
}

// renew is the share of one of the writers.
func (h *heartbeats) renew(ctx context.Context, w int, start, end time.Time) error {
	var took []time.Duration
	for n := w; ; n += crowd.Writers {
		due := start.Add(time.Duration(n) * heartbeatEvery / beating)
		if due.After(end) {
			break
		}
		if err := pause(ctx, time.Until(due)); err != nil {
			return err
		}
		sent := time.Now()
		if sent.Sub(due) > time.Second {
			h.late.Add(1)
		}
		if err := h.renewOne(ctx, beatInstance(beatInstances-beating+n%beating).InstanceID); err != nil {
			return err
		}
		took = append(took, time.Since(sent))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.took = append(h.took, took...)
	return nil
}

// pause waits so long, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
