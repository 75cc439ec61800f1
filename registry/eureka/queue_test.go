package eureka

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry/eureka/wire"
)

func task(action wire.TaskAction, id string, renewal int, now time.Time) *queued {
	return newQueued(wire.Task{App: "A", ID: id, Action: action}, renewal, now)
}

func tasksOf(batch []*queued) string {
	var words []string
	for _, t := range batch {
		words = append(words, fmt.Sprint(t.Action, " ", t.ID))
	}
	return strings.Join(words, ", ")
}

// TestQueue: a batch goes 500 ms after its first task, a task takes the place of an older one of its key, behind all
// others, and those that are too old go nowhere.
func TestQueue(t *testing.T) {
	results := map[string]int{}
	q := newTaskQueue(func(result string, n int) { results[result] += n })
	now := time.UnixMilli(0)
	want := func(tasks string, wait time.Duration) {
		t.Helper()
		if batch, after := q.take(now); tasksOf(batch) != tasks || after != wait {
			t.Errorf("at %v: took %q and is to wait %v, want %q and %v", now.Sub(time.UnixMilli(0)), tasksOf(batch), after, tasks, wait)
		}
	}
	want("", 0)
	q.put(task(wire.TaskCancel, "i", 0, now), now)
	q.put(task(wire.TaskRegister, "i", 90, now), now)
	want("", 500*time.Millisecond)
	now = now.Add(400 * time.Millisecond)
	q.put(task(wire.TaskCancel, "i", 0, now), now) // was registered before it was cancelled again
	want("", 100*time.Millisecond)
	now = now.Add(100 * time.Millisecond)
	want("Register i, Cancel i", 0)
	want("", 0)

	q.put(task(wire.TaskHeartbeat, "short", 5, now), now)
	q.put(task(wire.TaskStatus, "s", 5, now), now)
	q.put(task(wire.TaskRegister, "long", 90, now), now)
	now = now.Add(5 * time.Second)
	batch, _ := q.take(now)
	if got := tasksOf(batch); got != "StatusUpdate s, Register long" {
		t.Errorf("after 5 s: took %q", got)
	}
	q.put(task(wire.TaskRegister, "long", 90, now), now)
	q.put(task(wire.TaskCancel, "s", 5, now), now)
	q.giveBack(batch) // at once, before those that came since, but for what was overtaken
	want("StatusUpdate s, Register long, Cancel s", 0)
	q.giveBack(batch)
	now = now.Add(25 * time.Second) // 30 s after it was done
	want("Register long", 0)

	if got, want := fmt.Sprint(results), "map[expired:2 replaced:2]"; got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
}

// TestQueueBound: no more wait than there may, the oldest go first, and a batch holds no more than the reference takes.
func TestQueueBound(t *testing.T) {
	dropped := 0
	q := newTaskQueue(func(result string, n int) {
		if result != taskDropped {
			t.Errorf("%d are %s", n, result)
		}
		dropped += n
	})
	now := time.UnixMilli(0)
	for i := range maxWaiting + 3 {
		q.put(task(wire.TaskCancel, fmt.Sprint(i), 0, now), now)
	}
	batch, _ := q.take(now) // which is full, so that there is nothing to wait for
	if q.giveBack(batch[:2]); q.length() != maxWaiting-sentAtOnce+2 || len(batch) != sentAtOnce || batch[0].ID != "3" {
		t.Errorf("%d tasks from %s on were taken, %d wait", len(batch), batch[0].ID, q.length())
	}
	for i := range sentAtOnce - 2 {
		q.put(task(wire.TaskCancel, fmt.Sprint("x", i), 0, now), now)
	}
	if q.giveBack(batch[2:4]); q.length() != maxWaiting || dropped != 5 {
		t.Errorf("%d wait, %d were dropped", q.length(), dropped)
	}
	taken := 0
	for batch, _ := q.take(now.Add(time.Second)); len(batch) > 0; batch, _ = q.take(now.Add(time.Second)) {
		taken += len(batch)
	}
	if taken != maxWaiting || len(q.places) != 0 {
		t.Errorf("%d were taken, %d are still known", taken, len(q.places))
	}
}

// TestQueueModel compares the queue with a plain list through a random history.
func TestQueueModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	counts := map[string]int{}
	q := newTaskQueue(func(result string, n int) { counts[result] += n })
	now := time.UnixMilli(0)
	var model, lent []*queued
	put, taken := 0, 0
	for range 20_000 {
		switch r.IntN(8) {
		case 0:
			now = now.Add(time.Duration(r.IntN(12_000)) * time.Millisecond)
		case 1:
			batch, _ := q.take(now)
			if len(batch) == 0 && q.length() > 0 {
				continue // it waits for more
			}
			var want []*queued
			for len(model) > 0 && len(want) < sentAtOnce {
				if model[0].expires.After(now) {
					want = append(want, model[0])
				}
				model = model[1:]
			}
			if !slices.Equal(batch, want) {
				t.Fatalf("took %s, want %s", tasksOf(batch), tasksOf(want))
			}
			taken += len(batch)
			lent = batch
		case 2:
			q.giveBack(lent)
			taken -= len(lent)
			older := slices.DeleteFunc(slices.Clone(lent), func(l *queued) bool {
				return slices.ContainsFunc(model, func(m *queued) bool { return m.key() == l.key() })
			})
			model, lent = append(older, model...), nil
		default:
			action := []wire.TaskAction{wire.TaskRegister, wire.TaskHeartbeat, wire.TaskCancel}[r.IntN(3)]
			n := task(action, fmt.Sprint(r.IntN(8)), r.IntN(60), now)
			q.put(n, now)
			put++
			model = append(slices.DeleteFunc(model, func(m *queued) bool { return m.key() == n.key() }), n)
		}
		if q.length() != len(model) || len(q.places) != len(model) {
			t.Fatalf("%d wait and %d are known, want %d", q.length(), len(q.places), len(model))
		}
	}
	sum := taken + len(model)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		sum += counts[name]
	}
	if sum != put || counts[taskReplaced] == 0 || counts[taskExpired] == 0 || taken == 0 {
		t.Errorf("of %d tasks %d were taken, %d wait, the others are %v", put, taken, len(model), counts)
	}
}
