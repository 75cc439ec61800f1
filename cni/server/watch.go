package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/cni/ipam"
)

// tidyInterval is how often the server looks for what no event tells of: spooled DELs, reservations
// whose plugin died, removals to be tried again.
const tidyInterval = 10 * time.Second

// watch is what runs from Settle to Close.
type watch struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

// watchLinks reports devices that come, change and go, until ctx ends or the kernel drops messages;
// then the channel is closed.
func watchLinks(ctx context.Context) (<-chan netlink.LinkUpdate, error) {
	updates := make(chan netlink.LinkUpdate, 256)
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ErrorCallback: func(error) {}, // it closes the channel too, and that is enough to know
	})
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	return updates, nil
}

func (s *Server) startWatch(ctx context.Context, stop context.CancelFunc, events <-chan netlink.LinkUpdate) {
	w := &watch{stop: stop}
	s.mu.Lock()
	s.watch = w
	s.mu.Unlock()
	w.done.Go(func() { s.followLinks(ctx, w, events) })
}

// followLinks withdraws attachments whose device vanishes, and tidies up now and then.
func (s *Server) followLinks(ctx context.Context, w *watch, events <-chan netlink.LinkUpdate) {
	ticker := time.NewTicker(tidyInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case e, ok := <-events:
			if !ok {
				events = s.resubscribe(ctx)
				break
			}
			if name := e.Attrs().Name; e.Header.Type == unix.RTM_DELLINK && cni.IsHostInterface(name) {
				w.done.Go(func() { s.logError("withdraw an interface that is gone", s.vanished(ctx, name)) })
			}
		case <-ticker.C:
			s.logError("tidy up", s.tidy(ctx))
			if events == nil {
				events = s.resubscribe(ctx)
			}
		}
	}
}

// resubscribe takes up the watch again after messages were lost. It returns nil when that is not
// possible now.
func (s *Server) resubscribe(ctx context.Context) <-chan netlink.LinkUpdate {
	if ctx.Err() != nil {
		return nil
	}
	events, err := watchLinks(ctx)
	if err != nil {
		s.logError("watch interfaces", err)
		return nil
	}
	s.logError("look for interfaces that are gone", s.sweep(ctx))
	return events
}

func (s *Server) logError(what string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.log.Error(what, "error", err)
	}
}

// tidy does what is due without anybody asking.
func (s *Server) tidy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	errs := []error{s.settleSpool(ctx), s.sweep(ctx)}
	for _, host := range s.hosts() {
		a, ok, _ := s.get(host)
		if ok && (a.State == ipam.Leaving || a.State == ipam.Reserved && expired(a)) {
			errs = append(errs, s.removeLocked(ctx, host, attachmentID(a), a.Reservation))
		}
	}
	return errors.Join(errs...)
}

// sweep withdraws every attachment whose device is gone.
func (s *Server) sweep(ctx context.Context) error {
	links, err := hostLinks()
	if err != nil {
		return err
	}
	var errs []error
	for _, host := range s.hosts() {
		if links[host] == nil {
			errs = append(errs, s.vanished(ctx, host))
		}
	}
	return errors.Join(errs...)
}

// vanished withdraws a committed attachment whose device is gone, because its namespace went without
// a DEL. The record and the addresses stay until a DEL or GC.
func (s *Server) vanished(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	unlock, err := s.locks.lock(ctx, host)
	if err != nil {
		return fmt.Errorf("wait for another request for %s: %w", host, err)
	}
	defer unlock()
	a, ok, unreadable := s.get(host)
	switch {
	case !ok && !unreadable, ok && a.State != ipam.Committed, s.isWithdrawn(host):
		return nil
	}
	if index, err := hostIndex(host); err != nil || index != 0 {
		return err // one of the same name is there again
	}
	if unreadable {
		return errors.Join(s.opts.Dataplane.DetachInterface(host), s.forget(host))
	}
	s.log.Warn("a container's interface is gone without a DEL", "attachment", attachmentID(a), "interface", host)
	if err := s.withdraw(ctx, host, attachmentID(a)); err != nil {
		return err
	}
	s.setWithdrawn(host)
	return nil
}
