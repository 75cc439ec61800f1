package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// feed is a source that sends what it is told to.
type feed chan Batch

func (f feed) Watch(context.Context) <-chan Batch { return f }

// book is what a reader of a source knows: objects by kind and id.
type book struct {
	revision int64
	objects  map[string]any
}

func newBook() *book { return &book{objects: map[string]any{}} }

// follow applies a batch as the words of Batch have it, and returns what of it breaks them.
func (k *book) follow(b Batch) error {
	if b.Revision < k.revision || b.Revision == k.revision && !b.Snapshot {
		return fmt.Errorf("revision %d (snapshot %t) after %d", b.Revision, b.Snapshot, k.revision)
	}
	if b.Snapshot {
		clear(k.objects)
	}
	for _, ch := range b.Changes {
		id, object := identify(ch)
		if _, twice := k.objects[id]; twice && b.Snapshot {
			return fmt.Errorf("snapshot of revision %d has %s twice", b.Revision, id)
		}
		if k.objects[id] = object; ch.Deleted {
			delete(k.objects, id)
		}
	}
	k.revision = b.Revision
	return nil
}

// identify finds the one pointer of a change that is set, and what it points to calls itself.
func identify(ch Change) (id string, object any) {
	v := reflect.ValueOf(ch)
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Pointer || f.IsNil() {
			continue
		}
		object = f.Interface()
		switch o := object.(type) {
		case fmt.Stringer:
			id = o.String()
		default:
			id = f.Elem().FieldByName("Name").String()
		}
		return v.Type().Field(i).Name + " " + id, object
	}
	return "", nil
}

// randomChange changes some object of any kind.
func randomChange(r *rand.Rand) Change {
	n := Name{pick(r, "x", "y"), fmt.Sprint("o", r.IntN(6))}
	id := InstanceID{n.Namespace, n.Name, fmt.Sprint("i", r.IntN(3))}
	return pick(r,
		Change{Service: &Service{Name: n}}, Change{Slice: &Slice{Name: n}},
		Change{Endpoint: &Endpoint{EndpointID: EndpointID{"n1", n.Name, "eth0"}}},
		Change{Node: &Node{Name: n.Name}}, Change{Namespace: &Namespace{Name: n.Name}},
		Change{Policy: &Policy{PolicyID: PolicyID{pick(r, TierAdmin, TierNamespaced), n}}},
		Change{Instance: &Instance{InstanceID: id}}, Change{Lease: &InstanceLease{id}}, Change{Health: &InstanceHealth{InstanceID: id}},
	)
}

// history is what a source has said, and what was so at each revision.
type history struct {
	mu       sync.Mutex
	changed  *sync.Cond
	now      *book
	at       map[int64]map[string]any
	finished bool
}

func newHistory() *history {
	h := &history{now: newBook(), at: map[int64]map[string]any{}}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// write makes up the next batch, or the last one.
func (h *history) write(t *testing.T, r *rand.Rand, snapshot, last bool) Batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := Batch{Revision: h.now.revision + 1 + r.Int64N(3)}
	for range r.IntN(4) { // none at all too
		ch := randomChange(r)
		ch.Deleted = r.IntN(3) == 0
		b.Changes = append(b.Changes, ch)
	}
	if err := h.now.follow(b); err != nil {
		t.Fatal(err)
	}
	if snapshot {
		b = Batch{Revision: b.Revision, Snapshot: true}
		for _, o := range h.now.objects {
			b.Changes = append(b.Changes, changeOf(o))
		}
	}
	h.at[b.Revision] = maps.Clone(h.now.objects)
	h.finished = last
	h.changed.Broadcast()
	return b
}

func changeOf(object any) (ch Change) {
	v := reflect.ValueOf(&ch).Elem()
	for i := range v.NumField() {
		if v.Field(i).Type() == reflect.TypeOf(object) {
			v.Field(i).Set(reflect.ValueOf(object))
		}
	}
	return ch
}

// check says how a reader's book differs from what was so at its revision.
func (h *history) check(k *book) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	want, ok := h.at[k.revision]
	if !ok {
		return fmt.Errorf("no batch has revision %d", k.revision)
	}
	if !maps.Equal(k.objects, want) { // by pointer: every object is held once
		return fmt.Errorf("at revision %d a reader has\n%v\nwant\n%v", k.revision, k.objects, want)
	}
	return nil
}

// TestHubAgainstModel has readers follow a hub that forgets quickly: ones that are slow, that come and go and
// resume where they were, at revisions that the hub has forgotten or never seen. What each holds is always what the source
// held at that revision, and in the end all hold the same.
func TestHubAgainstModel(t *testing.T) {
	rounds := uint64(20)
	if testing.Short() {
		rounds = 5
	}
	var resumed, compacted, snapshots atomic.Int64
	for seed := range rounds {
		r := rand.New(rand.NewPCG(seed, 3))
		src, past := make(feed), newHistory()
		hub := NewHub(src, HubOptions{Batches: 1 + r.IntN(12), Bytes: pick(r, 0, 4000)})
		ctx, cancel := context.WithCancel(t.Context())
		var running, readers sync.WaitGroup
		running.Go(func() {
			if err := hub.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		const last = 200
		for i := range 6 {
			reader := hubModelReader{
				hub: hub, first: i < 2, past: past, r: rand.New(rand.NewPCG(seed, uint64(i))),
				resumed: &resumed, compacted: &compacted, snapshots: &snapshots,
			}
			readers.Go(func() {
				if err := reader.run(ctx); err != nil {
					t.Errorf("seed %d, reader %d: %v", seed, i, err)
					cancel()
				}
			})
		}
		for n := range last {
			select {
			case src <- past.write(t, r, n == 0 || r.IntN(60) == 0, n == last-1):
			case <-ctx.Done():
			}
			hub.checkBounds(t)
		}
		past.finish()
		readers.Wait()
		cancel()
		close(src)
		running.Wait()
		if t.Failed() {
			return
		}
	}
	if resumed.Load() == 0 || compacted.Load() == 0 || snapshots.Load() == 0 {
		t.Errorf("readers resumed %d times, were too late %d times, got %d more snapshots: want some of each", resumed.Load(), compacted.Load(), snapshots.Load())
	}
}

type hubModelReader struct {
	hub                           *Hub
	first                         bool
	past                          *history
	r                             *rand.Rand
	resumed, compacted, snapshots *atomic.Int64
}

// run follows the hub until it has seen all that the source will ever say.
func (m *hubModelReader) run(ctx context.Context) error {
	k := newBook()
	for !m.past.over(k.revision) {
		watch, stop := context.WithCancel(ctx)
		batches, err := m.watch(watch, k)
		for n := m.r.IntN(30); err == nil && n >= 0 && !m.past.over(k.revision); n-- {
			b, open := <-batches
			if !open {
				err = errors.New("the stream ended")
				break
			}
			if b.Snapshot && k.revision > 0 {
				m.snapshots.Add(1)
			}
			if err = k.follow(b); err == nil {
				err = m.past.check(k)
			}
			if m.r.IntN(10) == 0 {
				m.past.await(k.revision + m.r.Int64N(100))
			}
		}
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// watch goes on from the book, or from what the source says now, which the hub may not know yet; or it starts anew.
func (m *hubModelReader) watch(ctx context.Context, k *book) (<-chan Batch, error) {
	from := *k
	if m.r.IntN(4) == 0 {
		from = m.past.copy()
	}
	if from.revision == 0 || m.r.IntN(3) == 0 {
		*k = *newBook()
		if m.first {
			return m.hub.First().Watch(ctx), nil
		}
		return m.hub.Watch(ctx), nil
	}
	batches, err := m.hub.WatchFrom(ctx, from.revision)
	switch {
	case errors.Is(err, ErrCompacted):
		m.compacted.Add(1)
		*k = *newBook()
		return m.hub.Watch(ctx), nil
	case err == nil:
		m.resumed.Add(1)
		*k = from
	}
	return batches, err
}

func (h *history) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.finished = true
	h.changed.Broadcast()
}

// over reports whether nothing comes after a revision.
func (h *history) over(revision int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.finished && revision >= h.now.revision
}

// await returns when the source has come to a revision, or to its end.
func (h *history) await(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.finished && h.now.revision < revision {
		h.changed.Wait()
	}
}

func (h *history) copy() book {
	h.mu.Lock()
	defer h.mu.Unlock()
	return book{revision: h.now.revision, objects: maps.Clone(h.now.objects)}
}

// checkBounds fails when the hub keeps more of the past than it may, or has lost count.
func (h *Hub) checkBounds(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	bytes := 0
	for _, b := range h.recent {
		bytes += b.roughSize()
	}
	if len(h.recent) > h.most.Batches || bytes > h.most.Bytes || bytes != h.bytes {
		t.Fatalf("%d batches of %d bytes (counted as %d) are kept, bounds are %+v", len(h.recent), bytes, h.bytes, h.most)
	}
	for _, b := range h.recent[len(h.recent):cap(h.recent)] {
		if b.Changes != nil {
			t.Fatal("a batch is kept beyond the recent ones")
		}
	}
}

// started returns a hub that runs on a source that this test feeds, after its first snapshot.
func started(t *testing.T, o HubOptions, snapshot Batch) (*Hub, feed) {
	src := make(feed)
	h := NewHub(src, o)
	var running sync.WaitGroup
	running.Go(func() { h.Run(t.Context()) })
	t.Cleanup(func() {
		close(src)
		running.Wait()
	})
	src <- snapshot
	<-h.ready
	return h, src
}

func node(name string) Change { return Change{Node: &Node{Name: name}} }

func revisions(batches <-chan Batch, n int) (list []int64) {
	for range n {
		b := <-batches
		list = append(list, b.Revision)
	}
	return list
}

func TestHubResumes(t *testing.T) {
	h, src := started(t, HubOptions{Batches: 3}, Batch{Revision: 10, Snapshot: true})
	for rev := int64(20); rev <= 60; rev += 10 {
		src <- Batch{Revision: rev, Changes: []Change{node("a")}}
	}
	// The batches 20 and 30 have gone.
	if got := revisions(h.Watch(t.Context()), 1); got[0] < 50 {
		t.Fatalf("a new reader is told of revision %d first", got[0])
	}
	for rev, want := range map[int64][]int64{30: {40, 50, 60}, 45: {50, 60}, 50: {60}} {
		batches, err := h.WatchFrom(t.Context(), rev)
		if err != nil {
			t.Fatal(err)
		}
		if got := revisions(batches, len(want)); !slices.Equal(got, want) {
			t.Errorf("after %d come %v, want %v", rev, got, want)
		}
	}
	for _, rev := range []int64{-1, 0, 10, 29} {
		if _, err := h.WatchFrom(t.Context(), rev); !errors.Is(err, ErrCompacted) {
			t.Errorf("watch from %d: %v", rev, err)
		}
	}
}

// TestHubSourceGoesBack: an old copy of the store was restored, and revisions are counted from there.
func TestHubSourceGoesBack(t *testing.T) {
	h, src := started(t, HubOptions{}, Batch{Revision: 100, Snapshot: true, Changes: []Change{node("a")}})
	ahead, err := h.WatchFrom(t.Context(), 120)
	if err != nil {
		t.Fatal(err)
	}
	src <- Batch{Revision: 110}
	src <- Batch{Revision: 50, Snapshot: true}
	src <- Batch{Revision: 51}
	if got := revisions(ahead, 2); !slices.Equal(got, []int64{50, 51}) {
		t.Errorf("a reader is told of revisions %v", got)
	}
}

// TestHubEnds: readers get what there is, and then hear that it is over.
func TestHubEnds(t *testing.T) {
	src := make(feed)
	h := NewHub(src, HubOptions{})
	early := h.Watch(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(t.Context()) }()
	src <- Batch{Revision: 1, Snapshot: true}
	src <- Batch{Revision: 2}
	close(src)
	if err := <-done; !errors.Is(err, errSourceEnded) {
		t.Errorf("run: %v", err)
	}
	for _, reader := range []<-chan Batch{early, h.Watch(t.Context())} {
		got := int64(0)
		for b := range reader {
			got = b.Revision
		}
		if got != 2 {
			t.Errorf("a reader was left at revision %d", got)
		}
	}
	if h.Revision() != 2 {
		t.Errorf("revision %d", h.Revision())
	}

	empty := make(feed)
	h = NewHub(empty, HubOptions{})
	close(empty)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.WatchFrom(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("watch before there is anything: %v", err)
	}
	if err := h.Run(ctx); err != nil {
		t.Errorf("run until told to end: %v", err)
	}
	if _, err := h.WatchFrom(t.Context(), 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("watch of what never was: %v", err)
	}
	for range h.Watch(t.Context()) {
		t.Error("a batch out of nothing")
	}
}

// TestHubFirst: others are told when the first reader has taken a batch, or after a moment.
func TestHubFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := make(feed)
		h := NewHub(src, HubOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { h.Run(t.Context()) })
		first, other := h.First().Watch(ctx), h.Watch(t.Context())
		told := func(batches <-chan Batch) int64 {
			synctest.Wait()
			select {
			case b := <-batches:
				return b.Revision
			default:
				return 0
			}
		}
		want := func(what string, got, want int64) {
			t.Helper()
			if got != want {
				t.Errorf("%s is told of revision %d, want %d", what, got, want)
			}
		}
		src <- Batch{Revision: 1, Snapshot: true}
		want("another, of a snapshot,", told(other), 1)
		want("the first", told(first), 1)
		src <- Batch{Revision: 2}
		want("another, before the first,", told(other), 0)
		want("the first", told(first), 2)
		want("another, after the first,", told(other), 2)
		src <- Batch{Revision: 3}
		src <- Batch{Revision: 4}
		want("another, while the first does something else,", told(other), 0)
		time.Sleep(headStart)
		want("another, after a moment,", told(other), 3)
		want("another, after a moment,", told(other), 4)
		want("the first", told(first), 3)
		want("the first", told(first), 4)
		src <- Batch{Revision: 5}
		cancel()
		want("another, when the first has gone,", told(other), 5)
		src <- Batch{Revision: 6}
		want("another, without a first,", told(other), 6)
		close(src)
		running.Wait()
	})
}

// TestHubSharesSnapshots: readers that start together share one snapshot, and those that come later one that is made anew.
func TestHubSharesSnapshots(t *testing.T) {
	h, src := started(t, HubOptions{Batches: 2}, Batch{Revision: 1, Snapshot: true, Changes: []Change{node("a")}})
	first := func() *Change { return &(<-h.Watch(t.Context())).Changes[0] }
	if a := first(); a != first() {
		t.Error("each reader has a copy of the source's snapshot")
	}
	for rev := range int64(5) {
		src <- Batch{Revision: 2 + rev}
	}
	if a := first(); a != first() {
		t.Error("each reader has a copy of the hub's snapshot")
	}
	before := first()
	h.Rest()
	if after := first(); after == before || after.Node != before.Node || after != first() {
		t.Error("after a rest there is no fresh snapshot of the same objects for all")
	}
}

func TestRoughSizes(t *testing.T) {
	weight := uint16(1)
	for name, ch := range map[string]Change{
		"slice":    {Slice: &Slice{Endpoints: make([]SliceEndpoint, 1000)}},
		"instance": {Instance: &Instance{Eureka: make([]byte, 100_000), Weight: &weight, Addresses: make([]netip.Addr, 2)}},
		"policy":   {Policy: &Policy{Ingress: []Rule{{Peers: make([]Peer, 1000)}}}},
	} {
		if n := ch.roughSize(); n < 50_000 || n > 500_000 {
			t.Errorf("a large %s counts as %d bytes", name, n)
		}
	}
}
