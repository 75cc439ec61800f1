package eureka

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// What the reference's servers hold to when they tell each other.
const (
	sentAtOnce = 250                    // tasks in a batch
	sentAfter  = 500 * time.Millisecond // that the first of a batch waits for others
	maxWaiting = 10_000                 // tasks; beyond them the oldest is dropped
	taskLife   = 30 * time.Second       // of a task that is neither a heartbeat nor a registration
)

// What becomes of tasks, for metrics.
const (
	taskSent     = "sent"
	taskReplaced = "replaced" // by a newer one, before it was sent
	taskExpired  = "expired"  // before it could be sent
	taskDropped  = "dropped"  // because too many wait
	taskRefused  = "refused"  // with their whole batch
)

// taskKey is what a task goes by: a newer one takes the place of one that waits.
type taskKey struct {
	action  wire.TaskAction
	app, id string
}

// queued is a task that waits to be sent.
type queued struct {
	wire.Task
	expires time.Time
}

// newQueued gives a task its life: a heartbeat or a registration is worth telling until the next one, which comes
// after renewal seconds.
func newQueued(t wire.Task, renewal int, now time.Time) *queued {
	life := taskLife
	if (t.Action == wire.TaskHeartbeat || t.Action == wire.TaskRegister) && renewal > 0 {
		life = time.Duration(min(renewal, registry.MaxInstanceLease)) * time.Second
	}
	return &queued{t, now.Add(life)}
}

func (q *queued) key() taskKey { return taskKey{q.Action, q.App, q.ID} }

// taskQueue holds the tasks that one peer is yet to be told, in the order in which they are told. That order is, of the
// tasks of one instance, the one in which they were done.
type taskQueue struct {
	count func(result string, n int)
	wake  chan struct{} // has an element when something was put

	mu     sync.Mutex // guards what follows
	tasks  list.List  // of *queued
	places map[taskKey]*list.Element
	since  time.Time // when the first of those that wait came
}

func newTaskQueue(count func(result string, n int)) *taskQueue {
	return &taskQueue{count: count, wake: make(chan struct{}, 1), places: map[taskKey]*list.Element{}}
}

// put adds a task behind the others, in place of an older one of its key: what was done since must be told before.
func (q *taskQueue) put(t *queued, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.tasks.Len() == 0 {
		q.since = now
	}
	if old := q.places[t.key()]; old != nil {
		q.remove(old, taskReplaced)
	}
	for q.tasks.Len() >= maxWaiting {
		q.remove(q.tasks.Front(), taskDropped)
	}
	q.places[t.key()] = q.tasks.PushBack(t)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// giveBack puts tasks that were taken before all others, for they are older: those that are to be told at all.
func (q *taskQueue) giveBack(batch []*queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := len(batch) - 1; i >= 0; i-- {
		switch k := batch[i].key(); {
		case q.places[k] != nil:
			q.count(taskReplaced, 1)
		case q.tasks.Len() >= maxWaiting:
			q.count(taskDropped, 1)
		default:
			q.places[k] = q.tasks.PushFront(batch[i])
		}
	}
	q.since = time.Time{} // they have waited
}

// take returns the next batch. While there is none, wait says after how long there may be one; 0: when something is put.
func (q *taskQueue) take(now time.Time) (batch []*queued, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.tasks.Len() == 0 {
		return nil, 0
	}
	if wait = sentAfter - now.Sub(q.since); wait > 0 && q.tasks.Len() < sentAtOnce {
		return nil, wait
	}
	for q.tasks.Len() > 0 && len(batch) < sentAtOnce {
		t := q.tasks.Front().Value.(*queued)
		if t.expires.After(now) {
			batch = append(batch, t)
			q.remove(q.tasks.Front(), "")
		} else {
			q.remove(q.tasks.Front(), taskExpired)
		}
	}
	return batch, 0
}

// remove takes a task out. The caller holds mu.
func (q *taskQueue) remove(at *list.Element, result string) {
	delete(q.places, at.Value.(*queued).key())
	q.tasks.Remove(at)
	if result != "" {
		q.count(result, 1)
	}
}

// await returns when there may be a batch, as take has said, or ctx ends.
func (q *taskQueue) await(ctx context.Context, wait time.Duration) {
	var later <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		later = t.C
	}
	select {
	case <-q.wake:
	case <-later:
	case <-ctx.Done():
	}
}

func (q *taskQueue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tasks.Len()
}

// pause returns after a time, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
