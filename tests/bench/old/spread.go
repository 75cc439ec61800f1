package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"text/tabwriter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// spread measures how writes reach the kernels of nodes. The clock is that of one machine.
type spread struct {
	nodes  []*nstest.Node // the first is told of the writes
	etcd   []string       // client URLs of the store
	sights []*sight
	vip    netip.AddrPort // of the service that changes
	bare   *bareStore
	took   map[string]map[int][]time.Duration // by row, by services
	rows   []string
	moves  int // of the service that changes
}

const spreadPatience = 30 * time.Second // for one write

// table measures with few services and with many.
func (s *spread) table(ctx context.Context, title string, rounds int) (err error) {
	for _, n := range s.nodes {
		sight, err := openSight(n)
		if err != nil {
			return err
		}
		defer sight.services.Close()
		s.sights = append(s.sights, sight)
	}
	if s.bare, err = openBare(ctx, s.etcd); err != nil {
		return err
	}
	defer s.bare.close()
	s.took = map[string]map[int][]time.Duration{}
	there := 0
	for _, services := range []int{fewRegistered, manyRegistered} {
		from := there
		if _, err := registerAll(ctx, s.nodes[0], services-from, func(n int) registry.Instance { return instanceOf(from+n, 0) }); err != nil {
			return err
		}
		there = services
		if s.vip, err = s.find(ctx, "s0"); err != nil {
			return err
		}
		if err := s.measure(ctx, services, rounds*20); err != nil {
			return fmt.Errorf("at %d services: %w", services, err)
		}
		if err := s.lapse(ctx, services); err != nil {
			return fmt.Errorf("leases that end: %w", err)
		}
	}
	for _, n := range s.nodes {
		if _, err := n.Sluice(ctx, "", "check"); err != nil {
			return err
		}
	}
	return s.print(title)
}

// find returns where a service is, once all nodes have its one backend.
func (s *spread) find(ctx context.Context, service string) (vip netip.AddrPort, err error) {
	svc, err := s.nodes[0].API().Service(ctx, registry.Name{Namespace: "default", Name: service})
	if err != nil {
		return vip, err
	}
	for _, a := range svc.VIPs {
		if a.Is4() {
			vip = netip.AddrPortFrom(a, 8080)
		}
	}
	for _, sight := range s.sights {
		if w := <-sight.watch(ctx, vip, 1); w.err != nil {
			return vip, fmt.Errorf("await a backend of %s: %w", vip, w.err)
		}
	}
	return vip, nil
}

// lapse lets instances of several services die without a word, all at once, and notes by how much their
// entries outlive their leases.
func (s *spread) lapse(ctx context.Context, services int) error {
	ctx, cancel := context.WithTimeout(ctx, spreadPatience)
	defer cancel()
	const lease = 5 // seconds
	group, ctx := errgroup.WithContext(ctx)
	last := s.sights[len(s.sights)-1]
	late := make([]time.Duration, fewRegistered-1)
	for i := range late {
		group.Go(func() error {
			one := instanceOf(services-1-i, 1) // those that this was done to before may still be held back
			one.Lease = lease
			vip, err := s.find(ctx, one.Service)
			if err != nil {
				return err
			}
			sent := time.Now()
			if _, err := s.nodes[0].API().Register(ctx, one); err != nil {
				return err
			}
			for _, slots := range []int{2, 1} {
				found := <-last.watch(ctx, vip, slots)
				if found.err != nil {
					return found.err
				}
				late[i] = found.at.Sub(sent) - lease*time.Second
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, took := range late {
		s.add("dead: end of its lease to entry, last node", services, took)
	}
	return nil
}

// write is a change of the registry and how it shows.
type write struct {
	name  string
	do    func(ctx context.Context) (api.Results, error)
	vip   netip.AddrPort
	slots int // that the frontend has after it
}

// measure makes each write in turn with the others, and with one of etcd's own.
func (s *spread) measure(ctx context.Context, services, times int) error {
	client := s.nodes[0].API()
	stop, err := s.bare.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	before, err := usageOf(s.nodes[0].AgentPID())
	if err != nil {
		return err
	}
	for i := range times {
		one := instanceOf(0, 1+i%100)
		one.Lease = 90
		s.moves++
		status := func(status registry.InstanceStatus) func(context.Context) (api.Results, error) {
			return func(ctx context.Context) (api.Results, error) {
				return client.UpdateInstance(ctx, one.InstanceID, fmt.Appendf(nil, `{"status": %q}`, status))
			}
		}
		port := uint16(80 + s.moves%2)
		for _, w := range []write{
			{"registered", func(ctx context.Context) (api.Results, error) { return client.Register(ctx, one) }, s.vip, 2},
			{"goes DOWN", status(registry.InstanceDown), s.vip, 1},
			{"comes UP", status(registry.InstanceUp), s.vip, 2},
			{"deregistered", func(ctx context.Context) (api.Results, error) { return client.Deregister(ctx, one.InstanceID) }, s.vip, 1},
			{"service changed", func(ctx context.Context) (api.Results, error) {
				return client.Apply(ctx, fmt.Appendf(nil, movingService, port))
			}, netip.AddrPortFrom(s.vip.Addr(), port), 1},
		} {
			if err := s.time(ctx, services, w); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
		acknowledged, told, err := s.bare.roundTrip(ctx)
		if err != nil {
			return err
		}
		s.add("etcd alone: put, acknowledged", services, acknowledged)
		s.add("etcd alone: put, a watcher told", services, told)
		late := time.Now().Add(time.Millisecond)
		time.Sleep(time.Millisecond)
		s.add("the machine: a sleep of 1 ms ends late by", services, time.Since(late))
	}
	after, err := usageOf(s.nodes[0].AgentPID())
	s.add("CPU time of the first node's agent, a round of these", services, (after.cpu-before.cpu)/time.Duration(times))
	return err
}

// movingService is the first service with one port more, which is another one each time.
const movingService = `{apiVersion: v1, kind: Service, metadata: {name: s0}, spec: {ports: [
  {name: http, port: 8080, targetPort: http, protocol: TCP}, {name: moving, port: %d, targetPort: http, protocol: TCP}]}}`

// time makes one write, and notes when the store had it and when the nodes' kernels did. An acknowledgement of
// the store leaves it when a watcher is told, or later.
func (s *spread) time(ctx context.Context, services int, w write) error {
	ctx, cancel := context.WithTimeout(ctx, spreadPatience)
	defer cancel()
	var watches []<-chan seen
	for _, sight := range s.sights {
		watches = append(watches, sight.watch(ctx, w.vip, w.slots))
	}
	stored := s.bare.next(ctx, s.bare.objects)
	sent := time.Now()
	r, err := w.do(ctx)
	if err == nil && !r.Synced {
		err = errors.New(r.Warning)
	}
	if err != nil {
		return err
	}
	told := <-stored
	if told.err != nil {
		return told.err
	}
	for i, watch := range watches {
		entry := <-watch
		if entry.err != nil {
			return entry.err
		}
		where := "same node"
		if i > 0 {
			where = "second node"
		}
		s.add(w.name+": request to entry, "+where, services, entry.at.Sub(sent))
		s.add(w.name+": stored to entry, "+where, services, max(0, entry.at.Sub(told.at)))
	}
	return nil
}

func (s *spread) add(row string, services int, took time.Duration) {
	if s.took[row] == nil {
		s.took[row] = map[int][]time.Duration{}
		s.rows = append(s.rows, row)
	}
	s.took[row][services] = append(s.took[row][services], took)
}

// print shows what was measured.
func (s *spread) print(title string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%s: ms at\t%d services, p50\tp99\t%d services, p50\tp99\tp50 to etcd alone\t\n", title, fewRegistered, manyRegistered)
	for _, row := range s.rows {
		fmt.Fprintf(w, "%s\t", row)
		for _, services := range []int{fewRegistered, manyRegistered} {
			list := s.took[row][services]
			fmt.Fprintf(w, "%.2f\t%.2f\t", millis(quantile(list, 0.5)), millis(quantile(list, 0.99)))
		}
		alone := s.took["etcd alone: put, a watcher told"][manyRegistered]
		fmt.Fprintf(w, "%.1f\t\n", float64(quantile(s.took[row][manyRegistered], 0.5))/float64(quantile(alone, 0.5)))
	}
	fmt.Fprintf(w, "Eureka's defaults, at worst: found after %s, gone after %s\t\t\t\t\t\t\n\n", eurekaFound, eurekaRemoved)
	return w.Flush()
}

func millis(d time.Duration) float64 { return d.Seconds() * 1e3 }

// bareStore is the same store without any of Sluice: what a write and its way to whoever watches take at least.
type bareStore struct {
	writer, watcher *clientv3.Client
	own, objects    clientv3.WatchChan // of what is put here, and of what Sluice writes
}

const (
	bareKey    = "/bench/bare"
	objectKeys = "/sluice/v1/"
)

func openBare(ctx context.Context, endpoints []string) (*bareStore, error) {
	b := &bareStore{}
	for _, c := range []**clientv3.Client{&b.writer, &b.watcher} {
		var err error
		if *c, err = clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()}); err != nil {
			b.close()
			return nil, fmt.Errorf("dial etcd: %w", err)
		}
	}
	return b, nil
}

func (b *bareStore) close() {
	for _, c := range []*clientv3.Client{b.writer, b.watcher} {
		if c != nil {
			c.Close()
		}
	}
}

// watch follows the store until stop is called.
func (b *bareStore) watch(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	b.own = b.watcher.Watch(ctx, bareKey, clientv3.WithCreatedNotify())
	b.objects = b.watcher.Watch(ctx, objectKeys, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	for _, events := range []clientv3.WatchChan{b.own, b.objects} {
		if created := <-b.next(ctx, events); created.err != nil {
			cancel()
			return nil, fmt.Errorf("watch etcd: %w", created.err)
		}
	}
	return cancel, nil
}

// next waits for what comes next.
func (b *bareStore) next(ctx context.Context, events clientv3.WatchChan) <-chan seen {
	out := make(chan seen, 1)
	go func() {
		select {
		case r := <-events:
			out <- seen{time.Now(), r.Err()}
		case <-ctx.Done():
			out <- seen{err: ctx.Err()}
		}
	}()
	return out
}

// roundTrip puts a value of an instance's size, and waits until the watcher knows.
func (b *bareStore) roundTrip(ctx context.Context) (acknowledged, told time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, spreadPatience)
	defer cancel()
	event := b.next(ctx, b.own)
	sent := time.Now()
	if _, err := b.writer.Put(ctx, bareKey, fmt.Sprintf("%512d", sent.UnixNano())); err != nil {
		return 0, 0, err
	}
	acknowledged = time.Since(sent)
	e := <-event
	return acknowledged, e.at.Sub(sent), e.err
}
