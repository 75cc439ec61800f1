package loader

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
)

// ErrFull is wrapped by errors that say that a map has no room left. What did not fit is tried again
// when room appears.
var ErrFull = errors.New("map full")

// idAllocator hands out the indexes of an array map, the lowest free one first, so that a map can be
// made smaller later. Index 0 is never handed out: it means "none".
type idAllocator struct {
	name  string // of the map, for errors
	limit uint32 // ids are below it
	used  []uint64
	low   uint32 // no free id is below it
	count uint32 // ids in use, those at rest included
	rest  rest[uint32]
}

func newIDAllocator(name string, limit uint32, grace time.Duration, now func() time.Time) *idAllocator {
	return &idAllocator{
		name: name, limit: limit, low: 1,
		used: make([]uint64, (uint64(limit)+63)/64),
		rest: rest[uint32]{grace: grace, now: now},
	}
}

// alloc returns a free id. The error wraps ErrFull.
func (a *idAllocator) alloc() (uint32, error) {
	for id, ok := a.rest.rested(); ok; id, ok = a.rest.rested() {
		a.cancel(id)
	}
	for w := a.low / 64; w < uint32(len(a.used)); w++ {
		free := ^a.used[w]
		if w == 0 {
			free &^= 1
		}
		id := w*64 + uint32(bits.TrailingZeros64(free))
		if free == 0 || id >= a.limit {
			continue
		}
		a.used[w] |= 1 << (id % 64)
		a.low, a.count = id+1, a.count+1
		return id, nil
	}
	a.low = a.limit
	return 0, fmt.Errorf("allocate entry of %s: all %d are in use, %d of them at rest: %w",
		a.name, a.limit-1, len(a.rest.queue), ErrFull)
}

// free takes an id back; it rests before it is handed out again.
func (a *idAllocator) free(id uint32) { a.rest.add(id) }

// cancel takes back an id that no program can have seen.
func (a *idAllocator) cancel(id uint32) {
	a.used[id/64] &^= 1 << (id % 64)
	a.low, a.count = min(a.low, id), a.count-1
}

// restore marks an id as in use that a predecessor handed out. It fails when the id is out of range
// or in use.
func (a *idAllocator) restore(id uint32) error {
	if id == 0 || id >= a.limit {
		return fmt.Errorf("restore entry %d of %s: not between 1 and %d", id, a.name, a.limit-1)
	}
	if a.inUse(id) {
		return fmt.Errorf("restore entry %d of %s: in use twice", id, a.name)
	}
	a.used[id/64] |= 1 << (id % 64)
	a.count++
	return nil
}

// inUse says whether the id was handed out and not taken back, or is at rest.
func (a *idAllocator) inUse(id uint32) bool {
	return id < a.limit && a.used[id/64]&(1<<(id%64)) != 0
}

// live is how many ids are in use and not at rest.
func (a *idAllocator) live() uint32 { return a.count - uint32(len(a.rest.queue)) }
