package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// owed holds the renewals that the store is to get once it is back. There are no more of them than instances are
// known.
type owed struct {
	mu   sync.Mutex
	away bool // the store does not answer
	ids  map[registry.InstanceID]struct{}
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

// next returns a renewal that is owed. With the last of them gone the store counts as back.
func (o *owed) next() (id registry.InstanceID, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id = range o.ids {
		return id, true
	}
	o.away = false
	return id, false
}

func (o *owed) done(id registry.InstanceID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.ids, id)
}

func (o *owed) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.ids)
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

// settle brings what is owed to the store, whenever it has been away, until ctx ends.
func (s *Store) settle(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.owed.wake:
		}
		begin, brought := time.Now(), 0
		for id, ok := s.owed.next(); ok; id, ok = s.owed.next() {
			if !s.settleOne(ctx, id) {
				return
			}
			brought++
		}
		s.log.Info("the registry's store answers again", "away", time.Since(begin).Round(time.Millisecond), "renewals", brought)
	}
}

// settleOne brings one renewal to the store, however long that takes. It reports whether ctx has not ended. Of an
// instance that is gone meanwhile nothing comes: its next renewal fails, and it registers again.
func (s *Store) settleOne(ctx context.Context, id registry.InstanceID) bool {
	for {
		k, _ := s.instances.get(id)
		err := s.renewKnown(ctx, id, k)
		if !errors.Is(err, registry.ErrUnavailable) {
			s.owed.done(id)
			if err != nil {
				s.log.Debug("a renewal came too late", "instance", id, "err", err)
			}
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retryFirst):
		}
	}
}
