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
//
// A watch that broke off goes on where it was, unless the store has dropped the revisions since then or is
// another one: a snapshot tells what became of everything.
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
			s.log.Warn("registry watch broke off and is taken up again", "err", err, "in", wait)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, retryMost)
		}
	}()
	return out
}

// follow sends what has changed since the last call, at first a snapshot, and then the changes until something
// breaks. It reports whether it got as far as to know of no more.
func (r *reader) follow(ctx context.Context, out chan<- registry.Batch) (progressed bool, err error) {
	// A member that has lost its leader tells nothing new: with this it says so, and another one is asked.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	if err := r.resumable(ctx); err != nil {
		return false, err
	}
	if r.at == 0 {
		snapshot, err := r.snapshot(ctx)
		if err != nil {
			return false, err
		}
		if !send(ctx, out, snapshot) {
			return true, ctx.Err()
		}
		r.at = snapshot.Revision
		raise(&r.seen, snapshot.Revision)
	}
	events := r.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(r.at+1))
	for response := range events {
		if response.CompactRevision > 0 {
			r.at = 0
		}
		if err := response.Err(); err != nil {
			return progressed, err
		}
		progressed = true
		for _, b := range r.batches(response.Events) {
			if !send(ctx, out, b) {
				return true, ctx.Err()
			}
			r.at = b.Revision
			raise(&r.seen, b.Revision)
		}
	}
	return progressed, errWatchEnded
}

// resumable forgets where the watch was if the store cannot go on from there: it is another one, or was made
// from a backup, which etcd itself would not notice.
func (r *reader) resumable(ctx context.Context) error {
	if r.at == 0 {
		return nil
	}
	now, err := r.client.Get(ctx, prefix, clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if now.Header.ClusterId != r.cluster || now.Header.Revision < r.at {
		r.log.Warn("the registry is another one, or an older state of it: all of it is read again",
			"revision", now.Header.Revision, "before", r.at)
		r.at = 0
	}
	return nil
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
			b.Revision, r.cluster = page.Header.Revision, page.Header.ClusterId
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
