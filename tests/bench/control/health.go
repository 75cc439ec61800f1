package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/bench/crowd"
	"github.com/sluice-net/sluice/tests/nstest"
)

const (
	healthSubjects = 8                      // that fail at a time, each in its own moment
	healthInterval = 100 * time.Millisecond // of their checks; also their timeout
	healthPort     = 9000                   // of the first subject
)

// Ways to stop answering.
const (
	refuses = "refuses" // its process has died: the kernel says so at the next check
	hangs   = "hangs"   // it takes requests and says nothing: the next check has to run out
)

// health measures from when a backend stops answering until new flows do not go to it any more.
func (b *bench) health(ctx context.Context) (err error) {
	node, err := b.Lab.New(ctx, nstest.Settings{MapScale: 1, Attach: b.Attach})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	sight, err := openSight(node, lookRarely)
	if err != nil {
		return err
	}
	defer sight.services.Close()
	container, err := node.AddContainer(ctx, nstest.Spec{Name: "web", Empty: true})
	if err != nil {
		return err
	}
	var subjects []*patient
	for i := range healthSubjects {
		p := &patient{at: netip.AddrPortFrom(container.V4, healthPort+uint16(i)), in: container}
		defer func() { err = errors.Join(err, p.stop()) }()
		if err := p.admit(ctx, node, sight, i); err != nil {
			return err
		}
		subjects = append(subjects, p)
	}
	for round := -1; round < b.Rounds; round++ {
		for _, way := range []string{refuses, hangs} {
			took := make([]time.Duration, healthSubjects*b.times(2, 1))
			if round < 0 {
				took = took[:healthSubjects]
			}
			group, ctx := errgroup.WithContext(ctx)
			for i, p := range subjects {
				group.Go(func() (err error) {
					for n := i; n < len(took) && err == nil; n += healthSubjects {
						took[n], err = p.fail(ctx, way)
					}
					return err
				})
			}
			if err := group.Wait(); err != nil {
				return fmt.Errorf("a backend that %s: %w", way, err)
			}
			if round >= 0 {
				b.took.Round(of("kind", "health", "step", way, "interval_ms", healthInterval.Milliseconds()), round, took)
			}
		}
	}
	return nil
}

// patient is a backend of a service of its own, beside one that nobody checks.
type patient struct {
	in    *nstest.Container
	at    netip.AddrPort
	vip   netip.AddrPort
	sight *sight

	server *http.Server
	silent atomic.Bool
}

// admit registers it and the other, and waits until both are backends.
func (p *patient) admit(ctx context.Context, node *nstest.Node, sight *sight, i int) error {
	p.sight = sight
	one := crowd.Instance(i, 0)
	one.Addresses, one.Ports[0].Port = []netip.Addr{p.at.Addr()}, p.at.Port()
	one.Checks = []registry.HealthCheck{{
		Type: registry.CheckHTTP, Interval: uint32(healthInterval.Milliseconds()), Timeout: uint32(healthInterval.Milliseconds()),
	}}
	if err := p.serve(ctx); err != nil {
		return err
	}
	for _, instance := range []registry.Instance{crowd.Instance(i, 1), one} {
		if _, err := node.API().Register(ctx, instance); err != nil {
			return err
		}
	}
	var err error
	if p.vip, err = frontend(ctx, node, one.Service); err != nil {
		return err
	}
	_, err = p.await(ctx, 2)
	return err
}

// fail has it stop answering in some moment between two checks, tells after how long it was no backend any more, and
// brings it back.
func (p *patient) fail(ctx context.Context, way string) (took time.Duration, err error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(rand.N(healthInterval)):
	}
	start := time.Now()
	if way == hangs {
		p.silent.Store(true)
	} else if err := p.stop(); err != nil {
		return 0, err
	}
	end, err := p.await(ctx, 1)
	if err != nil {
		return 0, err
	}
	if way == hangs {
		p.silent.Store(false)
	} else if err := p.serve(ctx); err != nil {
		return 0, err
	}
	_, err = p.await(ctx, 2)
	return end.Sub(start), err
}

// await waits until its service has so many backends.
func (p *patient) await(ctx context.Context, backends int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found := <-p.sight.watch(ctx, p.vip, backends)
	if found.err != nil {
		return found.at, fmt.Errorf("await %d backends of %s: %w", backends, p.vip, found.err)
	}
	return found.at, nil
}

// serve answers inside the container, unless it is to be silent: then no longer than the one who asks waits.
func (p *patient) serve(ctx context.Context) error {
	var l net.Listener
	err := p.in.InNetns(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", p.at.String())
		return err
	})
	if err != nil {
		return err
	}
	p.server = &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if p.silent.Load() {
			<-r.Context().Done()
		}
	})}
	go func(s *http.Server) { _ = s.Serve(l) }(p.server)
	return nil
}

// stop ends the server and its connections.
func (p *patient) stop() error {
	if p.server == nil {
		return nil
	}
	return p.server.Close()
}
