package etcd

import (
	"context"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxStreams is how many streams wait for the next renewal.
const maxStreams = 16

// renewStreams are open streams to a cluster on which leases are renewed. A stream carries one renewal at a time: a
// lease that is being ended keeps the server from answering what comes after it on the same stream.
type renewStreams struct {
	client *clientv3.Client
	mu     sync.Mutex
	idle   []*renewStream
}

type renewStream struct {
	etcdserverpb.Lease_LeaseKeepAliveClient
	cancel context.CancelFunc
}

// renew starts a lease afresh and returns its duration in seconds; 0: there is no such lease.
func (r *renewStreams) renew(ctx context.Context, id clientv3.LeaseID) (int64, error) {
	s, used := r.take()
	for {
		if s == nil {
			var err error
			if s, err = r.open(ctx); err != nil {
				return 0, err
			}
		}
		ttl, err := s.renew(ctx, id)
		if err == nil {
			r.put(s)
			return ttl, nil
		}
		s.cancel()
		if !used || ctx.Err() != nil {
			return 0, err
		}
		s, used = nil, false // its connection may have ended long ago
	}
}

// open makes a stream, which lives until it is cancelled. That it opens has to be before ctx ends.
func (r *renewStreams) open(ctx context.Context) (*renewStream, error) {
	lives, cancel := context.WithCancel(clientv3.WithRequireLeader(r.client.Ctx()))
	defer context.AfterFunc(ctx, cancel)()
	s, err := etcdserverpb.NewLeaseClient(r.client.ActiveConnection()).LeaseKeepAlive(lives)
	if err != nil {
		cancel()
		return nil, err
	}
	return &renewStream{s, cancel}, nil
}

func (r *renewStreams) take() (s *renewStream, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.idle); n > 0 {
		s, r.idle = r.idle[n-1], r.idle[:n-1]
	}
	return s, s != nil
}

func (r *renewStreams) put(s *renewStream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.idle) < maxStreams {
		r.idle = append(r.idle, s)
	} else {
		s.cancel()
	}
}

func (s *renewStream) renew(ctx context.Context, id clientv3.LeaseID) (int64, error) {
	defer context.AfterFunc(ctx, s.cancel)()
	if err := s.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
		return 0, err
	}
	r, err := s.Recv()
	if err != nil {
		return 0, err
	}
	return r.TTL, nil
}
