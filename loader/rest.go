package loader

import "time"

// rest keeps what was freed from being handed out again before a grace period is over: a program
// that is running right now may still hold a slot run or an id that it read just before the maps
// changed. Programs run for microseconds; the period is far longer, because a virtual CPU can be
// taken away in the middle of one.
type rest[T any] struct {
	grace time.Duration
	now   func() time.Time
	queue []resting[T] // oldest first
}

type resting[T any] struct {
	value T
	since time.Time
}

func (r *rest[T]) add(v T) {
	r.queue = append(r.queue, resting[T]{v, r.now()})
}

// end ends every grace period: no program that could still read what is at rest is running.
func (r *rest[T]) end() {
	for i := range r.queue {
		r.queue[i].since = time.Time{}
	}
}

// rested takes out one value whose grace period is over.
func (r *rest[T]) rested() (v T, ok bool) {
	if len(r.queue) == 0 || r.now().Sub(r.queue[0].since) < r.grace {
		return v, false
	}
	v = r.queue[0].value
	r.queue = r.queue[1:]
	return v, true
}
