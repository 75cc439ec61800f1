package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	// officeKey lies outside of what watches of the registry tell.
	officeKey = "/sluice/expirer"
	// officeLease is for how many seconds nothing lapsed is deleted after the agent that does it was killed.
	officeLease = 10
)

// expireElected runs the expirer of a cluster whenever this agent is elected to, until ctx ends.
func (s *Store) expireElected(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.holdOffice(ctx)
		if ctx.Err() != nil {
			return
		}
		s.log.Debug("this agent no longer deletes the instances that have lapsed", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// holdOffice waits to be elected and works until the office is lost or ctx ends.
func (s *Store) holdOffice(ctx context.Context) error {
	granted, err := s.grant(ctx, officeLease)
	if err != nil {
		return err
	}
	defer s.revoke(ctx, granted)
	session, err := concurrency.NewSession(s.client, concurrency.WithContext(ctx), concurrency.WithLease(granted))
	if err != nil {
		return err
	}
	defer session.Orphan()
	holding, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(session.Ctx(), cancel)()
	election := concurrency.NewElection(session, officeKey)
	if err := election.Campaign(holding, s.expiry.String()); err != nil {
		return err
	}
	e := newExpirer(s)
	e.fence = []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(election.Key()), "=", election.Rev())}
	s.log.Info("this agent deletes the instances whose leases have lapsed", "limit", s.expiry)
	e.run(holding)
	return holding.Err()
}
