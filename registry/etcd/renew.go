package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/lease"

	"github.com/sluice-net/sluice/registry"
)

// renewTimeout is how long the store has for answering a renewal.
const renewTimeout = 2 * time.Second

// skipPart is the part of a lease's duration within which a further renewal is no news.
const skipPart = 10

// Renew implements registry.Registrar. While the store is away a renewal of an instance that is known counts, and
// is brought to the store later. One that comes less than a tenth of the lease's duration after another is not
// brought there at all.
func (s *Store) Renew(ctx context.Context, id registry.InstanceID) error {
	if err := s.renew(ctx, id); err != nil {
		return fmt.Errorf("renew %s: %w", id, err)
	}
	return nil
}

func (s *Store) renew(ctx context.Context, id registry.InstanceID) error {
	s.renewals.Add(1)
	k, known := s.instances.get(id)
	switch {
	case !known:
		keys, err := keysOf(id)
		if err != nil {
			return err
		}
		return s.revive(ctx, keys)
	case k.ttl == 0, s.owed.add(id), k.alive && time.Since(k.renewed) < time.Duration(k.ttl)*time.Second/skipPart:
		return nil
	}
	err := s.renewKnown(ctx, id, k)
	if ctx.Err() == nil && errors.Is(err, registry.ErrUnavailable) {
		s.away(id, err)
		return nil
	}
	return err
}

// renewKnown brings a renewal to the store.
func (s *Store) renewKnown(ctx context.Context, id registry.InstanceID, k knownInstance) error {
	begin := time.Now()
	if k.alive {
		_, err := s.keepAlive(ctx, k.lease)
		if err == nil {
			s.instances.renewed(id, k.lease, begin)
		}
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
	}
	keys, err := keysOf(id)
	if err != nil {
		return err
	}
	return s.revive(ctx, keys)
}

// keepAlive starts a lease afresh and returns its duration in seconds, or rpctypes.ErrLeaseNotFound.
func (s *Store) keepAlive(ctx context.Context, id clientv3.LeaseID) (int64, error) {
	soon, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	ttl, err := s.renewLease(soon, id)
	switch {
	case err == nil && ttl > 0:
		return ttl, nil
	case err == nil:
		return 0, rpctypes.ErrLeaseNotFound
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case soon.Err() == nil:
		return 0, fmt.Errorf("%w: %w", registry.ErrUnavailable, err)
	}
	// A lease whose time is over is answered for when etcd has ended it. That takes long when there are many.
	left, err := within(ctx, func(ctx context.Context) (*clientv3.LeaseTimeToLiveResponse, error) {
		return s.client.TimeToLive(ctx, id)
	})
	switch {
	case err != nil:
		return 0, err
	case left.TTL > 0:
		return 0, fmt.Errorf("%w: a renewal was not answered within %s", registry.ErrUnavailable, renewTimeout)
	}
	s.revoke(ctx, id)
	return 0, rpctypes.ErrLeaseNotFound
}

// renewLease asks the store to start a lease afresh. The answer is 0 for one that is not there. Clientv3 would open
// a stream for each renewal, and try again without a pause while the store is away.
func (s *Store) renewLease(ctx context.Context, id clientv3.LeaseID) (int64, error) {
	if s.server == nil {
		return s.streams.renew(ctx, id)
	}
	type answer struct {
		ttl int64
		err error
	}
	answered := make(chan answer, 1)
	go func() { // it does not end with ctx
		ttl, err := s.server.Server.LeaseRenew(ctx, lease.LeaseID(id))
		if errors.Is(err, lease.ErrLeaseNotFound) {
			ttl, err = 0, nil
		}
		answered <- answer{ttl, err}
	}()
	select {
	case a := <-answered:
		return a.ttl, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// durationOf reads no more of a stored instance than its lease's duration in seconds.
func durationOf(v []byte) (uint32, error) {
	var i struct {
		Lease uint32 `json:"lease"`
	}
	err := json.Unmarshal(v, &i)
	return i.Lease, err
}

// revive starts the lease of an instance afresh as the store has it, or gives it a new one if it has lapsed.
func (s *Store) revive(ctx context.Context, keys instanceKeys) error {
	for range maxAttempts {
		got, err := s.client.Txn(ctx).Then(clientv3.OpGet(keys.instance), clientv3.OpGet(keys.lease)).Commit()
		if err != nil {
			return err
		}
		instance := first(got.Responses[0].GetResponseRange().GetKvs())
		held := first(got.Responses[1].GetResponseRange().GetKvs())
		if instance == nil {
			return registry.ErrNotFound
		}
		ttl, err := durationOf(instance.Value)
		if err != nil {
			return fmt.Errorf("%w: what is stored cannot be read: register the instance again: %w", registry.ErrInvalid, err)
		}
		if ttl == 0 {
			return nil
		}
		if held != nil && held.Lease != 0 {
			_, err := s.keepAlive(ctx, clientv3.LeaseID(held.Lease))
			if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return err
			}
		}
		granted, err := s.grant(ctx, ttl)
		if err != nil {
			return err
		}
		done, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(keys.instance), "=", instance.ModRevision),
				clientv3.Compare(clientv3.ModRevision(keys.lease), "=", modRevision(held))).
			Then(clientv3.OpPut(keys.lease, leaseValue, clientv3.WithLease(granted))).Commit()
		if err == nil && done.Succeeded {
			s.wrote(done.Header.Revision)
			return nil
		}
		s.revoke(ctx, granted)
		if err != nil {
			return err
		}
	}
	return errConflict
}

// grant makes a lease of so many seconds.
func (s *Store) grant(ctx context.Context, seconds uint32) (clientv3.LeaseID, error) {
	r, err := within(ctx, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return s.client.Grant(ctx, int64(seconds))
	})
	if err != nil {
		return 0, err
	}
	return r.ID, nil
}

// revoke ends a lease that nothing hangs on any more. One that cannot be ended lapses by itself.
func (s *Store) revoke(ctx context.Context, id clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
	defer cancel()
	if _, err := s.client.Revoke(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.log.Debug("a lease was not revoked", "lease", id, "err", err)
	}
}
