package etcd

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

const (
	pageSize   = 2000 // keys per read of a snapshot
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Watch implements registry.Source. A value that cannot be read counts as absent: it is logged and
// its last good version, if any, is deleted. A NetworkPolicy that cannot be read isolates its namespace.
func (s *Store) Watch(ctx context.Context) <-chan registry.Batch {
	out := make(chan registry.Batch)
	go func() {
		defer close(out)
		wait := retryFirst
		for ctx.Err() == nil {
			progressed, err := s.follow(ctx, out)
			if ctx.Err() != nil {
				return
			}
			if progressed {
				wait = retryFirst
			}
			s.log.Warn("registry watch lost its place and starts again", "err", err, "in", wait)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, retryMost)
		}
	}()
	return out
}

// follow sends a snapshot and then the changes until something breaks. It reports whether it got
// as far as the snapshot.
func (s *Store) follow(ctx context.Context, out chan<- registry.Batch) (progressed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	snapshot, err := s.snapshot(ctx)
	if err != nil {
		return false, err
	}
	if !send(ctx, out, snapshot) {
		return true, ctx.Err()
	}
	events := s.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(snapshot.Revision+1))
	for response := range events {
		if err := response.Err(); err != nil {
			return true, err
		}
		for _, b := range s.batches(response.Events) {
			if !send(ctx, out, b) {
				return true, ctx.Err()
			}
		}
	}
	return true, errWatchEnded
}

func send(ctx context.Context, out chan<- registry.Batch, b registry.Batch) bool {
	select {
	case out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// snapshot reads everything below the prefix as of one revision.
func (s *Store) snapshot(ctx context.Context) (registry.Batch, error) {
	b := registry.Batch{Snapshot: true}
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		r, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize),
			clientv3.WithRev(b.Revision))
		if err != nil {
			return b, err
		}
		if b.Revision == 0 {
			b.Revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			if c, ok := s.change(kv, false); ok {
				b.Changes = append(b.Changes, c)
			}
		}
		if !r.More {
			return b, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// batches groups events by revision. etcd never splits a revision over two responses. A revision
// with nothing for us still makes a batch: someone may wait for it.
func (s *Store) batches(events []*clientv3.Event) []registry.Batch {
	var list []registry.Batch
	for _, e := range events {
		if len(list) == 0 || list[len(list)-1].Revision != e.Kv.ModRevision {
			list = append(list, registry.Batch{Revision: e.Kv.ModRevision})
		}
		if c, ok := s.change(e.Kv, e.Type == clientv3.EventTypeDelete); ok {
			b := &list[len(list)-1]
			b.Changes = append(b.Changes, c)
		}
	}
	return list
}

// change logs what it cannot read, and makes of it what unreadable says.
func (s *Store) change(kv *mvccpb.KeyValue, deleted bool) (registry.Change, bool) {
	v := kv.Value
	if deleted {
		v = nil
	} else if v == nil {
		v = []byte{}
	}
	c, ok, err := change(kv.Key, v)
	if err == nil {
		return c, ok
	}
	s.damaged.Add(1)
	said := "registry value is not valid and is ignored"
	var stray error
	if c, ok, stray = unreadable(kv.Key); ok && !c.Deleted {
		said = "registry value is not valid: its namespace is isolated until it is written again or deleted"
	}
	s.log.Warn(said, "key", string(kv.Key), "revision", kv.ModRevision, "err", err)
	return c, ok && stray == nil
}
