package registry

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// The bounds of what a Hub keeps of the past, unless told otherwise.
const (
	defaultHubBatches = 8192
	defaultHubBytes   = 16 << 20
	// headStart is how long others wait for the first reader to take a batch.
	headStart = 10 * time.Millisecond
)

var errSourceEnded = errors.New("the source ended its stream")

// HubOptions bound what a Hub keeps for readers that lag behind or come back.
type HubOptions struct {
	Batches int // 0: 8192
	// Bytes is a rough sum over the objects of those batches; 0: 16 MiB.
	Bytes int
}

// Hub follows a source once and lets any number of readers follow it in turn. Each object is held once and is
// shared by all of them: nobody may modify it. A reader has no queue of its own, only its place among the recent
// batches that the hub keeps for all; one that has fallen out of them gets a snapshot.
type Hub struct {
	src   Source
	most  HubOptions
	ready chan struct{} // closed after the first snapshot, or when Run ends

	mu       sync.Mutex // guards what follows
	synced   bool
	ended    bool
	objects  objects
	revision int64
	changed  chan struct{} // closed and replaced when shown rises, closed for good when Run ends

	// recent holds the batches numbered first, first+1 … They are all that came after revision floor.
	recent []recentBatch
	first  uint64
	floor  int64
	bytes  int
	// back is the number of the first batch after the source last went back in time: somebody restored an old copy of it.
	back uint64
	// base is a snapshot as of just before the batch numbered baseNext; nil: none is at hand.
	base     *Batch
	baseNext uint64

	// The first reader is told of a batch as soon as it comes, by arrived; all others see those before shown.
	led     bool // there is a first reader
	arrived chan struct{}
	shown   uint64
	late    *time.Timer // shows all when the first reader takes too long; nil: there is nothing to wait for
}

type recentBatch struct {
	Batch
	bytes int
}

var _ Source = (*Hub)(nil)

// NewHub returns a hub that has read nothing yet.
func NewHub(src Source, o HubOptions) *Hub {
	if o.Batches <= 0 {
		o.Batches = defaultHubBatches
	}
	if o.Bytes <= 0 {
		o.Bytes = defaultHubBytes
	}
	return &Hub{src: src, most: o, ready: make(chan struct{}), changed: make(chan struct{}), arrived: make(chan struct{}), first: 1}
}

// Run follows the source until ctx ends, and then returns nil. Readers get what is left, and then their
// channels are closed. It may be called once.
func (h *Hub) Run(ctx context.Context) error {
	defer h.end()
	for b := range h.src.Watch(ctx) {
		h.take(b)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow registry: %w", errSourceEnded)
}

func (h *Hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.shown = h.last()
	close(h.changed)
	close(h.arrived)
	if !h.synced {
		close(h.ready)
	}
}

// take makes a batch of the source known to all readers.
func (h *Hub) take(b Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b.Snapshot {
		// What changed since the batch before is not known: all readers start again from here.
		h.first += uint64(len(h.recent)) + 1
		if b.Revision < h.revision {
			h.back = h.first
		}
		h.recent, h.bytes, h.floor = nil, 0, b.Revision
		h.objects = newObjects(b.Changes)
		h.base, h.baseNext = &b, h.first
		if !h.synced {
			h.synced = true
			close(h.ready)
		}
	} else {
		r := recentBatch{Batch: b, bytes: b.roughSize()}
		h.recent = append(h.recent, r)
		h.bytes += r.bytes
		h.forget()
	}
	for i := range b.Changes {
		h.objects.apply(&b.Changes[i])
	}
	h.revision = b.Revision
	close(h.arrived)
	h.arrived = make(chan struct{})
	switch {
	case !h.led || b.Snapshot:
		h.show(h.last())
	case h.late == nil:
		h.late = time.AfterFunc(headStart, h.showAll)
	}
}

// last is the number of the batch that is to come.
func (h *Hub) last() uint64 { return h.first + uint64(len(h.recent)) }

// show lets all readers see the batches before one.
func (h *Hub) show(next uint64) {
	if h.ended || next <= h.shown {
		return
	}
	h.shown = next
	close(h.changed)
	h.changed = make(chan struct{})
	if h.late != nil && next == h.last() {
		h.late.Stop()
		h.late = nil
	}
}

func (h *Hub) showAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.late = nil
	h.show(h.last())
}

// forget drops the oldest batches while there are too many.
func (h *Hub) forget() {
	n := 0
	for h.bytes > h.most.Bytes && n < len(h.recent) || len(h.recent)-n > h.most.Batches {
		h.bytes -= h.recent[n].bytes
		h.floor = h.recent[n].Revision
		h.recent[n] = recentBatch{} // the array stays for a while, the objects need not
		n++
	}
	h.recent = h.recent[n:]
	if h.first += uint64(n); h.base != nil && h.baseNext < h.first {
		h.base = nil
	}
}

// Rest forgets the snapshot that is at hand, which the next reader that wants one has made again.
func (h *Hub) Rest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.base = nil
}

// Revision returns that of the last batch; 0: there was none.
func (h *Hub) Revision() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

// Watch implements Source.
func (h *Hub) Watch(ctx context.Context) <-chan Batch {
	out := make(chan Batch)
	go h.serve(ctx, out, hubReader{})
	return out
}

// First returns the hub as the source of the one reader that comes before all others: these see a batch when that
// one has taken it, or has let a moment pass. Woken all at once, it would wait for its turn on the CPUs
// behind the others' work.
func (h *Hub) First() Source { return firstReader{h} }

type firstReader struct{ hub *Hub }

// Watch implements Source. While one reads so, others are ordinary readers.
func (f firstReader) Watch(ctx context.Context) <-chan Batch {
	h, out := f.hub, make(chan Batch)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.led {
		go h.serve(ctx, out, hubReader{})
		return out
	}
	h.led = true
	go func() {
		h.serve(ctx, out, hubReader{first: true})
		h.mu.Lock()
		defer h.mu.Unlock()
		h.led = false
		h.show(h.last())
	}()
	return out
}

// WatchFrom sends the batches of later revisions than rev, and a snapshot if the reader is too slow for them or
// the source has lost its place. The error wraps ErrCompacted when the batches after rev are not all at hand any
// more, and is ErrUnavailable or ctx's when the first snapshot has not come yet: WatchFrom waits for it.
func (h *Hub) WatchFrom(ctx context.Context, rev int64) (<-chan Batch, error) {
	select {
	case <-h.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("watch from revision %d: %w", rev, ctx.Err())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.synced {
		return nil, fmt.Errorf("watch from revision %d: %w", rev, ErrUnavailable)
	}
	if rev < h.floor {
		return nil, fmt.Errorf("watch from revision %d: %w: the oldest to watch from is %d", rev, ErrCompacted, h.floor)
	}
	i, _ := slices.BinarySearchFunc(h.recent, rev, func(b recentBatch, rev int64) int {
		if b.Revision <= rev {
			return -1
		}
		return 1
	})
	out := make(chan Batch)
	go h.serve(ctx, out, hubReader{next: h.first + uint64(i), after: rev})
	return out, nil
}

// hubReader is how far a reader has come.
type hubReader struct {
	next  uint64 // number of the batch that it wants; one that is not at hand means a snapshot
	after int64  // what was so up to this revision is known to it
	first bool   // comes before the others
}

// serve sends what comes until ctx ends.
func (h *Hub) serve(ctx context.Context, out chan<- Batch, at hubReader) {
	defer close(out)
	for {
		b, found, changed := h.read(&at)
		switch {
		case found && b.Revision <= at.after:
		case found:
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
			if at.first {
				runtime.Gosched() // it has the batch, and this CPU
				h.taken(at.next)
			}
		case changed == nil:
			return
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// taken notes that the first reader has all batches before one.
func (h *Hub) taken(next uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.show(next)
}

// read returns the batch that a reader wants next. If there is none yet, changed is closed when there may be; nil: never.
func (h *Hub) read(at *hubReader) (b Batch, found bool, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end, changed := h.shown, h.changed
	if at.first {
		end, changed = h.last(), h.arrived
	}
	switch {
	case h.synced && at.next < h.first:
		if at.next < h.back {
			at.after = 0
		}
		at.next = h.snapshot()
		return *h.base, true, nil
	case h.synced && at.next < end:
		b = h.recent[at.next-h.first].Batch
		at.next++
		return b, true, nil
	case h.ended:
		return Batch{}, false, nil
	}
	return Batch{}, false, changed
}

// snapshot puts a snapshot at hand and returns the number of the batch after it.
func (h *Hub) snapshot() uint64 {
	if h.base == nil {
		h.base = &Batch{Revision: h.revision, Snapshot: true, Changes: h.objects.all()}
		h.baseNext = h.last()
	}
	return h.baseNext
}
