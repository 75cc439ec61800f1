// Package health asks registered instances whether they are well.
//
// Every agent follows the registry and works out by itself which instances it is the nearest to: those it checks. It
// writes to the registry only when an instance fails or is well again. Until a check has said otherwise the
// registry's word holds, so an agent that starts, or takes over from another, changes nothing that has not changed.
//
// One goroutine knows everything and waits for nothing; each check under way, and each write, has one of its own.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
)

const (
	// defaultAtOnce is what 10 000 instances need that all keep silent, at the default interval and timeout.
	defaultAtOnce = 2048
	writesAtOnce  = 32
	writeTimeout  = 5 * time.Second
	retryFirst    = 100 * time.Millisecond
	retryMost     = 5 * time.Second
)

// Store takes down what checks find.
type Store interface {
	// SetHealth says that an instance fails, or with nil that it is well. It returns the revision from which on that is known.
	SetHealth(ctx context.Context, id registry.InstanceID, h *registry.InstanceHealth) (int64, error)
}

// Options of a Checker.
type Options struct {
	Node   string // whose agent checks
	Source registry.Source
	Store  Store
	// Exec lets instances name commands that this node runs, as the agent's user. Off, such checks are as if
	// they were not there.
	Exec bool
	// AtOnce bounds the checks under way; 0: 2048. Instances that fail get at most half of them, so that they
	// cannot keep others from being found out.
	AtOnce int
	Logger *slog.Logger // nil: nothing is logged

	// probe asks once; nil: over the network.
	probe func(context.Context, *task) error
}

// Checker checks the instances that are nearest to its node.
type Checker struct {
	o       Options
	metrics metrics
	results chan result
	written chan writeResult
}

// New returns a checker that checks nothing yet.
func New(o Options) *Checker {
	if o.AtOnce <= 1 {
		o.AtOnce = defaultAtOnce
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.probe == nil {
		o.probe = probe
	}
	c := &Checker{o: o, results: make(chan result, o.AtOnce), written: make(chan writeResult, writesAtOnce)}
	c.metrics.init()
	return c
}

// Run checks until ctx ends, and then returns nil when nothing is under way any more. It may be called once.
func (c *Checker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	k := newKeeper(c, func(f func(context.Context)) { running.Go(func() { f(ctx) }) })
	batches := c.o.Source.Watch(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case b, open := <-batches:
			if !open {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("check health: %w", errSourceEnded)
			}
			k.apply(b)
		case r := <-c.results:
			k.judge(r)
		case w := <-c.written:
			k.wrote(w)
		case <-timer.C:
		}
		k.proceed(timer)
	}
}

var errSourceEnded = errors.New("the registry ended its stream")
