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

// PutService writes a service and gives it the VIPs and node ports that it lacks, all in one transaction. It keeps
// those that it has, unless the request names others. Services may share an address that they name, as long as each
// has its own ports of it. It returns the service as stored and the revision from which on it is known. Errors wrap
// registry.ErrVIP…, ErrNodePort…, ErrFamily or ErrInvalid when the request cannot be met, and often a FieldError.
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
	c := newClaimer(s, req.Name, newTaken(1))
	for range maxAttempts {
		old := s.existing(kv)
		next, err := c.next(ctx, req, &old, true)
		if err != nil {
			return registry.Service{}, 0, err
		}
		v, err := encodeService(k, &next)
		if err != nil {
			return registry.Service{}, 0, err
		}
		if kv != nil && string(kv.Value) == v {
			return next, kv.ModRevision, nil
		}
		t, err := c.transaction(ctx, &old, &next)
		if err != nil {
			return registry.Service{}, 0, err
		}
		var rev int64
		if rev, kv, err = c.commit(ctx, k, kv, clientv3.OpPut(k, v), t); err != nil {
			return registry.Service{}, 0, err
		}
		if rev != 0 {
			return next, rev, nil
		}
	}
	return registry.Service{}, 0, errConflict
}

// encodeService returns a service's value, which can be read again.
func encodeService(k string, svc *registry.Service) (string, error) {
	v, err := encode(svc)
	if err == nil {
		_, err = decodeService([]byte(k), []byte(v))
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	return v, nil
}

// next returns the service that a request makes of an old one. With choose it has all of its VIPs and node ports, or
// else those only that it names or has already.
func (c *claimer) next(ctx context.Context, req registry.ServiceRequest, old *registry.Service, choose bool) (registry.Service, error) {
	next := req.Service
	if err := c.store.reals.wait(ctx, c.store.wroteReal.Load()); err != nil {
		return next, err
	}
	if err := c.store.checkReal(&req, old); err != nil {
		return next, err
	}
	plan, err := c.store.plan(req, *old)
	if err != nil {
		return next, err
	}
	if !choose {
		plan = slices.DeleteFunc(plan, func(w wanted) bool { return !w.addr.IsValid() })
	}
	if next.VIPs, err = c.fill(ctx, plan, externals(&next)); err != nil {
		return next, err
	}
	if !next.Headless { // its VIPs say which
		next.Families = nil
	}
	for _, a := range next.VIPs {
		if slices.Contains(externals(&next), a) {
			return next, fmt.Errorf("%w: %s is the service's VIP and an external address of it", registry.ErrInvalid, a)
		}
	}
	next.Ports, err = c.nodePorts(ctx, &req, old, choose)
	return next, err
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

// DeleteService removes a service, releases its VIPs and node ports, and takes along those of the slices that it
// owns, all in one transaction; a slice that is not its own any more stays. It returns the revision from which on the
// service is gone, or an error that wraps registry.ErrNotFound.
func (s *Store) DeleteService(ctx context.Context, n registry.Name, slices ...registry.Name) (int64, error) {
	rev, err := s.deleteService(ctx, n, slices)
	if err != nil {
		return 0, fmt.Errorf("delete service %s: %w", n, err)
	}
	return rev, nil
}

func (s *Store) deleteService(ctx context.Context, n registry.Name, slices []registry.Name) (int64, error) {
	k, err := serviceKey(n)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	kv, err := s.get(ctx, k)
	if err != nil {
		return 0, err
	}
	c := newClaimer(s, n, newTaken(1))
	for range maxAttempts {
		if kv == nil {
			return 0, registry.ErrNotFound
		}
		old := s.existing(kv)
		t, err := c.transaction(ctx, &old, &registry.Service{})
		if err == nil {
			err = c.takeAlong(ctx, slices, &t)
		}
		if err != nil {
			return 0, err
		}
		var rev int64
		if rev, kv, err = c.commit(ctx, k, kv, clientv3.OpDelete(k), t); rev != 0 || err != nil {
			return rev, err
		}
	}
	return 0, errConflict
}

// maxOwned is how many slices go with a service: what the transaction has besides them are its addresses and ports.
const maxOwned = maxTogether - registry.MaxServicePorts - registry.MaxExternal - registry.MaxVIPs - 1

// takeAlong adds to a transaction that those of the slices which are the service's own go, too.
func (c *claimer) takeAlong(ctx context.Context, slices []registry.Name, t *transaction) error {
	if len(slices) > maxOwned {
		return fmt.Errorf("%w: %d slices would go with it, more than the %d that can at once: delete some before", registry.ErrInvalid, len(slices), maxOwned)
	}
	keys := make([]string, len(slices))
	for i, n := range slices {
		var err error
		if keys[i], err = sliceKey(n); err != nil {
			return fmt.Errorf("%w: slice %s: %w", registry.ErrInvalid, n, err)
		}
	}
	if err := c.read(ctx, keys); err != nil {
		return err
	}
	for _, k := range keys {
		kv := c.known[k]
		if kv == nil {
			continue
		}
		slice, err := decodeSlice(kv.Key, kv.Value)
		if err != nil || !slice.Owned || slice.Owner() != c.owner {
			continue
		}
		t.keys = append(t.keys, k)
		t.conditions = append(t.conditions, clientv3.Compare(clientv3.ModRevision(k), "=", kv.ModRevision))
		t.then = append(t.then, clientv3.OpDelete(k))
	}
	return nil
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
