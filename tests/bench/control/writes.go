package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/bench/crowd"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// write is a change of the registry and how it shows.
type write struct {
	step  string
	do    func(ctx context.Context) (api.Results, error)
	vip   netip.AddrPort
	slots int // that the frontend has after it
}

// Steps that stand beside the writes.
const (
	etcdPutWatched = "etcd_put_watched"
	machineSleep   = "machine_sleep_1ms"
)

// warmUp is how often each write is made before those that count.
const warmUp = 5

// rounds makes each write in turn with the others, and with one of etcd's own.
func (s *spread) rounds(ctx context.Context, services, times int) error {
	stop, err := s.bare.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for round := -1; round < s.Rounds; round++ {
		count := times
		if round < 0 {
			count = warmUp
		}
		s.inRound, s.order = map[sheet.Case][]time.Duration{}, nil
		before, err := part.UsageOf(s.nodes[0].AgentPID())
		if err != nil {
			return err
		}
		for range count {
			if err := s.each(ctx, services); err != nil {
				return err
			}
		}
		after, err := part.UsageOf(s.nodes[0].AgentPID())
		if err != nil {
			return err
		}
		if round < 0 {
			continue
		}
		for _, c := range s.order {
			s.took.Round(c, round, s.inRound[c])
		}
		s.Sheet.Add(of("kind", "writes_cost", "step", "one_of_each", "node", s.where[0], "services", services), round, count,
			sheet.Value{Unit: "cpu-ns/op", Value: float64(after.CPU-before.CPU) / float64(count)})
	}
	return nil
}

// each makes one write of each kind, and one of etcd alone.
func (s *spread) each(ctx context.Context, services int) error {
	for _, w := range s.writes() {
		if err := s.time(ctx, services, w); err != nil {
			return fmt.Errorf("%s: %w", w.step, err)
		}
	}
	acknowledged, told, err := s.bare.roundTrip(ctx)
	if err != nil {
		return err
	}
	s.add("etcd_put", "request", s.where[0], services, acknowledged)
	s.add(etcdPutWatched, "request", s.where[0], services, told)
	due := time.Now().Add(time.Millisecond)
	time.Sleep(time.Millisecond)
	s.add(machineSleep, "due", s.where[0], services, time.Since(due))
	return nil
}

// movingService is the first service with one port more, which is another one each time.
const movingService = `{apiVersion: v1, kind: Service, metadata: {name: s0}, spec: {ports: [
  {name: http, port: 8080, targetPort: http, protocol: TCP}, {name: moving, port: %d, targetPort: http, protocol: TCP}]}}`

// writes are all kinds of them, in an order that leaves things as they were.
func (s *spread) writes() []write {
	client := s.nodes[0].API()
	s.moves++
	one := crowd.Instance(0, 1+s.moves%100)
	one.Lease = 90
	status := func(status registry.InstanceStatus) func(context.Context) (api.Results, error) {
		return func(ctx context.Context) (api.Results, error) {
			return client.UpdateInstance(ctx, one.InstanceID, fmt.Appendf(nil, `{"status": %q}`, status))
		}
	}
	port := uint16(80 + s.moves%2)
	return []write{
		{"registered", func(ctx context.Context) (api.Results, error) { return client.Register(ctx, one) }, s.vip, 2},
		{"goes_DOWN", status(registry.InstanceDown), s.vip, 1},
		{"comes_UP", status(registry.InstanceUp), s.vip, 2},
		{"deregistered", func(ctx context.Context) (api.Results, error) { return client.Deregister(ctx, one.InstanceID) }, s.vip, 1},
		{"service_changed", func(ctx context.Context) (api.Results, error) {
			return client.Apply(ctx, fmt.Appendf(nil, movingService, port))
		}, netip.AddrPortFrom(s.vip.Addr(), port), 1},
	}
}

// time makes one write, and notes when the store had it and when the nodes' kernels did. An acknowledgement of
// the store leaves it when a watcher is told, or later.
func (s *spread) time(ctx context.Context, services int, w write) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
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
		s.add(w.step, "request", s.where[i], services, entry.at.Sub(sent))
		s.add(w.step, "stored", s.where[i], services, max(0, entry.at.Sub(told.at)))
	}
	return nil
}

func (s *spread) add(step, from, node string, services int, took time.Duration) {
	c := of("kind", "writes_"+node, "step", step, "from", from, "node", node, "services", services)
	if s.inRound[c] == nil {
		s.order = append(s.order, c)
	}
	s.inRound[c] = append(s.inRound[c], took)
}
