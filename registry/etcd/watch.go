package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

const (
	pageSize   = 2000 // keys per read of a snapshot
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Watch implements registry.Source. A value that cannot be read is logged. It counts as absent, and what was
// read under its key before is deleted; but a NetworkPolicy isolates its namespace, and a namespace or a
// policy of the other tiers stays what it was when this watch last could read it.
func (s *Store) Watch(ctx context.Context) <-chan registry.Batch {
	out := make(chan registry.Batch)
	go func() {
		defer close(out)
		r := newReader(s)
		wait := retryFirst
		for ctx.Err() == nil {
			progressed, err := r.follow(ctx, out)
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
func (r *reader) follow(ctx context.Context, out chan<- registry.Batch) (progressed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	snapshot, err := r.snapshot(ctx)
	if err != nil {
		return false, err
	}
	if !send(ctx, out, snapshot) {
		return true, ctx.Err()
	}
	events := r.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(snapshot.Revision+1))
	for response := range events {
		if err := response.Err(); err != nil {
			return true, err
		}
		for _, b := range r.batches(response.Events) {
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
func (r *reader) snapshot(ctx context.Context) (registry.Batch, error) {
	b := registry.Batch{Snapshot: true}
	found := map[string]bool{} // of what is remembered
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		page, err := r.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize),
			clientv3.WithRev(b.Revision))
		if err != nil {
			return b, err
		}
		if b.Revision == 0 {
			b.Revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			if c, ok := r.change(kv, false); ok {
				b.Changes = append(b.Changes, c)
			}
			if r.remembers(kv.Key) {
				found[string(kv.Key)] = true
			}
		}
		if !page.More {
			r.forget(func(key string) bool { return !found[key] })
			return b, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// batches groups events by revision. etcd never splits a revision over two responses. A revision
// with nothing for us still makes a batch: someone may wait for it.
func (r *reader) batches(events []*clientv3.Event) []registry.Batch {
	var list []registry.Batch
	for _, e := range events {
		if len(list) == 0 || list[len(list)-1].Revision != e.Kv.ModRevision {
			list = append(list, registry.Batch{Revision: e.Kv.ModRevision})
		}
		if c, ok := r.change(e.Kv, e.Type == clientv3.EventTypeDelete); ok {
			b := &list[len(list)-1]
			b.Changes = append(b.Changes, c)
		}
	}
	return list
}
