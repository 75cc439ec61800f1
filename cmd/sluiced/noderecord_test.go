package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sluice-net/sluice/registry"
)

// fakeNode is a machine with addresses and a registry that may fail.
type fakeNode struct {
	mu      sync.Mutex
	addrs   []netip.Addr
	finding error
	putting error
	puts    []registry.Node
	tries   int
}

func (f *fakeNode) find() ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addrs, f.finding
}

func (f *fakeNode) put(_ context.Context, n registry.Node) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.putting != nil {
		return 0, f.putting
	}
	f.puts = append(f.puts, n)
	return int64(len(f.puts)), nil
}

func (f *fakeNode) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// TestNodeRecord: the registry is written when the addresses have changed, and only then; what fails is tried
// again at the next sign, and said once.
func TestNodeRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::2")
		f := &fakeNode{addrs: []netip.Addr{one}}
		var said strings.Builder
		r := newNodeRecord(registry.Node{Name: "n1", Zone: "z"}, false, slog.New(slog.NewTextHandler(&said, nil)))
		r.find, r.put = f.find, f.put
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if rev, err := r.write(ctx); err != nil || rev != 1 {
			t.Fatalf("revision %d, %v", rev, err)
		}
		go r.run(ctx)
		step := func(what string, do func(), tries, puts int) {
			t.Helper()
			f.change(do)
			for range 3 { // more signs than there is news
				r.wake()
				synctest.Wait()
			}
			if f.tries != tries || len(f.puts) != puts {
				t.Fatalf("%s: %d of %d writes succeeded, want %d of %d", what, len(f.puts), f.tries, puts, tries)
			}
		}
		step("nothing changed", func() {}, 1, 1)
		step("an address came", func() { f.addrs = []netip.Addr{one, two} }, 2, 2)
		step("the addresses cannot be read", func() { f.addrs, f.finding = nil, errors.New("no netlink") }, 2, 2)
		step("the registry is full", func() {
			f.addrs, f.finding, f.putting = []netip.Addr{two}, nil, errors.New("no space")
		}, 5, 2)
		step("the registry takes writes again", func() { f.putting = nil }, 6, 3)
		want := registry.Node{Name: "n1", Zone: "z", Addresses: []netip.Addr{two}}
		if got := f.puts[2]; got.Name != want.Name || got.Zone != want.Zone || !slices.Equal(got.Addresses, want.Addresses) {
			t.Errorf("wrote %+v, want %+v", got, want)
		}
		for _, text := range []string{"no netlink", "no space"} {
			if n := strings.Count(said.String(), text); n != 1 {
				t.Errorf("%q was said %d times: %s", text, n, said.String())
			}
		}
	})
}

// TestNodeRecordConfigured: addresses that the configuration names stay, whatever the devices have.
func TestNodeRecordConfigured(t *testing.T) {
	f := &fakeNode{}
	n := registry.Node{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.7")}}
	r := newNodeRecord(n, true, slog.New(slog.DiscardHandler))
	r.put = f.put
	for range 2 {
		if _, err := r.update(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.puts) != 1 || !slices.Equal(f.puts[0].Addresses, n.Addresses) {
		t.Errorf("wrote %+v, want it once", f.puts)
	}
}
