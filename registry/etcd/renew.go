package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// renewTimeout is how long the store has for answering a renewal.
const renewTimeout = 2 * time.Second

// Renew implements registry.Registrar.
func (s *Store) Renew(ctx context.Context, id registry.InstanceID) error {
	keys, err := keysOf(id)
	if err == nil {
		err = s.revive(ctx, keys)
	}
	if err != nil {
		return fmt.Errorf("renew %s: %w", id, err)
	}
	return nil
}

// keepAlive starts a lease afresh and returns its duration in seconds, or rpctypes.ErrLeaseNotFound.
func (s *Store) keepAlive(ctx context.Context, id clientv3.LeaseID) (int64, error) {
	r, err := s.client.KeepAliveOnce(ctx, id)
	if err != nil {
		return 0, err
	}
	return r.TTL, nil
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
		lease := first(got.Responses[1].GetResponseRange().GetKvs())
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
		if lease != nil && lease.Lease != 0 {
			_, err := s.keepAlive(ctx, clientv3.LeaseID(lease.Lease))
			if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return err
			}
		}
		granted, err := s.client.Grant(ctx, int64(ttl))
		if err != nil {
			return err
		}
		done, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(keys.instance), "=", instance.ModRevision),
				clientv3.Compare(clientv3.ModRevision(keys.lease), "=", modRevision(lease))).
			Then(clientv3.OpPut(keys.lease, leaseValue, clientv3.WithLease(granted.ID))).Commit()
		if err == nil && done.Succeeded {
			s.wrote(done.Header.Revision)
			return nil
		}
		s.revoke(ctx, granted.ID)
		if err != nil {
			return err
		}
	}
	return errConflict
}
