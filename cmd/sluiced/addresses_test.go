package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNewNetns runs f on a thread in a network namespace of its own, which has nothing but loopback.
func inNewNetns(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine, and its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// changeAddress adds an address to loopback or a veth of the handle's namespace, or removes it.
func changeAddress(h *netlink.Handle, change func(netlink.Link, *netlink.Addr) error, device, text string) error {
	link, err := h.LinkByName(device)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := change(link, addr); err != nil {
		return fmt.Errorf("change %s of %s: %w", text, device, err)
	}
	return nil
}

// newDevices makes a namespace with loopback and the veth up, and returns a handle on it.
func newDevices() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up1"}
	if err := h.LinkAdd(veth); err != nil {
		return nil, err
	}
	for _, name := range []string{"lo", "up0"} {
		link, err := h.LinkByName(name)
		if err != nil {
			return nil, err
		}
		if err := h.LinkSetUp(link); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// await receives until a list says what is wanted.
func await(t *testing.T, lists <-chan []netip.Addr, what string, want func([]netip.Addr) bool) {
	t.Helper()
	timeout := time.After(addressInterval / 2) // sooner than without a message from the kernel
	var last []netip.Addr
	for {
		select {
		case last = <-lists:
			if want(last) {
				return
			}
		case <-timeout:
			t.Fatalf("%s: told of %v last", what, last)
		}
	}
}

// TestAddressWatch: what the node has is told of at the start and whenever it changes.
func TestAddressWatch(t *testing.T) {
	var h *netlink.Handle
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lists := make(chan []netip.Addr, 64)
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		inNewNetns(t, func() (err error) {
			if h, err = newDevices(); err != nil {
				return err
			}
			if err := changeAddress(h, h.AddrAdd, "up0", "192.0.2.7/24"); err != nil {
				return err
			}
			close(ready)
			w := &addressWatch{log: slog.New(slog.DiscardHandler), set: func(addrs []netip.Addr) error {
				lists <- addrs
				return nil
			}}
			w.run(ctx)
			return nil
		})
	}()
	select {
	case <-ready:
	case <-ended:
		return // it said why
	}
	defer func() {
		cancel()
		<-ended
		h.Close()
	}()
	has := func(text string, want bool) func([]netip.Addr) bool {
		return func(addrs []netip.Addr) bool { return slices.Contains(addrs, netip.MustParseAddr(text)) == want }
	}
	await(t, lists, "at the start", has("192.0.2.7", true))
	for _, c := range []struct{ device, prefix string }{
		{"up0", "198.51.100.9/32"}, {"up0", "2001:db8::9/64"}, {"up0", "fe80::9/64"}, {"up0", "fd00::9/128"},
		{"lo", "203.0.113.9/32"}, {"lo", "2001:db8:1::9/128"},
	} {
		addr, _, _ := strings.Cut(c.prefix, "/")
		if err := changeAddress(h, h.AddrAdd, c.device, c.prefix); err != nil {
			t.Fatal(err)
		}
		await(t, lists, c.prefix+" was added", has(addr, true))
		if err := changeAddress(h, h.AddrDel, c.device, c.prefix); err != nil {
			t.Fatal(err)
		}
		await(t, lists, c.prefix+" was removed", has(addr, false))
	}
	if err := changeAddress(h, h.AddrAdd, "up0", "198.51.100.10/32"); err != nil {
		t.Fatal(err)
	}
	await(t, lists, "loopback has 127.0.0.1 and ::1 of its own", func(addrs []netip.Addr) bool {
		return has("198.51.100.10", true)(addrs) && !slices.ContainsFunc(addrs, netip.Addr.IsLoopback)
	})
}

// TestAddressWatchResumes: when the subscription ends, another one is made and the addresses are read
// again; what could not be set is said once, and tried again.
func TestAddressWatchResumes(t *testing.T) {
	var said strings.Builder
	calls := 0
	inNewNetns(t, func() error {
		w := &addressWatch{log: slog.New(slog.NewTextHandler(&said, nil)), set: func([]netip.Addr) error {
			calls++
			return errors.New("no room")
		}}
		updates := make(chan netlink.AddrUpdate, 4)
		updates <- netlink.AddrUpdate{}
		updates <- netlink.AddrUpdate{}
		close(updates)
		w.follow(t.Context(), updates, nil)
		tick := make(chan time.Time, 1)
		tick <- time.Time{}
		w.follow(t.Context(), nil, tick)
		return nil
	})
	if calls < 2 {
		t.Errorf("%d calls, want one at each start at least", calls)
	}
	if n := strings.Count(said.String(), "no room"); n != 1 {
		t.Errorf("said %d times: %s", n, said.String())
	}
}
