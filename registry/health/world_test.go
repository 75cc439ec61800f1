package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
)

var (
	errSick = errors.New("sick")
	errAway = errors.New("the store is away")
)

// world is a registry with agents around it, in a bubble of synctest: time passes only when all have nothing to do.
type world struct {
	t    *testing.T
	hub  *registry.Hub
	feed chan registry.Batch
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	revision int64
	known    map[registry.InstanceID]bool
	records  map[registry.InstanceID]registry.InstanceHealth
	writes   int
	away     bool // the store refuses writes
	sick     map[registry.InstanceID]error
	slow     map[registry.InstanceID]bool // keep silent until the time is up
	calls    map[registry.InstanceID][]call
	now      int // checks under way
	most     int
}

// call is one check.
type call struct {
	agent string
	at    time.Time
}

func newWorld(t *testing.T, snapshot ...registry.Change) *world {
	w := &world{
		t: t, feed: make(chan registry.Batch, 1<<16),
		known: map[registry.InstanceID]bool{}, records: map[registry.InstanceID]registry.InstanceHealth{},
		sick: map[registry.InstanceID]error{}, slow: map[registry.InstanceID]bool{}, calls: map[registry.InstanceID][]call{},
	}
	w.hub = registry.NewHub(w, registry.HubOptions{})
	w.send(true, snapshot...)
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	w.done.Go(func() { w.hub.Run(ctx) })
	return w
}

func (w *world) end() {
	w.stop()
	close(w.feed)
	w.done.Wait()
}

// lag is how long after a write the agents hear of it.
const lag = 20 * time.Millisecond

// Watch implements registry.Source.
func (w *world) Watch(context.Context) <-chan registry.Batch {
	out := make(chan registry.Batch)
	w.done.Go(func() {
		defer close(out)
		for b := range w.feed {
			if !b.Snapshot {
				time.Sleep(lag)
			}
			out <- b
		}
	})
	return out
}

func (w *world) send(snapshot bool, changes ...registry.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sendLocked(snapshot, changes...)
}

func (w *world) sendLocked(snapshot bool, changes ...registry.Change) {
	for _, ch := range changes {
		switch {
		case ch.Instance != nil && ch.Deleted:
			delete(w.known, ch.Instance.InstanceID)
		case ch.Instance != nil:
			w.known[ch.Instance.InstanceID] = true
		case ch.Health != nil && ch.Deleted:
			delete(w.records, ch.Health.InstanceID)
		case ch.Health != nil:
			w.records[ch.Health.InstanceID] = *ch.Health
		}
	}
	w.revision++
	w.feed <- registry.Batch{Revision: w.revision, Snapshot: snapshot, Changes: changes}
}

// SetHealth implements Store. A write takes a moment.
func (w *world) SetHealth(ctx context.Context, id registry.InstanceID, h *registry.InstanceHealth) (int64, error) {
	time.Sleep(5 * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes++
	switch {
	case w.away:
		return 0, fmt.Errorf("set health of %s: %w", id, errAway)
	case !w.known[id]:
		return 0, registry.ErrNotFound
	case h == nil:
		w.sendLocked(false, registry.Change{Health: &registry.InstanceHealth{InstanceID: id}, Deleted: true})
	default:
		w.sendLocked(false, registry.Change{Health: h})
	}
	return w.revision, nil
}

// agent runs a checker of a node until the func is called.
func (w *world) agent(node string, o Options) (stop func()) {
	o.Node, o.Source, o.Store = node, w.hub, w
	o.probe = func(ctx context.Context, t *task) error { return w.probe(ctx, node, t) }
	c := New(o)
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("agent %s: %v", node, err)
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

func (w *world) probe(ctx context.Context, node string, t *task) error {
	id := t.of.InstanceID
	w.mu.Lock()
	w.calls[id] = append(w.calls[id], call{node, time.Now()})
	err, slow := w.sick[id], w.slow[id]
	w.now++
	w.most = max(w.most, w.now)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.now--
	}()
	if !slow {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// set makes an instance sick, or well.
func (w *world) set(id registry.InstanceID, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sick[id] = err
}

// record is what the registry says of an instance.
func (w *world) record(id registry.InstanceID) (registry.InstanceHealth, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h, ok := w.records[id]
	return h, ok
}

func (w *world) written() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes
}

// callsOf returns the checks of an instance since they were asked for last.
func (w *world) callsOf(id registry.InstanceID) []call {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.calls[id]
	delete(w.calls, id)
	return list
}

func name(n int) registry.InstanceID {
	return registry.InstanceID{Namespace: "x", Service: "web", ID: fmt.Sprint(n)}
}

// instance makes instance number n, with one check a second.
func instance(n int, node string, checks ...registry.HealthCheck) registry.Change {
	if checks == nil {
		checks = []registry.HealthCheck{{}}
	}
	for i := range checks {
		c := &checks[i]
		c.Type = cmp.Or(c.Type, registry.CheckTCP)
		c.Interval = cmp.Or(c.Interval, 1000)
		c.Timeout = cmp.Or(c.Timeout, 500)
	}
	return registry.Change{Instance: &registry.Instance{
		InstanceID: name(n), Node: node, Status: registry.InstanceUp, Checks: checks,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, byte(2 + n>>8), byte(n)})},
		Ports:     []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
	}}
}

func lease(node string, deleted bool) registry.Change {
	return registry.Change{NodeLease: &registry.NodeLease{Node: node}, Deleted: deleted}
}
