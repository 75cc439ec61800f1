package etcd

import (
	"context"
	"fmt"

	"github.com/sluice-net/sluice/registry"
)

// PutPolicy writes a policy, unless it stands there already, and returns the revision from which on it
// is known. The error wraps registry.ErrInvalid for a policy that the store does not take.
func (s *Store) PutPolicy(ctx context.Context, p registry.Policy) (int64, error) {
	k, v, err := encodePolicy(p)
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", p.PolicyID, err)
	}
	rev, err := s.put(ctx, k, v)
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", p.PolicyID, err)
	}
	return rev, nil
}

// CheckPolicy says whether PutPolicy would take a policy now, without writing anything. It returns the
// policy as stored, if it is.
func (s *Store) CheckPolicy(ctx context.Context, p registry.Policy) (old registry.Policy, exists bool, err error) {
	k, _, err := encodePolicy(p)
	if err != nil {
		return old, false, fmt.Errorf("%s: %w", p.PolicyID, err)
	}
	if old, exists, err = stored(ctx, s, k, decodePolicy); err != nil {
		return old, false, fmt.Errorf("%s: %w", p.PolicyID, err)
	}
	return old, exists, nil
}

// DeletePolicy removes a policy. It returns the revision from which on the policy is gone, or an error
// that wraps registry.ErrNotFound.
func (s *Store) DeletePolicy(ctx context.Context, id registry.PolicyID) (int64, error) {
	k, err := policyKey(id)
	if err != nil {
		return 0, fmt.Errorf("delete %s: %w: %w", id, registry.ErrInvalid, err)
	}
	rev, err := s.remove(ctx, k)
	if err != nil {
		return 0, fmt.Errorf("delete %s: %w", id, err)
	}
	return rev, nil
}

// PutNamespace does for a namespace what PutPolicy does for a policy.
func (s *Store) PutNamespace(ctx context.Context, n registry.Namespace) (int64, error) {
	k, v, err := encodeNamespace(n)
	if err != nil {
		return 0, fmt.Errorf("put namespace %s: %w", n.Name, err)
	}
	rev, err := s.put(ctx, k, v)
	if err != nil {
		return 0, fmt.Errorf("put namespace %s: %w", n.Name, err)
	}
	return rev, nil
}

// CheckNamespace does for a namespace what CheckPolicy does for a policy.
func (s *Store) CheckNamespace(ctx context.Context, n registry.Namespace) (old registry.Namespace, exists bool, err error) {
	k, _, err := encodeNamespace(n)
	if err != nil {
		return old, false, fmt.Errorf("namespace %s: %w", n.Name, err)
	}
	if old, exists, err = stored(ctx, s, k, decodeNamespace); err != nil {
		return old, false, fmt.Errorf("namespace %s: %w", n.Name, err)
	}
	return old, exists, nil
}

// DeleteNamespace removes a namespace's labels, and nothing that lies in the namespace. It returns what
// DeletePolicy does.
func (s *Store) DeleteNamespace(ctx context.Context, name string) (int64, error) {
	k, err := namespaceKey(name)
	if err != nil {
		return 0, fmt.Errorf("delete namespace %s: %w: %w", name, registry.ErrInvalid, err)
	}
	rev, err := s.remove(ctx, k)
	if err != nil {
		return 0, fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return rev, nil
}

func encodePolicy(p registry.Policy) (k, v string, err error) {
	if k, err = policyKey(p.PolicyID); err == nil {
		v, err = encode(p)
	}
	if err == nil {
		_, err = decodePolicy([]byte(k), []byte(v))
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	return k, v, nil
}

func encodeNamespace(n registry.Namespace) (k, v string, err error) {
	if k, err = namespaceKey(n.Name); err == nil {
		v, err = encode(n)
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	return k, v, nil
}

// put writes a value that depends on nothing, unless it stands there already.
func (s *Store) put(ctx context.Context, k, v string) (int64, error) {
	old, err := s.get(ctx, k)
	if err != nil {
		return 0, err
	}
	if old != nil && string(old.Value) == v {
		return old.ModRevision, nil
	}
	r, err := s.client.Put(ctx, k, v)
	if err != nil {
		return 0, err
	}
	return s.wrote(r.Header.Revision), nil
}

// remove deletes a key, or returns registry.ErrNotFound.
func (s *Store) remove(ctx context.Context, k string) (int64, error) {
	r, err := s.client.Delete(ctx, k)
	switch {
	case err != nil:
		return 0, err
	case r.Deleted == 0:
		return 0, registry.ErrNotFound
	}
	return s.wrote(r.Header.Revision), nil
}

// stored reads one object; one that cannot be read counts as absent.
func stored[T any](ctx context.Context, s *Store, k string, decode func(k, v []byte) (T, error)) (o T, exists bool, err error) {
	kv, err := s.get(ctx, k)
	if err != nil || kv == nil {
		return o, false, err
	}
	if o, err = decode(kv.Key, kv.Value); err != nil {
		s.log.Warn("registry value is not valid and is replaced", "key", k, "err", err)
		var none T
		return none, false, nil
	}
	return o, true, nil
}
