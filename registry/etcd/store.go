package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

var _ registry.Source = (*Store)(nil)

var (
	errWatchEnded = errors.New("watch ended")
	errConflict   = errors.New("object changed meanwhile, too often to keep up")
)

const maxAttempts = 64 // of a transaction that others get in the way of

// PutEndpoint writes an endpoint and returns the revision from which on it is known. Labels that
// LabelEndpoint set for the same container interface stay in force, and so do the marks of MarkEndpoint.
func (s *Store) PutEndpoint(ctx context.Context, e registry.Endpoint) (int64, error) {
	rev, err := s.updateEndpoint(ctx, e.EndpointID, func(r *endpointRecord, _ bool) error {
		r.Endpoint = e
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("put endpoint %s: %w", e.EndpointID, err)
	}
	return rev, nil
}

// LabelEndpoint sets and removes labels of an endpoint that exists.
func (s *Store) LabelEndpoint(ctx context.Context, id registry.EndpointID, set map[string]string, remove []string) (int64, error) {
	rev, err := s.updateEndpoint(ctx, id, func(r *endpointRecord, exists bool) error {
		if !exists {
			return registry.ErrNotFound
		}
		over := maps.Clone(r.Overrides)
		if over == nil {
			over = map[string]*string{}
		}
		for k, v := range set {
			over[k] = &v
		}
		for _, k := range remove {
			over[k] = nil
			if _, given := r.Labels[k]; !given {
				delete(over, k)
			}
		}
		r.Overrides = over
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("label endpoint %s: %w", id, err)
	}
	return rev, nil
}

// MarkEndpoint changes conditions of an endpoint that exists. It returns the endpoint as it is then.
func (s *Store) MarkEndpoint(ctx context.Context, id registry.EndpointID, m registry.Marks) (e registry.Endpoint, rev int64, err error) {
	rev, err = s.updateEndpoint(ctx, id, func(r *endpointRecord, exists bool) error {
		if !exists {
			return registry.ErrNotFound
		}
		if m.Unready != nil {
			r.MarkedUnready = *m.Unready
		}
		if m.Terminating != nil {
			r.MarkedTerminating = *m.Terminating
		}
		e = r.effective()
		return nil
	})
	if err != nil {
		return e, 0, fmt.Errorf("mark endpoint %s: %w", id, err)
	}
	return e, rev, nil
}

// updateEndpoint reads, changes and writes an endpoint until nobody came in between. What is equal
// is not written again.
func (s *Store) updateEndpoint(ctx context.Context, id registry.EndpointID, edit func(*endpointRecord, bool) error) (int64, error) {
	k, err := endpointKey(id)
	if err != nil {
		return 0, err
	}
	old, err := s.get(ctx, k)
	for range maxAttempts {
		if err != nil {
			return 0, err
		}
		var r endpointRecord
		exists := old != nil
		if exists {
			if r, err = decodeEndpoint(old.Key, old.Value); err != nil {
				s.log.Warn("registry value is not valid and is replaced", "key", k, "err", err)
				r, exists = endpointRecord{}, false
			}
		}
		if err := edit(&r, exists); err != nil {
			return 0, err
		}
		if err := validAddrs(r.Addresses); err != nil {
			return 0, err
		}
		v, err := encode(r)
		if err != nil {
			return 0, err
		}
		if old != nil && string(old.Value) == v {
			return old.ModRevision, nil
		}
		rev, current, done, err := s.replace(ctx, k, v, old)
		if err != nil || done {
			return rev, err
		}
		old = current
	}
	return 0, errConflict
}

// replace writes a key if it still is as it was read; otherwise it returns what is there now.
func (s *Store) replace(ctx context.Context, k, v string, old *mvccpb.KeyValue) (rev int64, current *mvccpb.KeyValue, done bool, err error) {
	r, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(k), "=", modRevision(old))).
		Then(clientv3.OpPut(k, v)).
		Else(clientv3.OpGet(k)).Commit()
	if err != nil {
		return 0, nil, false, err
	}
	if r.Succeeded {
		return s.moved(r.Header.Revision), nil, true, nil
	}
	return 0, first(r.Responses[0].GetResponseRange().GetKvs()), false, nil
}

// DeleteEndpoint removes an endpoint and returns the revision from which on it is gone. Deleting
// what is not there is no error.
func (s *Store) DeleteEndpoint(ctx context.Context, id registry.EndpointID) (int64, error) {
	k, err := endpointKey(id)
	if err != nil {
		return 0, fmt.Errorf("delete endpoint %s: %w", id, err)
	}
	r, err := s.client.Delete(ctx, k)
	if err != nil {
		return 0, fmt.Errorf("delete endpoint %s: %w", id, err)
	}
	if r.Deleted == 0 {
		// An earlier call of ours may have deleted it a moment ago.
		return s.written.Load(), nil
	}
	return s.moved(r.Header.Revision), nil
}

// Endpoints returns the endpoints of one node as they are stored now, sorted by id.
func (s *Store) Endpoints(ctx context.Context, node string) ([]registry.Endpoint, error) {
	from, err := key(endpointPrefix, node)
	if err != nil {
		return nil, fmt.Errorf("list endpoints of node: %w", err)
	}
	r, err := s.client.Get(ctx, from+"/", clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list endpoints of node %s: %w", node, err)
	}
	list := make([]registry.Endpoint, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		rec, err := decodeEndpoint(kv.Key, kv.Value)
		if err != nil {
			s.log.Warn("registry value is not valid and is ignored", "key", string(kv.Key), "err", err)
			continue
		}
		list = append(list, rec.effective())
	}
	slices.SortFunc(list, func(a, b registry.Endpoint) int { return a.Compare(b.EndpointID) })
	return list, nil
}

func (s *Store) get(ctx context.Context, k string) (*mvccpb.KeyValue, error) {
	r, err := s.client.Get(ctx, k)
	if err != nil {
		return nil, err
	}
	return first(r.Kvs), nil
}

// wrote remembers the highest revision written and returns the one given.
func (s *Store) wrote(rev int64) int64 { return raise(&s.written, raise(&s.seen, rev)) }

// moved is wrote for endpoints and nodes, whose addresses may have changed.
func (s *Store) moved(rev int64) int64 { return raise(&s.wroteReal, s.wrote(rev)) }

func raise(to *atomic.Int64, n int64) int64 {
	for {
		old := to.Load()
		if old >= n || to.CompareAndSwap(old, n) {
			return n
		}
	}
}

func first(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

// modRevision is 0 for a key that does not exist, as etcd compares it.
func modRevision(kv *mvccpb.KeyValue) int64 {
	if kv == nil {
		return 0
	}
	return kv.ModRevision
}
