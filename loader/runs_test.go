package loader

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// slowRuns is the obvious buddy allocator: one bool a slot.
type slowRuns []bool

func (s slowRuns) alloc(count uint32) (uint32, bool) {
	size := uint32(1) << orderOf(count)
	for first := uint32(0); first+size <= uint32(len(s)); first += size {
		free := true
		for i := range size {
			free = free && !s[first+i]
		}
		if free {
			s.set(run{first, count}, true)
			return first, true
		}
	}
	return 0, false
}

func (s slowRuns) set(r run, used bool) {
	for i := range uint32(1) << orderOf(r.count) {
		s[r.first+i] = used
	}
}

func TestRunsAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		c := &clock{time.Unix(0, 0)}
		limit := 1 + rnd.Uint32N(300)
		a, slow := newRunAllocator(limit, 5*time.Second, c.now), make(slowRuns, limit)
		type rested struct {
			run
			since time.Time
		}
		var live []run
		var resting []rested
		for range 1500 {
			c.t = c.t.Add(time.Duration(rnd.IntN(2)) * time.Second)
			for len(resting) > 0 && c.t.Sub(resting[0].since) >= 5*time.Second {
				slow.set(resting[0].run, false)
				resting = resting[1:]
			}
			if len(live) == 0 || rnd.IntN(5) < 3 {
				count := 1 + rnd.Uint32N(1+rnd.Uint32N(limit))
				want, fits := slow.alloc(count)
				got, err := a.alloc(count)
				if !fits {
					if !errors.Is(err, ErrFull) {
						t.Fatalf("seed %d: alloc %d of %d: %d, %v; want ErrFull", seed, count, limit, got, err)
					}
					continue
				}
				// Lowest in both: a tree finds the lowest block of a subtree that has room.
				if err != nil {
					t.Fatalf("seed %d: alloc %d: %v; want %d", seed, count, err, want)
				}
				if got != want {
					t.Fatalf("seed %d: alloc %d: %d, want %d", seed, count, got, want)
				}
				live = append(live, run{got, count})
				continue
			}
			i := rnd.IntN(len(live))
			r := live[i]
			live = append(live[:i], live[i+1:]...)
			if rnd.IntN(4) == 0 {
				a.cancel(r)
				slow.set(r, false)
				continue
			}
			a.free(r)
			resting = append(resting, rested{r, c.t})
		}
		restoreRuns(t, a, limit, live)
	}
}

// restoreRuns checks that an allocator with the live runs restored knows of them and nothing else.
func restoreRuns(t *testing.T, a *runAllocator, limit uint32, live []run) {
	t.Helper()
	b, slow := newRunAllocator(limit, 0, time.Now), make(slowRuns, limit)
	var used uint32
	for _, r := range live {
		if err := b.restore(r); err != nil {
			t.Fatalf("restore %v of %d: %v", r, limit, err)
		}
		if b.restore(r) == nil {
			t.Fatalf("restored %v twice", r)
		}
		slow.set(r, true)
		used += 1 << orderOf(r.count)
	}
	if b.used != used || a.used-a.idle != used {
		t.Fatalf("%d slots restored, %d live, want %d", b.used, a.used-a.idle, used)
	}
	for {
		want, fits := slow.alloc(1)
		got, err := b.alloc(1)
		if fits != (err == nil) || fits && got != want {
			t.Fatalf("after restore: alloc %d, %v; want %d, %v", got, err, want, fits)
		}
		if !fits {
			return
		}
	}
}

func TestRunsRestoreRefuses(t *testing.T) {
	a := newRunAllocator(100, 0, time.Now)
	if err := a.restore(run{8, 5}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []run{
		{0, 0}, {99, 2}, {1 << 31, 1 << 31}, {3, 2}, // out of range, not aligned
		{8, 8}, {8, 1}, {12, 4}, {14, 1}, {0, 16}, // overlapping
		{64, 64}, // beyond the end
	} {
		if a.restore(r) == nil {
			t.Errorf("restored %v", r)
		}
	}
}
