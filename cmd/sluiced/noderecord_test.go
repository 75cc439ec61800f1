package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/vishvananda/netlink"

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
		r.check = func(context.Context) error { return errors.New("a service has it") }
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
		for _, text := range []string{"no netlink", "no space", "a service has it"} {
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

// TestNodeRecordDevices: what is found are the addresses of the devices with a default route, as they come and go.
func TestNodeRecordDevices(t *testing.T) {
	inNewNetns(t, func() error {
		h, err := newDevices()
		if err != nil {
			return err
		}
		defer h.Close()
		f := &fakeNode{}
		r := newNodeRecord(registry.Node{Name: "n1"}, false, slog.New(slog.DiscardHandler))
		r.put = f.put
		link, err := h.LinkByName("up0")
		if err != nil {
			return err
		}
		route := func(to string) *netlink.Route {
			_, dst, _ := net.ParseCIDR(to)
			return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
		}
		for _, step := range []struct {
			what string
			do   func() error
			want string // that were written; "": nothing was
		}{
			{"at the start", func() error { return nil }, "[]"},
			{"addresses, but no way out", func() error {
				return errors.Join(changeAddress(h, h.AddrAdd, "up0", "192.0.2.7/24"), changeAddress(h, h.AddrAdd, "up0", "2001:db8::7/64"))
			}, ""},
			{"a default route", func() error { return h.RouteAdd(route("0.0.0.0/0")) }, "[192.0.2.7]"},
			{"and one of the other family", func() error { return h.RouteAdd(route("::/0")) }, "[192.0.2.7 2001:db8::7]"},
			{"loopback does not count", func() error { return changeAddress(h, h.AddrAdd, "lo", "203.0.113.9/32") }, ""},
			{"another address", func() error {
				if err := changeAddress(h, h.AddrDel, "up0", "2001:db8::7/64"); err != nil {
					return err
				}
				return changeAddress(h, h.AddrAdd, "up0", "2001:db8::8/64")
			}, "[192.0.2.7 2001:db8::8]"},
			{"a route goes", func() error { return h.RouteDel(route("0.0.0.0/0")) }, "[2001:db8::8]"},
		} {
			f.puts = nil
			if err := step.do(); err != nil {
				return fmt.Errorf("%s: %w", step.what, err)
			}
			if _, err := r.update(t.Context()); err != nil {
				return fmt.Errorf("%s: %w", step.what, err)
			}
			got := ""
			if len(f.puts) > 0 {
				got = fmt.Sprint(f.puts[0].Addresses)
			}
			if got != step.want {
				return fmt.Errorf("%s: wrote %q, want %q", step.what, got, step.want)
			}
		}
		return nil
	})
}
