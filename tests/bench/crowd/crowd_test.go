package crowd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/sluice-net/sluice/registry/kube"
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

// What is applied is what would be registered.
func TestDocuments(t *testing.T) {
	objects, err := kube.Parse([]byte(documents(7, 9, 3)))
	if err != nil || len(objects) != 4 {
		t.Fatalf("%d objects: %v", len(objects), err)
	}
	for i, o := range objects {
		if i%2 == 0 {
			if o.Service == nil || o.Service.Name.Name != fmt.Sprint("s", 7+i/2) || o.Service.Ports[0].Port != Port {
				t.Errorf("object %d is %+v", i, o)
			}
			continue
		}
		if o.Slice == nil || o.Slice.Service != fmt.Sprint("s", 7+i/2) || len(o.Slice.Endpoints) != 3 {
			t.Fatalf("object %d is %+v", i, o)
		}
		for j, e := range o.Slice.Endpoints {
			if want := Instance(7+i/2, j).Addresses; !slices.Equal(e.Addresses, want) {
				t.Errorf("endpoint %d of object %d has %v, want %v", j, i, e.Addresses, want)
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
