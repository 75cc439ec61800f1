package etcd

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// Limits of one Commit. etcd's own are set to let them through.
const (
	maxTogether      = 4096    // objects
	maxTogetherBytes = 4 << 20 // of keys and values
)

// write is one key to be put or deleted.
type write struct {
	key, value string
	deleted    bool
}

// Commit writes and deletes slices, namespaces and policies, all in one transaction: whoever watches gets them in
// one batch, and what is denied before and after them all is denied in between. What stands there as it
// is to be is left alone. It returns what became of each, and the revision from which on all are known.
// The error wraps registry.ErrInvalid when the store does not take one of them, or not so many at once.
func (s *Store) Commit(ctx context.Context, changes []registry.Change) ([]registry.Outcome, int64, error) {
	writes, err := encodeAll(changes)
	if err != nil || len(writes) == 0 {
		return nil, 0, err
	}
	for range maxAttempts {
		old, err := s.read(ctx, writes)
		if err != nil {
			return nil, 0, fmt.Errorf("commit: %w", err)
		}
		outcomes := make([]registry.Outcome, len(writes))
		var same int64
		var conditions []clientv3.Cmp
		var then []clientv3.Op
		for i, w := range writes {
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(w.key), "=", modRevision(old[i])))
			switch outcomes[i] = s.outcome(w, old[i]); {
			case outcomes[i] == registry.Unchanged:
				same = max(same, old[i].ModRevision)
			case outcomes[i] == registry.Deleted:
				then = append(then, clientv3.OpDelete(w.key))
			case !w.deleted:
				then = append(then, clientv3.OpPut(w.key, w.value))
			}
		}
		if len(then) == 0 {
			return outcomes, same, nil
		}
		r, err := s.client.Txn(ctx).If(conditions...).Then(then...).Commit()
		if err != nil {
			return nil, 0, fmt.Errorf("commit: %w", err)
		}
		if r.Succeeded {
			return outcomes, s.wrote(r.Header.Revision), nil
		}
	}
	return nil, 0, fmt.Errorf("commit: %w", errConflict)
}

// Check returns why Commit would not take a change, or nil.
func (s *Store) Check(c registry.Change) error {
	_, err := encodeChange(c)
	return err
}

// PutPolicy commits one policy.
func (s *Store) PutPolicy(ctx context.Context, p registry.Policy) (int64, error) {
	_, rev, err := s.Commit(ctx, []registry.Change{{Policy: &p}})
	return rev, err
}

// DeletePolicy deletes one policy, or returns an error that wraps registry.ErrNotFound.
func (s *Store) DeletePolicy(ctx context.Context, id registry.PolicyID) (int64, error) {
	return s.deleteOne(ctx, id.String(), registry.Change{Policy: &registry.Policy{PolicyID: id}, Deleted: true})
}

// PutNamespace commits one namespace.
func (s *Store) PutNamespace(ctx context.Context, n registry.Namespace) (int64, error) {
	_, rev, err := s.Commit(ctx, []registry.Change{{Namespace: &n}})
	return rev, err
}

// DeleteNamespace deletes a namespace's labels, and nothing that lies in the namespace. It returns what
// DeletePolicy does.
func (s *Store) DeleteNamespace(ctx context.Context, name string) (int64, error) {
	return s.deleteOne(ctx, "namespace "+name, registry.Change{Namespace: &registry.Namespace{Name: name}, Deleted: true})
}

func (s *Store) deleteOne(ctx context.Context, what string, c registry.Change) (int64, error) {
	outcomes, rev, err := s.Commit(ctx, []registry.Change{c})
	if err == nil && outcomes[0] == registry.NotFound {
		err = fmt.Errorf("delete %s: %w", what, registry.ErrNotFound)
	}
	return rev, err
}

// outcome says what a write will do. A value that cannot be read counts as absent where it is replaced.
func (s *Store) outcome(w write, old *mvccpb.KeyValue) registry.Outcome {
	switch {
	case w.deleted && old == nil:
		return registry.NotFound
	case w.deleted:
		return registry.Deleted
	case old == nil:
		return registry.Created
	case string(old.Value) == w.value:
		return registry.Unchanged
	}
	if _, _, err := change(old.Key, append([]byte{}, old.Value...)); err != nil {
		s.log.Warn("registry value is not valid and is replaced", "key", w.key, "err", err)
		return registry.Created
	}
	return registry.Configured
}

// read returns what the keys hold now, nil where there is none.
func (s *Store) read(ctx context.Context, writes []write) ([]*mvccpb.KeyValue, error) {
	ops := make([]clientv3.Op, len(writes))
	for i, w := range writes {
		ops[i] = clientv3.OpGet(w.key)
	}
	r, err := s.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	list := make([]*mvccpb.KeyValue, len(writes))
	for i, one := range r.Responses {
		list[i] = first(one.GetResponseRange().GetKvs())
	}
	return list, nil
}

func encodeAll(changes []registry.Change) ([]write, error) {
	writes := make([]write, len(changes))
	seen := map[string]bool{}
	total := 0
	for i, c := range changes {
		w, err := encodeChange(c)
		if err != nil {
			return nil, err
		}
		if seen[w.key] {
			return nil, fmt.Errorf("%w: %s is given twice", registry.ErrInvalid, w.key)
		}
		seen[w.key] = true
		total += len(w.key) + len(w.value)
		writes[i] = w
	}
	if len(writes) > maxTogether || total > maxTogetherBytes {
		return nil, fmt.Errorf("%w: %d slices, policies and namespaces with %d bytes: at most %d with %d bytes can change at once, give them in several inputs",
			registry.ErrInvalid, len(writes), total, maxTogether, maxTogetherBytes)
	}
	return writes, nil
}

func encodeChange(c registry.Change) (w write, err error) {
	var what string
	var object any
	switch {
	case c.Policy != nil:
		what, object = c.Policy.PolicyID.String(), c.Policy
		w.key, err = policyKey(c.Policy.PolicyID)
	case c.Slice != nil:
		what, object = "slice "+c.Slice.Name.String(), c.Slice
		w.key, err = sliceKey(c.Slice.Name)
	case c.Namespace != nil:
		what, object = "namespace "+c.Namespace.Name, c.Namespace
		w.key, err = namespaceKey(c.Namespace.Name)
	default:
		return w, fmt.Errorf("%w: none of slice, policy and namespace", registry.ErrInvalid)
	}
	if w.deleted = c.Deleted; err == nil && !w.deleted {
		if w.value, err = encode(object); err == nil {
			_, _, err = change([]byte(w.key), []byte(w.value))
		}
	}
	if err != nil {
		return w, fmt.Errorf("%s: %w: %w", what, registry.ErrInvalid, err)
	}
	return w, nil
}
