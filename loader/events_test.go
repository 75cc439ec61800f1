package loader

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// fakeRing is a ring buffer that a test fills.
type fakeRing struct {
	records chan []byte
	flushed chan struct{}
	closed  chan struct{}
	once    sync.Once
	fail    chan error

	mu       sync.Mutex
	deadline time.Time
}

func newFakeRing() *fakeRing {
	return &fakeRing{
		records: make(chan []byte), flushed: make(chan struct{}, 1), closed: make(chan struct{}), fail: make(chan error),
	}
}

func (r *fakeRing) ReadInto(rec *ringbuf.Record) error {
	r.mu.Lock()
	deadline := r.deadline
	r.mu.Unlock()
	var late <-chan time.Time
	if !deadline.IsZero() {
		late = time.After(time.Until(deadline))
	}
	select {
	case rec.RawSample = <-r.records:
		return nil
	case <-r.flushed:
		return ringbuf.ErrFlushed
	case <-late:
		return os.ErrDeadlineExceeded
	case err := <-r.fail:
		return err
	case <-r.closed:
		return ringbuf.ErrClosed
	}
}

func (r *fakeRing) SetDeadline(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t
}

func (r *fakeRing) Flush() error {
	select {
	case r.flushed <- struct{}{}:
	default:
	}
	return nil
}

func (r *fakeRing) Close() error { r.once.Do(func() { close(r.closed) }); return nil }

// fakeNames knows endpoints 1 (shop/client) and 2 (shop/db), identity 9, policy 3 and service 4.
type fakeNames struct{}

func (fakeNames) EndpointOf(id uint32) (registry.Endpoint, bool) {
	name := map[uint32]string{1: "client", 2: "db"}[id]
	return registry.Endpoint{
		Name:       registry.Name{Namespace: "shop", Name: name},
		EndpointID: registry.EndpointID{Node: "n1", ContainerID: strings.Repeat(name, 8), Interface: "eth0"},
	}, name != ""
}

func (fakeNames) IdentityName(number uint32) (i policy.Identity, known bool) {
	switch number {
	case 9:
		i.Blocks = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("203.0.0.0/16")}
	case 8:
		i.Workload = &policy.Workload{Namespace: "shop", Labels: map[string]string{"b": "2", "a": "1"}}
	default:
		return i, false
	}
	return i, true
}

func (fakeNames) Explain(uint32, registry.Direction, uint32, uint8, uint16) []policy.Reason {
	return nil
}

func (fakeNames) PolicyName(n uint32) (registry.PolicyID, bool) {
	return registry.PolicyID{Name: registry.Name{Namespace: "shop", Name: "db"}}, n == 3
}

func (fakeNames) ServiceName(id uint32) (registry.Name, string, bool) {
	return registry.Name{Namespace: "shop", Name: "web"}, "http", id == 4
}

func fakeEventNames() *eventNames {
	return &eventNames{naming: fakeNames{}, reasons: reasonNames(), wire: func(ifindex int) (string, registry.Endpoint, bool) {
		e, _ := fakeNames{}.EndpointOf(1)
		return "sl7", e, ifindex == 7
	}}
}

// testHub is a hub that reads a fake ring.
func testHub(t *testing.T) (h *eventHub, ring *fakeRing, lost *atomic.Uint64) {
	t.Helper()
	ring, lost = newFakeRing(), new(atomic.Uint64)
	h = newEventHub(fakeEventNames().describe, func() (uint64, error) { return lost.Load(), nil }, slog.New(slog.DiscardHandler))
	h.start(ring)
	t.Cleanup(h.close)
	return h, ring, lost
}

func recordOf(e podEvent) []byte {
	return slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)))
}

func reasonPlace(t *testing.T, name string) uint32 {
	t.Helper()
	i := slices.Index(reasonNames(), name)
	if i < 0 {
		t.Fatalf("no counter %s among %v", name, reasonNames())
	}
	return uint32(i)
}

// dropEvent is a drop of what shop/client sent to port port of shop/db.
func dropEvent(t *testing.T, port uint16) podEvent {
	e := podEvent{
		Type: 1, Proto: protoTCP, Sport: 40000, Dport: port, Direction: 1, Reason: reasonPlace(t, "egress"),
		Policy: 3, Service: 4, SrcIdentity: 10, DstIdentity: 11, SrcEndpoint: 1, DstEndpoint: 2, Ifindex: 7,
	}
	e.Saddr.Bytes = netip.MustParseAddr("10.244.1.10").As16()
	e.Daddr.Bytes = netip.MustParseAddr("10.244.1.11").As16()
	return e
}

func next(t *testing.T, s *EventStream) *registry.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	e, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func subscribe(t *testing.T, h *eventHub, f registry.EventFilter) *EventStream {
	t.Helper()
	s, err := h.subscribe(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestEventNames: every number of a record gets its name.
func TestEventNames(t *testing.T) {
	names := fakeEventNames()
	got := names.describe(new(dropEvent(t, 5432)))
	if age := time.Since(got.Time); age < time.Hour/60 {
		t.Errorf("time is %s: want that of the machine's start", got.Time)
	}
	got.Time = time.Time{}
	if got.Type != registry.EventDrop || got.Reason != "egress" || got.Direction != registry.Egress || got.Protocol != "TCP" ||
		got.Source.Endpoint() != "shop/client:40000" || got.Destination.Endpoint() != "shop/db:5432" ||
		got.Source.Address.String() != "10.244.1.10" || got.Source.Container != strings.Repeat("client", 8) ||
		got.Policy.String() != "NetworkPolicy shop/db" || got.Service.String() != "shop/web" || got.Interface != "" {
		t.Errorf("got %+v", got)
	}
	for _, x := range []struct {
		change func(*podEvent)
		want   string // source and what is known of it
	}{
		{func(e *podEvent) { e.SrcEndpoint, e.SrcIdentity = 0, identityWorld }, "world 10.244.1.10:40000  "},
		{func(e *podEvent) { e.SrcEndpoint, e.SrcIdentity = 0, identityNode }, "node node:40000  "},
		{func(e *podEvent) { e.SrcEndpoint, e.SrcIdentity = 0, 9 }, "block 10.244.1.10:40000 203.0.113.0/24,203.0.0.0/16 "},
		{func(e *podEvent) { e.SrcEndpoint, e.SrcIdentity = 0, 8 }, "block 10.244.1.10:40000 shop{a=1,b=2} "},
		{func(e *podEvent) { e.SrcEndpoint = 99 }, "container 10.244.1.10:40000  "},
		{func(e *podEvent) { e.SrcEndpoint, e.SrcIdentity = 0, 0 }, "forged 10.244.1.10:40000  sl7"},
		{func(e *podEvent) { e.SrcEndpoint, e.SrcIdentity, e.Ifindex = 0, 0, 8 }, "forged 10.244.1.10:40000  "},
		{func(e *podEvent) { *e = podEvent{Type: 1, Ifindex: 7} }, "forged forged  sl7"},
	} {
		raw := dropEvent(t, 80)
		x.change(&raw)
		e := names.describe(&raw)
		if text := string(e.Source.Kind) + " " + e.Source.Endpoint() + " " + e.Source.Group + " " + e.Interface; text != x.want {
			t.Errorf("got %q, want %q", text, x.want)
		}
	}
}

// FuzzEvent: no record makes the agent crash, and what has the size of an event is one.
func FuzzEvent(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, unsafe.Sizeof(podEvent{})))
	f.Add(make([]byte, 200))
	f.Fuzz(func(t *testing.T, record []byte) {
		raw, err := parseEvent(record)
		if (err == nil) != (len(record) >= int(unsafe.Sizeof(raw))) {
			t.Fatalf("%d bytes: %v", len(record), err)
		}
		e := fakeEventNames().describe(&raw)
		if e.Type == "" || e.Source.Kind == "" || e.Time.After(time.Now()) {
			t.Errorf("%+v", e)
		}
		(&registry.EventFilter{Namespace: "shop"}).Matches(e)
	})
}

// TestEventsFanOut: each stream gets what it asks for, from its beginning to its end.
func TestEventsFanOut(t *testing.T) {
	h, ring, _ := testHub(t)
	ring.records <- recordOf(dropEvent(t, 1)) // nobody listens
	all := subscribe(t, h, registry.EventFilter{})
	some := subscribe(t, h, registry.EventFilter{Port: 3})
	ring.records <- []byte("short")
	ring.records <- recordOf(dropEvent(t, 2))
	ring.records <- append(recordOf(dropEvent(t, 3)), "of a later version"...)
	if e := next(t, all); e.Destination.Port != 2 {
		t.Errorf("first event %+v", e)
	}
	if e := next(t, all); e.Destination.Port != 3 {
		t.Errorf("second event %+v", e)
	}
	if e := next(t, some); e.Destination.Port != 3 {
		t.Errorf("event %+v: want the one that the filter lets through", e)
	}
	some.Close()
	some.Close()
	ring.records <- recordOf(dropEvent(t, 3))
	if e := next(t, all); e.Destination.Port != 3 {
		t.Errorf("event %+v", e)
	}
	if len(some.queue) > 0 {
		t.Error("a stream that was closed gets events")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := all.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next of a cancelled context: %v", err)
	}
	h.close()
	if _, err := all.Next(t.Context()); err != io.EOF {
		t.Errorf("Next after the end: %v", err)
	}
	if _, err := h.subscribe(registry.EventFilter{}); !errors.Is(err, errClosed) {
		t.Errorf("subscribe after the end: %v", err)
	}
}

// TestEventsSlowStream: who does not read holds up nobody, and is told how much was missed.
func TestEventsSlowStream(t *testing.T) {
	h, ring, _ := testHub(t)
	slow := subscribe(t, h, registry.EventFilter{})
	quick := subscribe(t, h, registry.EventFilter{})
	const more = 77
	for i := range eventQueue + more {
		ring.records <- recordOf(dropEvent(t, uint16(i+1)))
		if e := next(t, quick); e.Destination.Port != uint16(i+1) {
			t.Fatalf("event %d of the quick stream: %+v", i, e)
		}
	}
	if e := next(t, slow); e.Type != registry.EventLost || e.Missed != more || e.Lost != 0 {
		t.Errorf("got %+v, want news of %d missed events", e, more)
	}
	for i := range eventQueue {
		if e := next(t, slow); e.Destination.Port != uint16(i+1) {
			t.Fatalf("event %d of the slow stream: %+v", i, e)
		}
	}
}

// TestEventsLost: what the kernel did not report is told without another event, and only to who was there.
func TestEventsLost(t *testing.T) {
	h, _, lost := testHub(t)
	lost.Store(5)
	first := subscribe(t, h, registry.EventFilter{Port: 1})
	lost.Store(12)
	if e := next(t, first); e.Type != registry.EventLost || e.Lost != 7 {
		t.Errorf("got %+v, want news of 7 lost events", e)
	}
	first.Close()
	lost.Store(100)
	second := subscribe(t, h, registry.EventFilter{})
	lost.Store(101)
	if e := next(t, second); e.Type != registry.EventLost || e.Lost != 1 {
		t.Errorf("got %+v, want news of 1 lost event", e)
	}
}

// TestEventsBounds: there are only so many streams, and an error of the ring ends them all.
func TestEventsBounds(t *testing.T) {
	h, ring, _ := testHub(t)
	var last *EventStream
	for range maxEventStreams {
		last = subscribe(t, h, registry.EventFilter{})
	}
	if _, err := h.subscribe(registry.EventFilter{}); !errors.Is(err, ErrStreams) {
		t.Errorf("one stream too many: %v", err)
	}
	last.Close()
	last = subscribe(t, h, registry.EventFilter{})
	ring.fail <- errors.New("of the ring")
	if _, err := last.Next(t.Context()); err != io.EOF {
		t.Errorf("Next after the ring's error: %v", err)
	}
}

// TestWatches: a container is watched from its first stream to its last.
func TestWatches(t *testing.T) {
	a, b := registry.EndpointID{ContainerID: "a"}, registry.EndpointID{ContainerID: "b"}
	on := map[string]bool{}
	var calls []string
	w := watches{count: map[registry.EndpointID]int{}, set: func(id registry.EndpointID, to bool) error {
		if id.ContainerID == "gone" {
			return registry.ErrNotFound
		}
		on[id.ContainerID] = to
		calls = append(calls, id.ContainerID)
		return nil
	}}
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	try(w.begin([]registry.EndpointID{a, b}))
	try(w.begin([]registry.EndpointID{a}))
	try(w.end([]registry.EndpointID{a, b}))
	if !on["a"] || on["b"] {
		t.Errorf("watched: %v, want a only", on)
	}
	if err := w.begin([]registry.EndpointID{b, {ContainerID: "gone"}}); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("watch of what is gone: %v", err)
	}
	if on["b"] {
		t.Error("b stays watched after an error")
	}
	try(w.end([]registry.EndpointID{a}))
	if on["a"] || len(w.count) > 0 {
		t.Errorf("watched: %v, counts %v, want none", on, w.count)
	}
	if want := "a b b b b a"; strings.Join(calls, " ") != want {
		t.Errorf("calls %v, want %s", calls, want)
	}
}
