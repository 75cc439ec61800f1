package loader

import (
	"fmt"
	"math/bits"
	"time"
)

// runAllocator hands out contiguous runs of slots. It is a buddy allocator over a binary tree: a run
// takes a block of the next power of two, aligned to its size, the lowest one that is free. Both
// directions cost one walk between root and leaf.
type runAllocator struct {
	limit uint32
	order uint8   // the root spans 1<<order slots
	tree  []uint8 // 1 + order of the largest free block below a node; 0: none. The root is 1.
	used  uint32  // slots in blocks that are in use, those at rest included
	idle  uint32  // of these, slots at rest
	rest  rest[run]
}

// run is the slots [first, first+count).
type run struct{ first, count uint32 }

func newRunAllocator(limit uint32, grace time.Duration, now func() time.Time) *runAllocator {
	a := &runAllocator{limit: limit, order: orderOf(limit), rest: rest[run]{grace: grace, now: now}}
	a.tree = make([]uint8, 2<<a.order)
	leaves := len(a.tree) / 2
	for i := len(a.tree) - 1; i > 0; i-- {
		if i >= leaves {
			if uint32(i-leaves) < limit {
				a.tree[i] = 1
			}
			continue
		}
		a.join(i)
	}
	return a
}

// orderOf returns the order of the smallest block that holds n slots. n is at least 1.
func orderOf(n uint32) uint8 { return uint8(bits.Len32(n - 1)) }

// join sets a node from its children.
func (a *runAllocator) join(node int) {
	left, right := a.tree[2*node], a.tree[2*node+1]
	if whole := a.orderAt(node); left == whole && right == whole {
		a.tree[node] = whole + 1
		return
	}
	a.tree[node] = max(left, right)
}

// orderAt returns the order of the block that a node stands for.
func (a *runAllocator) orderAt(node int) uint8 {
	return a.order - uint8(bits.Len(uint(node))-1)
}

// alloc returns the first slot of a free run of count slots. The error wraps ErrFull.
func (a *runAllocator) alloc(count uint32) (uint32, error) {
	for r, ok := a.rest.rested(); ok; r, ok = a.rest.rested() {
		a.idle -= 1 << orderOf(r.count)
		a.cancel(r)
	}
	if count == 0 || count > a.limit {
		return 0, fmt.Errorf("allocate %d slots: the map holds %d: %w", count, a.limit, ErrFull)
	}
	want := orderOf(count)
	if a.tree[1] < want+1 {
		return 0, fmt.Errorf("allocate %d slots: no free run; %d of %d are in use, %d of them at rest: %w",
			count, a.used, a.limit, a.idle, ErrFull)
	}
	node := 1
	for a.orderAt(node) > want {
		if node *= 2; a.tree[node] < want+1 {
			node++
		}
	}
	a.take(node)
	return uint32(node)<<want - 1<<a.order, nil
}

// free takes a run back; it rests before its slots are handed out again.
func (a *runAllocator) free(r run) {
	a.idle += 1 << orderOf(r.count)
	a.rest.add(r)
}

// cancel takes back a run that no program can have seen.
func (a *runAllocator) cancel(r run) {
	order := orderOf(r.count)
	node := a.nodeOf(r.first, order)
	a.tree[node] = order + 1
	a.used -= 1 << order
	for node /= 2; node > 0; node /= 2 {
		a.join(node)
	}
}

// restore marks a run as in use that a predecessor handed out. It fails when the run is not one that
// alloc returns, or overlaps another.
func (a *runAllocator) restore(r run) error {
	if r.count == 0 || uint64(r.first)+uint64(r.count) > uint64(a.limit) {
		return fmt.Errorf("restore slots %d+%d: the map holds %d", r.first, r.count, a.limit)
	}
	order := orderOf(r.count)
	node := a.nodeOf(r.first, order)
	// Blocks at the end of a map whose size is no power of two may be cut short in a larger tree
	// only; alloc never returns a run that is not aligned.
	if r.first%(1<<order) != 0 {
		return fmt.Errorf("restore slots %d+%d: not aligned", r.first, r.count)
	}
	if a.tree[node] != order+1 || a.covered(node) {
		return fmt.Errorf("restore slots %d+%d: in use twice", r.first, r.count)
	}
	a.take(node)
	return nil
}

// nodeOf returns the node that stands for the block of that order at slot first.
func (a *runAllocator) nodeOf(first uint32, order uint8) int {
	return int(uint64(first)+1<<a.order) >> order
}

// covered says whether a block that contains the node's is in use.
func (a *runAllocator) covered(node int) bool {
	for node /= 2; node > 0; node /= 2 {
		if a.tree[node] == 0 && (a.tree[2*node] != 0 || a.tree[2*node+1] != 0) {
			return true
		}
	}
	return false
}

func (a *runAllocator) take(node int) {
	a.used += 1 << a.orderAt(node)
	a.tree[node] = 0
	for node /= 2; node > 0; node /= 2 {
		a.join(node)
	}
}
