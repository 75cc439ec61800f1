package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

const writers = 128 // at a time, where it is not one write that is timed

// instanceOf is the j-th instance of the i-th service, somewhere that nobody can reach.
func instanceOf(i, j int) registry.Instance {
	n := i<<7 | j
	return registry.Instance{
		InstanceID: registry.InstanceID{Namespace: "default", Service: fmt.Sprintf("s%d", i), ID: fmt.Sprintf("s%d:%d", i, j)},
		Addresses:  []netip.Addr{netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)})},
		Ports:      []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
		Status:     registry.InstanceUp,
		Metadata:   map[string]string{"zone": "here", "build": "2041", "management.port": "8081"},
	}
}

// registerAll registers instances, many at a time.
func registerAll(ctx context.Context, node *nstest.Node, count int, of func(n int) registry.Instance) (time.Duration, error) {
	var clients [writers]*api.Client // each keeps few connections
	for i := range clients {
		clients[i] = api.NewClient(node.Socket())
		defer clients[i].Close()
	}
	return inParallel(ctx, count, func(ctx context.Context, n int) error {
		return registerOne(ctx, clients[n%writers], of(n))
	})
}

// inParallel does so much, many at a time, and tells how long it took.
func inParallel(ctx context.Context, count int, do func(ctx context.Context, n int) error) (time.Duration, error) {
	start := time.Now()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			for n := int(next.Add(1)) - 1; n < count; n = int(next.Add(1)) - 1 {
				if err := do(ctx, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return time.Since(start), err
}

// registerOne tries again where an election got in between: on a busy machine members miss each other.
func registerOne(ctx context.Context, client *api.Client, i registry.Instance) error {
	r, err := client.Register(ctx, i)
	var of *api.Error
	for errors.As(err, &of) && of.Status == http.StatusServiceUnavailable && ctx.Err() == nil {
		r, err = client.Register(ctx, i)
	}
	if err == nil && !r.Synced {
		err = errors.New("register: " + r.Warning)
	}
	return err
}

func millis(d time.Duration) float64 { return d.Seconds() * 1e3 }
