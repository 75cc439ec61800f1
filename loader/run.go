package loader

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// ErrIncomplete is wrapped by Wait when the maps reflect the revision but for what found no room, or
// could not be written; Check tells what.
var ErrIncomplete = errors.New("maps are incomplete")

// Resolver turns changes of the registry into what they mean for frontends. registry.Catalog is one.
type Resolver interface {
	Apply(registry.Batch) registry.Update
}

// How long Run waits before it tries again what could not be written.
const (
	retryFirst = 100 * time.Millisecond
	retryMax   = 5 * time.Second
)

// Run follows a source and syncs each batch. What cannot be written is logged and tried again. It
// returns nil when ctx ends.
func (l *Loader) Run(ctx context.Context, src registry.Source, cat Resolver) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches := src.Watch(ctx)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	delay, armed := retryFirst, false
	var last string
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case b, open := <-batches:
			if !open {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("follow registry: the source ended its stream")
			}
			l.progress.received(b.Revision, l.o.now())
			err = l.Sync(cat.Apply(b))
		case <-timer.C:
			armed = false
			err = l.retry()
			delay = min(2*delay, retryMax)
		}
		if errors.Is(err, errClosed) {
			return err
		}
		if err == nil {
			if last != "" {
				l.o.Logger.Info("maps are complete again")
			}
			last, delay = "", retryFirst
			timer.Stop()
			// Identities that went leave their entries behind for a moment.
			if armed = l.leaving(); armed {
				timer.Reset(l.o.grace)
			}
			continue
		}
		if text := err.Error(); text != last {
			l.o.Logger.Error("sync maps", "error", err)
			last = text
		}
		if !armed {
			timer.Reset(delay)
			armed = true
		}
	}
}

// retry tries again what is left of earlier updates.
func (l *Loader) retry() error {
	l.progress.mu.Lock()
	rev := l.progress.revision
	l.progress.mu.Unlock()
	return l.sync(func(i *isolation, s *syncer) error {
		return errors.Join(l.isolate(i.retry), s.retry())
	}, rev)
}

func (l *Loader) sync(work func(*isolation, *syncer) error, rev int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	began := time.Now()
	err := work(l.isolation, l.syncer)
	if err != nil {
		err = fmt.Errorf("sync to revision %d: %w", rev, err)
	}
	l.metrics.synced(time.Since(began), err)
	l.progress.done(rev, err)
	return err
}

// Wait returns when the maps reflect the registry's revision or a later one, or ctx ends. The error
// wraps ErrIncomplete when something of it is not in the maps.
func (l *Loader) Wait(ctx context.Context, rev int64) error {
	for {
		reached, changed, err := l.progress.state(rev)
		if reached {
			if err != nil {
				return fmt.Errorf("%w: %w", ErrIncomplete, err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the maps to reflect revision %d: %w", rev, ctx.Err())
		case <-changed:
		}
	}
}

// Revision returns the registry's revision that the maps reflect; 0: none yet.
func (l *Loader) Revision() int64 {
	l.progress.mu.Lock()
	defer l.progress.mu.Unlock()
	return l.progress.revision
}

// Complete returns nil when the maps hold all that the newest revision asks for, else what is missing.
func (l *Loader) Complete() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.syncer.synced {
		return errors.New("the registry has delivered no snapshot yet")
	}
	return errors.Join(l.isolate(l.isolation.incomplete), l.syncer.incomplete())
}

// pending returns how many frontends are not in the maps as they should be.
func (l *Loader) pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.syncer.dirty)
}

// Draining returns how many backends of frontends in the maps keep what they have and take nothing new.
func (l *Loader) Draining() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.syncer.use.draining
}

// progress is how far the maps have come.
type progress struct {
	mu       sync.Mutex
	ready    bool  // something was synced
	revision int64 // synced; 0: none yet
	err      error // what is missing of it
	seen     int64 // received from the source
	since    time.Time
	changed  chan struct{} // closed and replaced when any of these changes
}

func (p *progress) init() { p.changed = make(chan struct{}) }

// received notes that a revision is on its way to the maps.
func (p *progress) received(rev int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen <= p.revision {
		p.since = now
	}
	p.seen = max(p.seen, rev)
}

func (p *progress) done(rev int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready, p.revision, p.err = true, max(p.revision, rev), err
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *progress) state(rev int64) (reached bool, changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready && p.revision >= rev, p.changed, p.err
}

// lag is for how long a revision has been on its way; 0: none is.
func (p *progress) lag(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen <= p.revision && p.err == nil {
		return 0
	}
	return now.Sub(p.since)
}
