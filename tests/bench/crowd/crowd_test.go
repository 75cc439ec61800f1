package crowd

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
)

// No two instances have an address or an id in common.
func TestInstance(t *testing.T) {
	addrs, ids := map[netip.Addr]bool{}, map[string]bool{}
	for i := range 1000 {
		for j := range 128 {
			in := Instance(i, j)
			if addrs[in.Addresses[0]] || ids[in.ID] {
				t.Fatalf("%+v was there before", in)
			}
			addrs[in.Addresses[0]], ids[in.ID] = true, true
			if err := in.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestInParallel(t *testing.T) {
	var sum, most, now atomic.Int64
	if _, err := InParallel(t.Context(), 4, 100, func(_ context.Context, n int) error {
		for at := now.Add(1); at > most.Load(); {
			most.Store(at)
		}
		sum.Add(int64(n))
		now.Add(-1)
		return nil
	}); err != nil || sum.Load() != 4950 || most.Load() > 4 {
		t.Errorf("sum %d, %d at a time: %v", sum.Load(), most.Load(), err)
	}
	broken := errors.New("broken")
	if _, err := InParallel(t.Context(), 4, 1<<40, func(_ context.Context, n int) error {
		if n == 10 {
			return broken
		}
		return nil
	}); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
}
