package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// PutService writes a service and gives it the VIPs that it lacks, all in one transaction. It
// returns the service as stored and the revision from which on it is known. Errors wrap
// registry.ErrVIP…, ErrFamily or ErrInvalid when the request cannot be met.
func (s *Store) PutService(ctx context.Context, req registry.ServiceRequest) (registry.Service, int64, error) {
	stored, rev, err := s.putService(ctx, req)
	if err != nil {
		return registry.Service{}, 0, fmt.Errorf("put service %s: %w", req.Name, err)
	}
	return stored, rev, nil
}

func (s *Store) putService(ctx context.Context, req registry.ServiceRequest) (registry.Service, int64, error) {
	k, err := serviceKey(req.Name)
	if err != nil {
		return registry.Service{}, 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	kv, err := s.get(ctx, k)
	if err != nil {
		return registry.Service{}, 0, err
	}
	pick := picker{store: s, owner: req.Name, held: map[netip.Addr]int64{}}
	for range maxAttempts {
		old := s.existing(kv)
		plan, err := s.plan(req, old)
		if err != nil {
			return registry.Service{}, 0, err
		}
		next := req.Service
		if next.VIPs, err = pick.fill(ctx, plan); err != nil {
			return registry.Service{}, 0, err
		}
		v, err := encode(next)
		if err != nil {
			return registry.Service{}, 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
		}
		if _, err := decodeService([]byte(k), []byte(v)); err != nil {
			return registry.Service{}, 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
		}
		if kv != nil && string(kv.Value) == v {
			return next, kv.ModRevision, nil
		}
		var rev int64
		if rev, kv, err = s.commitService(ctx, k, v, kv, old.VIPs, next.VIPs, &pick); err != nil {
			return registry.Service{}, 0, err
		}
		if rev != 0 {
			return next, rev, nil
		}
	}
	return registry.Service{}, 0, errConflict
}

// CheckService says whether PutService would take a request now, without writing anything. It
// returns the service as stored, if it is.
func (s *Store) CheckService(ctx context.Context, req registry.ServiceRequest) (old registry.Service, exists bool, err error) {
	k, err := serviceKey(req.Name)
	if err != nil {
		return old, false, fmt.Errorf("service %s: %w: %w", req.Name, registry.ErrInvalid, err)
	}
	kv, err := s.get(ctx, k)
	if err != nil {
		return old, false, fmt.Errorf("service %s: %w", req.Name, err)
	}
	old = s.existing(kv)
	plan, err := s.plan(req, old)
	if err != nil {
		return old, kv != nil, fmt.Errorf("service %s: %w", req.Name, err)
	}
	pick := picker{store: s, owner: req.Name, held: map[netip.Addr]int64{}, wanted: plan}
	for _, a := range req.VIPs {
		vip, err := s.get(ctx, vipKey(a))
		if err == nil && vip != nil && !slices.Contains(old.VIPs, a) {
			err = pick.taken(vip)
		}
		if err != nil {
			return old, kv != nil, fmt.Errorf("service %s: %w", req.Name, err)
		}
	}
	return old, kv != nil, nil
}

// existing reads the stored service; one that cannot be read counts as absent.
func (s *Store) existing(kv *mvccpb.KeyValue) registry.Service {
	if kv == nil {
		return registry.Service{}
	}
	old, err := decodeService(kv.Key, kv.Value)
	if err != nil {
		s.log.Warn("registry value is not valid and is replaced", "key", string(kv.Key), "err", err)
		return registry.Service{}
	}
	return old
}

// commitService writes the service, takes its new VIPs and releases those it no longer has. A
// revision of 0 means that something has come in between: the service as it is now is returned, and
// pick knows the addresses that are taken.
func (s *Store) commitService(ctx context.Context, k, v string, kv *mvccpb.KeyValue, before, after []netip.Addr, pick *picker) (int64, *mvccpb.KeyValue, error) {
	owner, err := encode(pick.owner)
	if err != nil {
		return 0, nil, err
	}
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(k), "=", modRevision(kv))}
	then := []clientv3.Op{clientv3.OpPut(k, v)}
	look := []clientv3.Op{clientv3.OpGet(k)}
	for _, a := range after {
		if slices.Contains(before, a) {
			continue
		}
		vk := vipKey(a)
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(vk), "=", pick.held[a]))
		then = append(then, clientv3.OpPut(vk, owner))
		look = append(look, clientv3.OpGet(vk))
	}
	for _, a := range before {
		if !slices.Contains(after, a) {
			then = append(then, clientv3.OpDelete(vipKey(a)))
		}
	}
	r, err := s.client.Txn(ctx).If(conditions...).Then(then...).Else(look...).Commit()
	if err != nil {
		return 0, nil, err
	}
	if r.Succeeded {
		return s.wrote(r.Header.Revision), nil, nil
	}
	for _, response := range r.Responses[1:] {
		if vip := first(response.GetResponseRange().GetKvs()); vip != nil {
			if err := pick.taken(vip); err != nil {
				return 0, nil, err
			}
		}
	}
	return 0, first(r.Responses[0].GetResponseRange().GetKvs()), nil
}

// DeleteService removes a service and releases its VIPs. It returns the revision from which on the
// service is gone, or an error that wraps registry.ErrNotFound.
func (s *Store) DeleteService(ctx context.Context, n registry.Name) (int64, error) {
	k, err := serviceKey(n)
	if err != nil {
		return 0, fmt.Errorf("delete service %s: %w: %w", n, registry.ErrInvalid, err)
	}
	kv, err := s.get(ctx, k)
	for range maxAttempts {
		if err != nil {
			return 0, fmt.Errorf("delete service %s: %w", n, err)
		}
		if kv == nil {
			return 0, fmt.Errorf("delete service %s: %w", n, registry.ErrNotFound)
		}
		ops := []clientv3.Op{clientv3.OpDelete(k)}
		for _, a := range s.existing(kv).VIPs {
			ops = append(ops, clientv3.OpDelete(vipKey(a)))
		}
		r, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(k), "=", kv.ModRevision)).
			Then(ops...).Else(clientv3.OpGet(k)).Commit()
		if err != nil {
			return 0, fmt.Errorf("delete service %s: %w", n, err)
		}
		if r.Succeeded {
			return s.wrote(r.Header.Revision), nil
		}
		kv = first(r.Responses[0].GetResponseRange().GetKvs())
	}
	return 0, fmt.Errorf("delete service %s: %w", n, errConflict)
}

// Pools returns how full each range of VIPs is.
func (s *Store) Pools(ctx context.Context) ([]PoolUse, error) {
	taken, err := s.taken(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]PoolUse, len(s.ranges))
	for i, r := range s.ranges {
		list[i] = PoolUse{CIDR: r.prefix, Size: r.size}
		for a := range taken {
			if r.contains(a) {
				list[i].Used++
			}
		}
	}
	return list, nil
}

// taken reads which addresses have an owner.
func (s *Store) taken(ctx context.Context) (map[netip.Addr]struct{}, error) {
	r, err := s.client.Get(ctx, vipPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("list VIPs: %w", err)
	}
	set := make(map[netip.Addr]struct{}, len(r.Kvs))
	for _, kv := range r.Kvs {
		if a, err := netip.ParseAddr(string(kv.Key[len(vipPrefix):])); err == nil {
			set[a] = struct{}{}
		}
	}
	return set, nil
}
