package etcd

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// owed holds the renewals that the store is to get once it is back. There are no more of them than instances are
// known.
type owed struct {
	mu   sync.Mutex
	away bool // the store does not answer
	ids  map[registry.InstanceID]struct{}
	busy int           // taken from ids, and being brought
	wake chan struct{} // holds one when the store has gone away
}

func newOwed() *owed {
	return &owed{ids: map[registry.InstanceID]struct{}{}, wake: make(chan struct{}, 1)}
}

// add remembers a renewal if the store is away. It reports whether it is.
func (o *owed) add(id registry.InstanceID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away {
		o.ids[id] = struct{}{}
	}
	return o.away
}

// begin says that the store is away. It reports whether that is news.
func (o *owed) begin(id registry.InstanceID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	news := !o.away
	o.away = true
	o.ids[id] = struct{}{}
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return news
}

// next takes a renewal that is owed, any of them: one that makes trouble is not always the first.
func (o *owed) next() (id registry.InstanceID, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id = range o.ids {
		delete(o.ids, id)
		o.busy++
		return id, true
	}
	return id, false
}

// done gives back a renewal that was not brought.
func (o *owed) done(id registry.InstanceID, brought bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy--; !brought {
		o.ids[id] = struct{}{}
	}
}

// settled has the store count as back if nothing is owed. It reports whether that is so.
func (o *owed) settled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = len(o.ids)+o.busy > 0
	return !o.away
}

func (o *owed) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.ids) + o.busy
}

func (o *owed) isAway() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.away
}

// away remembers a renewal that the store did not take.
func (s *Store) away(id registry.InstanceID, err error) {
	if s.owed.begin(id) {
		s.log.Warn("the registry's store does not answer: renewals of known instances are answered without it, and brought to it later", "err", err)
	}
}

// settlers is how many renewals are brought to the store at once. One after the other, those of thousands would take
// longer than their leases last.
const settlers = 8

// settle brings what is owed to the store, whenever it has been away, until ctx ends.
func (s *Store) settle(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.owed.wake:
		}
		begin := time.Now()
		var brought atomic.Int64
		for {
			var group sync.WaitGroup
			for range settlers {
				group.Go(func() { s.settleSome(ctx, &brought) })
			}
			group.Wait()
			if ctx.Err() != nil {
				return
			}
			if s.owed.settled() {
				break
			}
		}
		if n := brought.Load(); n > 0 {
			s.log.Info("the registry's store answers again", "away", time.Since(begin).Round(time.Millisecond), "renewals", n)
		}
	}
}

// settleSome brings renewals to the store until none is left or ctx ends. Of an instance that is gone meanwhile
// nothing comes: its next renewal fails, and it registers again.
func (s *Store) settleSome(ctx context.Context, brought *atomic.Int64) {
	for ctx.Err() == nil {
		id, ok := s.owed.next()
		if !ok {
			return
		}
		k, _ := s.instances.get(id)
		err := s.renewKnown(ctx, id, k)
		if errors.Is(err, registry.ErrUnavailable) || ctx.Err() != nil {
			s.owed.done(id, false)
			select {
			case <-ctx.Done():
			case <-time.After(retryFirst):
			}
			continue
		}
		s.owed.done(id, true)
		brought.Add(1)
		if err != nil {
			s.log.Debug("a renewal came too late", "instance", id, "err", err)
		}
	}
}
