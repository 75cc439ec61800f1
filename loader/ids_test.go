package loader

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// clock is a time that only a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestIDsAgainstModel(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		c := &clock{time.Unix(0, 0)}
		limit := 2 + rnd.Uint32N(200)
		a := newIDAllocator("test", limit, 10*time.Second, c.now)
		used, resting := map[uint32]bool{}, map[uint32]time.Time{}
		for range 2000 {
			c.t = c.t.Add(time.Duration(rnd.IntN(3)) * time.Second)
			for id, since := range resting {
				if c.t.Sub(since) >= 10*time.Second {
					delete(resting, id)
				}
			}
			if rnd.IntN(2) == 0 {
				lowest := uint32(1)
				for ; used[lowest] || !resting[lowest].IsZero(); lowest++ {
				}
				id, err := a.alloc()
				switch {
				case lowest >= limit:
					if !errors.Is(err, ErrFull) {
						t.Fatalf("seed %d: alloc from a full map: %d, %v", seed, id, err)
					}
				case err != nil || id != lowest:
					t.Fatalf("seed %d: alloc: %d, %v; want %d", seed, id, err, lowest)
				default:
					used[id] = true
				}
			} else {
				for id := range used {
					delete(used, id)
					a.free(id)
					resting[id] = c.t
					break
				}
			}
			if a.live() != uint32(len(used)) {
				t.Fatalf("seed %d: %d live, want %d", seed, a.live(), len(used))
			}
		}
		r := newIDAllocator("test", limit, 0, c.now)
		for id := range used {
			if err := r.restore(id); err != nil {
				t.Fatal(err)
			}
			if r.restore(id) == nil {
				t.Fatalf("restored %d twice", id)
			}
		}
		for {
			id, err := r.alloc()
			if err != nil {
				break
			}
			if used[id] {
				t.Fatalf("seed %d: restored id %d handed out again", seed, id)
			}
			used[id] = true
		}
		if len(used) != int(limit)-1 {
			t.Fatalf("seed %d: %d ids in all, want %d", seed, len(used), limit-1)
		}
	}
}

func TestIDsRestoreRefuses(t *testing.T) {
	a := newIDAllocator("test", 10, 0, time.Now)
	for _, id := range []uint32{0, 10, 1 << 31} {
		if a.restore(id) == nil {
			t.Errorf("restored %d", id)
		}
	}
}
