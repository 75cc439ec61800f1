package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/cni"
)

const (
	// addressInterval is how often the node's addresses are read without anybody telling of a change:
	// what failed is tried again then.
	addressInterval = 10 * time.Second
)

// localAddresses returns what the devices of the calling thread's network namespace have that a
// container may send to: all but loopback's own and multicast.
func localAddresses() ([]netip.Addr, error) {
	list, err := cni.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); ok && !addr.IsLoopback() && !addr.IsMulticast() && !addr.IsUnspecified() {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

// addressWatch tells the dataplane of the node's addresses as they come and go.
type addressWatch struct {
	keep func() error             // makes sure of those that the agent itself needs; nil: it needs none
	set  func([]netip.Addr) error // all that there are
	log  *slog.Logger

	last string // error, logged once
}

// update reads the addresses and tells of them.
func (w *addressWatch) update() {
	var kept error
	if w.keep != nil {
		kept = w.keep()
	}
	addrs, err := localAddresses()
	if err == nil {
		err = w.set(addrs)
	}
	w.note(errors.Join(kept, err))
}

func (w *addressWatch) note(err error) { noteOnce(w.log, "follow the node's addresses", &w.last, err) }

// noteOnce logs an error unless it is the one of the last time.
func noteOnce(log *slog.Logger, what string, last *string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != *last && err != nil {
		log.Error(what, "error", err)
	}
	*last = text
}

// run follows the addresses of the calling thread's network namespace until ctx ends. It reads them
// again after every change: a message that the kernel drops does no harm.
func (w *addressWatch) run(ctx context.Context) {
	ticker := time.NewTicker(addressInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		subscription, cancel := context.WithCancel(ctx)
		updates, err := watchAddresses(subscription)
		if err != nil {
			w.note(err)
		}
		w.follow(ctx, updates, ticker.C)
		cancel()
	}
}

// follow returns when the subscription has ended, or at the next tick when there is none.
func (w *addressWatch) follow(ctx context.Context, updates <-chan netlink.AddrUpdate, tick <-chan time.Time) {
	for {
		w.update()
		select {
		case <-ctx.Done():
			return
		case <-tick:
			if updates == nil {
				return
			}
		case _, open := <-updates:
			for open && len(updates) > 0 {
				_, open = <-updates
			}
			if !open {
				return
			}
		}
	}
}

// watchAddresses reports addresses that come and go, until ctx ends or the kernel drops messages; then
// the channel is closed.
func watchAddresses(ctx context.Context) (<-chan netlink.AddrUpdate, error) {
	updates := make(chan netlink.AddrUpdate, 256)
	err := netlink.AddrSubscribeWithOptions(updates, ctx.Done(), netlink.AddrSubscribeOptions{
		ErrorCallback: func(error) {}, // it closes the channel too, and that is enough to know
	})
	if err != nil {
		return nil, fmt.Errorf("watch the node's addresses: %w", err)
	}
	return updates, nil
}
