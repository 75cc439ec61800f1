package health

import (
	"container/heap"
	"time"
)

// entry is something to be done at a time.
type entry struct {
	due  time.Time
	fire func()
	at   int // its place in the agenda, from 1; 0: it is not in it
}

func (e *entry) listed() bool { return e.at > 0 }

// agenda is a heap of entries, the soonest first.
type agenda struct{ list []*entry }

// set enters an entry, or moves it.
func (a *agenda) set(e *entry, due time.Time) {
	e.due = due
	if e.listed() {
		heap.Fix(a, e.at-1)
		return
	}
	heap.Push(a, e)
}

func (a *agenda) remove(e *entry) {
	if e.listed() {
		heap.Remove(a, e.at-1)
	}
}

// next takes out an entry that is due; nil: none is.
func (a *agenda) next(now time.Time) *entry {
	if len(a.list) == 0 || a.list[0].due.After(now) {
		return nil
	}
	return heap.Pop(a).(*entry)
}

// first returns when the soonest is due.
func (a *agenda) first() (time.Time, bool) {
	if len(a.list) == 0 {
		return time.Time{}, false
	}
	return a.list[0].due, true
}

// Len, Less, Swap, Push and Pop are heap.Interface's.
func (a *agenda) Len() int           { return len(a.list) }
func (a *agenda) Less(i, j int) bool { return a.list[i].due.Before(a.list[j].due) }
func (a *agenda) Swap(i, j int) {
	a.list[i], a.list[j] = a.list[j], a.list[i]
	a.list[i].at, a.list[j].at = i+1, j+1
}
func (a *agenda) Push(x any) {
	e := x.(*entry)
	a.list = append(a.list, e)
	e.at = len(a.list)
}
func (a *agenda) Pop() any {
	last := len(a.list) - 1
	e := a.list[last]
	a.list[last] = nil
	a.list = a.list[:last]
	e.at = 0
	return e
}

// queue is first in, first out.
type queue struct{ list []*task }

func (q *queue) push(t *task) { q.list = append(q.list, t) }

// pop returns the first that somebody still wants; nil: there is none.
func (q *queue) pop() *task {
	for len(q.list) > 0 {
		t := q.list[0]
		q.list[0] = nil
		q.list = q.list[1:]
		if !t.dead {
			return t
		}
	}
	q.list = nil
	return nil
}
