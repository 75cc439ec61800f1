package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// servicesTogether is how many services one transaction writes at most. Each takes a few operations; larger ones
// gain nothing, and keep others waiting.
const servicesTogether = 512

// joined is one of several services that are written, or looked at, together.
type joined struct {
	claim     *claimer
	req       registry.ServiceRequest
	key       string
	kv        *mvccpb.KeyValue // as it was last read
	old, next registry.Service
	value     string // of next
	t         transaction
	err       error // why it cannot be
}

// PutServices writes services in the order given, as PutService does each, but many in one transaction: those that
// follow the store hear of them at once. It returns the services that were written, from the first on, and the
// revision from which on they are known. The error is about the one after them.
func (s *Store) PutServices(ctx context.Context, reqs []registry.ServiceRequest) (stored []registry.Service, revision int64, err error) {
	most, size := servicesTogether, servicesTogether
	for len(stored) < len(reqs) {
		rest := reqs[len(stored):]
		asked := min(len(rest), size)
		done, rev, err := s.putTogether(ctx, rest[:asked])
		if most > 1 && (errors.Is(err, rpctypes.ErrTooManyOps) || errors.Is(err, rpctypes.ErrRequestTooLarge)) {
			most /= 2 // the members of the cluster were started with limits of their own
			size = most
			continue
		}
		if err != nil {
			return stored, revision, fmt.Errorf("put services: %w", err)
		}
		// Where each shares something with the next, such as an address, to look at many of them each time is in vain.
		if size *= 2; len(done) < asked {
			size = max(2*len(done), 2)
		}
		size = min(size, most)
		if len(done) == 0 { // it cannot be, or others are in the way: by itself it is told why, or waited for
			var one registry.Service
			if one, rev, err = s.PutService(ctx, rest[0]); err != nil {
				return stored, revision, err
			}
			done = []registry.Service{one}
		}
		stored, revision = append(stored, done...), max(revision, rev)
	}
	return stored, revision, nil
}

// putTogether writes as many of the services as can be at once, from the first on, which may be none.
func (s *Store) putTogether(ctx context.Context, reqs []registry.ServiceRequest) ([]registry.Service, int64, error) {
	if len(reqs) < 2 {
		return nil, 0, nil
	}
	group, err := s.join(ctx, reqs)
	for range guesses { // after so many, those that choose an address read what is taken
		if err == nil {
			err = s.planTogether(ctx, group, true)
		}
		if err != nil {
			return nil, 0, err
		}
		if group = compatible(group); len(group) == 0 {
			return nil, 0, nil
		}
		rev, done, err := s.commitTogether(ctx, group)
		if err != nil {
			return nil, 0, err
		}
		if done {
			stored := make([]registry.Service, len(group))
			for i, j := range group {
				stored[i] = j.next
			}
			return stored, rev, nil
		}
	}
	return nil, 0, nil
}

// CheckServices says of each request why PutServices would not take it now, nil if it would, without writing
// anything. It also returns the services as they are stored, nil where there is none.
func (s *Store) CheckServices(ctx context.Context, reqs []registry.ServiceRequest) (old []*registry.Service, refused []error, err error) {
	group, err := s.join(ctx, reqs)
	if err == nil {
		err = s.planTogether(ctx, group, false)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("check services: %w", err)
	}
	old, refused = make([]*registry.Service, len(group)), make([]error, len(group))
	for i, j := range group {
		if j.kv != nil {
			old[i] = &j.old
		}
		if j.err != nil {
			refused[i] = fmt.Errorf("service %s: %w", j.req.Name, j.err)
		}
	}
	return old, refused, nil
}

// join reads what services there are now.
func (s *Store) join(ctx context.Context, reqs []registry.ServiceRequest) ([]*joined, error) {
	group, t := make([]*joined, len(reqs)), newTaken(len(reqs))
	var keys []string
	for i, req := range reqs {
		j := &joined{claim: newClaimer(s, req.Name, t), req: req}
		if j.key, j.err = serviceKey(req.Name); j.err != nil {
			j.err = fmt.Errorf("%w: %w", registry.ErrInvalid, j.err)
		} else {
			keys = append(keys, j.key)
		}
		group[i] = j
	}
	found, err := s.readAll(ctx, keys)
	for _, j := range group {
		j.kv = found[j.key]
	}
	return group, err
}

// readAll returns what keys hold, none where there is nothing.
func (s *Store) readAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	found := make(map[string]*mvccpb.KeyValue, len(keys))
	for some := range slices.Chunk(keys, readTogether) {
		ops := make([]clientv3.Op, len(some))
		for i, k := range some {
			ops[i] = clientv3.OpGet(k)
		}
		r, err := s.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil, err
		}
		for i, k := range some {
			if kv := first(r.Responses[i].GetResponseRange().GetKvs()); kv != nil {
				found[k] = kv
			}
		}
	}
	return found, nil
}

// readTogether is what every etcd lets one transaction read: it is the default of --max-txn-ops.
const readTogether = 128

// planTogether finds for each service what makes it of the one that is stored, or why that cannot be. With choose
// they get what they do not name.
func (s *Store) planTogether(ctx context.Context, group []*joined, choose bool) error {
	var unknown []string
	for _, j := range group {
		if j.key == "" {
			continue
		}
		j.old = s.existing(j.kv)
		if j.next, j.err = j.claim.next(ctx, j.req, &j.old, choose); j.err == nil {
			j.value, j.err = encodeService(j.key, &j.next)
		}
		if j.err == nil {
			unknown = append(unknown, j.claim.unknown(touched(&j.old, &j.next))...)
		}
	}
	slices.Sort(unknown)
	found, err := s.readAll(ctx, slices.Compact(unknown))
	if err != nil {
		return err
	}
	for _, j := range group {
		if j.err != nil {
			continue
		}
		for _, k := range j.claim.unknown(touched(&j.old, &j.next)) {
			j.claim.known[k] = found[k]
		}
		j.t, j.err = j.claim.transaction(ctx, &j.old, &j.next)
	}
	return nil
}

// compatible returns those of the services, from the first on, that can be, that have no key in common, and that
// are not too many for a transaction.
func compatible(group []*joined) []*joined {
	seen := map[string]bool{}
	ops, bytes := 0, 0
	for i, j := range group {
		keys := append([]string{j.key}, j.t.keys...)
		ops += len(keys)
		bytes += len(j.value)
		for _, k := range keys {
			bytes += 2 * len(k)
		}
		if j.err != nil || slices.ContainsFunc(keys, func(k string) bool { return seen[k] }) || ops > maxTogether || bytes > maxTogetherBytes {
			return group[:i]
		}
		for _, k := range keys {
			seen[k] = true
		}
	}
	return group
}

// commitTogether writes services. If something has come in between, done is false, and what there is now is known.
func (s *Store) commitTogether(ctx context.Context, group []*joined) (rev int64, done bool, err error) {
	var conditions []clientv3.Cmp
	var then, look []clientv3.Op
	for _, j := range group {
		if j.kv != nil && string(j.kv.Value) == j.value {
			rev = max(rev, j.kv.ModRevision)
			continue
		}
		conditions = append(append(conditions, j.t.conditions...), clientv3.Compare(clientv3.ModRevision(j.key), "=", modRevision(j.kv)))
		then = append(append(then, j.t.then...), clientv3.OpPut(j.key, j.value))
		look = append(look, clientv3.OpGet(j.key))
		for _, k := range j.t.keys {
			look = append(look, clientv3.OpGet(k))
		}
	}
	if len(then) == 0 {
		return rev, true, nil
	}
	r, err := s.client.Txn(ctx).If(conditions...).Then(then...).Else(look...).Commit()
	if err != nil {
		return 0, false, err
	}
	if r.Succeeded {
		return s.wrote(r.Header.Revision), true, nil
	}
	at := 0
	next := func() *mvccpb.KeyValue {
		at++
		return first(r.Responses[at-1].GetResponseRange().GetKvs())
	}
	for _, j := range group {
		if j.kv != nil && string(j.kv.Value) == j.value {
			continue
		}
		j.kv = next()
		for _, k := range j.t.keys {
			j.claim.known[k] = next()
		}
	}
	return 0, false, nil
}
