package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

var _ registry.Registrar = (*Store)(nil)

// registration writes one instance, over as many attempts as it takes.
type registration struct {
	store *Store
	next  registry.Instance // as it is asked for
	keys  instanceKeys

	// What the keys were last read to hold; nil: nothing.
	instance, lease, service *mvccpb.KeyValue

	granted clientv3.LeaseID // for this registration
	kept    bool             // the lease that the instance has goes on
	claimer *claimer
}

// Register implements registry.Registrar. An instance that is registered again keeps the operator's override, when
// it brings none itself, and the time at which it was first registered.
func (s *Store) Register(ctx context.Context, i registry.Instance) (registry.Instance, int64, error) {
	stored, rev, err := s.register(ctx, i)
	if err != nil {
		return registry.Instance{}, 0, fmt.Errorf("register %s: %w", i.InstanceID, err)
	}
	return stored, rev, nil
}

func (s *Store) register(ctx context.Context, i registry.Instance) (stored registry.Instance, rev int64, err error) {
	i = clean(i)
	keys, err := keysOf(i.InstanceID)
	if err != nil {
		return stored, 0, err
	}
	if _, err := encodeInstance(&i); err != nil {
		return stored, 0, err
	}
	r := &registration{store: s, next: i, keys: keys, claimer: newClaimer(s, i.ServiceName(), newTaken(1))}
	defer func() {
		if rev == 0 && r.granted != 0 {
			s.revoke(ctx, r.granted)
		}
	}()
	for range maxAttempts {
		if err := r.read(ctx); err != nil {
			return stored, 0, err
		}
		if stored, rev, err = r.attempt(ctx); rev != 0 || err != nil {
			return stored, rev, err
		}
	}
	return stored, 0, errConflict
}

// clean returns an instance of which nothing is the caller's, in the form in which instances are stored.
func clean(i registry.Instance) registry.Instance {
	i.Ports = append([]registry.EndpointPort(nil), i.Ports...)
	i.NamePorts()
	i.Registered, i.Updated = stamp(i.Registered), stamp(i.Updated)
	return i
}

// stamp drops what of a time is lost in storage: a monotonic reading, a time zone, what nobody measures.
func stamp(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Millisecond)
}

// read learns what is there.
func (r *registration) read(ctx context.Context) error {
	k, err := serviceKey(r.next.ServiceName())
	if err != nil {
		return fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	got, err := r.store.client.Txn(ctx).
		Then(clientv3.OpGet(r.keys.instance), clientv3.OpGet(r.keys.lease), clientv3.OpGet(k)).Commit()
	if err != nil {
		return err
	}
	for n, into := range []**mvccpb.KeyValue{&r.instance, &r.lease, &r.service} {
		*into = first(got.Responses[n].GetResponseRange().GetKvs())
	}
	return nil
}

// attempt writes the instance as of what was read. A revision of 0 means that something has come in between.
func (r *registration) attempt(ctx context.Context) (registry.Instance, int64, error) {
	if err := mayAlter(ctx, r.instance); err != nil {
		return r.next, 0, err
	}
	next := r.merged()
	if s := r.store; r.instance == nil && s.instances.len() >= s.most {
		return next, 0, fmt.Errorf("%w: the registry has %d instances, and takes no more: deregister some", registry.ErrFull, s.most)
	}
	v, err := encodeInstance(&next)
	if err != nil {
		return next, 0, err
	}
	var t transaction
	if r.instance == nil || string(r.instance.Value) != v {
		t.then = append(t.then, clientv3.OpPut(r.keys.instance, v))
	}
	if err := r.prepareLease(ctx, &t); err != nil {
		return next, 0, err
	}
	if len(next.Checks) == 0 && len(t.then) > 0 {
		t.then = append(t.then, clientv3.OpDelete(r.keys.health))
	}
	t.conditions = append(t.conditions,
		clientv3.Compare(clientv3.ModRevision(r.keys.instance), "=", modRevision(r.instance)),
		clientv3.Compare(clientv3.ModRevision(r.keys.lease), "=", modRevision(r.lease)))
	rev, err := r.commit(ctx, &next, t)
	if rev != 0 && r.lease != nil && !r.kept {
		r.store.revoke(ctx, clientv3.LeaseID(r.lease.Lease))
	}
	return next, rev, err
}

// merged is the instance as it is to be stored. Of one that is there already and does not differ, nothing changes.
func (r *registration) merged() registry.Instance {
	next, now := r.next, stamp(time.Now())
	next.Updated = now
	if next.Registered.IsZero() {
		next.Registered = now
	}
	if r.instance == nil {
		return next
	}
	old, err := decodeInstance(r.instance.Key, r.instance.Value)
	if err != nil {
		r.store.log.Warn("registry value is not valid and is replaced", "key", r.keys.instance, "err", err)
		return next
	}
	if next.Override == "" {
		next.Override = old.Override
	}
	if r.next.Registered.IsZero() {
		next.Registered = old.Registered
	}
	next.Updated = old.Updated
	if v, err := encode(next); err != nil || v != string(r.instance.Value) {
		next.Updated = now
	}
	return next
}

// prepareLease makes sure of a lease that lives, and says in t how its key is to change.
func (r *registration) prepareLease(ctx context.Context, t *transaction) error {
	r.kept = false
	if r.next.Lease == 0 {
		if r.lease != nil {
			t.then = append(t.then, clientv3.OpDelete(r.keys.lease))
		}
		return nil
	}
	if r.granted == 0 && r.lease != nil && r.lease.Lease != 0 {
		ttl, err := r.store.keepAlive(ctx, clientv3.LeaseID(r.lease.Lease))
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
		if r.kept = err == nil && ttl == int64(r.next.Lease); r.kept {
			return nil
		}
	}
	if r.granted == 0 {
		var err error
		if r.granted, err = r.store.grant(ctx, r.next.Lease); err != nil {
			return err
		}
	}
	t.then = append(t.then, clientv3.OpPut(r.keys.lease, leaseValue, clientv3.WithLease(r.granted)))
	return nil
}

// commit does the transaction, and makes in it the service of the instance's name if there is none.
func (r *registration) commit(ctx context.Context, i *registry.Instance, t transaction) (int64, error) {
	s := r.store
	k, err := serviceKey(i.ServiceName())
	if err != nil {
		return 0, err
	}
	if r.service != nil {
		if len(t.then) == 0 {
			return r.instance.ModRevision, nil
		}
		done, err := s.client.Txn(ctx).
			If(append(t.conditions, clientv3.Compare(clientv3.CreateRevision(k), "=", r.service.CreateRevision))...).
			Then(t.then...).Commit()
		if err != nil || !done.Succeeded {
			return 0, err
		}
		return s.wrote(done.Header.Revision), nil
	}
	var none registry.Service
	svc, err := r.claimer.next(ctx, i.NewService(), &none, true)
	if err != nil {
		return 0, fmt.Errorf("make service %s: %w", i.ServiceName(), err)
	}
	v, err := encode(svc)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	claims, err := r.claimer.transaction(ctx, &none, &svc)
	if err != nil {
		return 0, fmt.Errorf("make service %s: %w", i.ServiceName(), err)
	}
	claims.conditions = append(claims.conditions, t.conditions...)
	claims.then = append(claims.then, t.then...)
	rev, _, err := r.claimer.commit(ctx, k, nil, clientv3.OpPut(k, v), claims)
	return rev, err
}

// Update implements registry.Registrar. An edit that changes the identity or the duration of the lease is refused.
func (s *Store) Update(ctx context.Context, id registry.InstanceID, edit func(*registry.Instance) error) (registry.Instance, int64, error) {
	i, rev, err := s.update(ctx, id, edit)
	if err != nil {
		return registry.Instance{}, 0, fmt.Errorf("update %s: %w", id, err)
	}
	return i, rev, nil
}

func (s *Store) update(ctx context.Context, id registry.InstanceID, edit func(*registry.Instance) error) (next registry.Instance, rev int64, err error) {
	keys, err := keysOf(id)
	if err != nil {
		return next, 0, err
	}
	kv, err := s.get(ctx, keys.instance)
	for range maxAttempts {
		if err != nil {
			return next, 0, err
		}
		if kv == nil {
			return next, 0, registry.ErrNotFound
		}
		if next, err = s.edited(kv, edit); err != nil {
			return next, 0, err
		}
		v, err := encodeInstance(&next)
		if err != nil {
			return next, 0, err
		}
		if v == string(kv.Value) {
			return next, kv.ModRevision, nil
		}
		then := []clientv3.Op{clientv3.OpPut(keys.instance, v)}
		if len(next.Checks) == 0 {
			then = append(then, clientv3.OpDelete(keys.health))
		}
		done, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(keys.instance), "=", kv.ModRevision)).
			Then(then...).Else(clientv3.OpGet(keys.instance)).Commit()
		if err != nil {
			return next, 0, err
		}
		if done.Succeeded {
			return next, s.wrote(done.Header.Revision), nil
		}
		kv = first(done.Responses[0].GetResponseRange().GetKvs())
	}
	return next, 0, errConflict
}

// edited returns a stored instance as edit leaves it.
func (s *Store) edited(kv *mvccpb.KeyValue, edit func(*registry.Instance) error) (registry.Instance, error) {
	old, err := decodeInstance(kv.Key, kv.Value)
	if err != nil {
		return old, fmt.Errorf("%w: what is stored cannot be read: register the instance again: %w", registry.ErrInvalid, err)
	}
	next, err := decodeInstance(kv.Key, kv.Value) // of which edit may change all that it refers to
	if err == nil {
		err = edit(&next)
	}
	if err != nil {
		return next, err
	}
	switch {
	case next.InstanceID != old.InstanceID:
		return next, fmt.Errorf("%w: id: cannot be changed to %s", registry.ErrInvalid, next.InstanceID)
	case next.Lease != old.Lease:
		return next, fmt.Errorf("%w: lease: register the instance again to change it from %d to %d seconds", registry.ErrInvalid, old.Lease, next.Lease)
	}
	next = clean(next)
	next.Updated = old.Updated
	if v, err := encode(next); err != nil || v != string(kv.Value) {
		next.Updated = stamp(time.Now())
	}
	return next, nil
}

// mayAlter asks whoever is to be asked about a stored instance, if there is one. What cannot be read is nobody's.
func mayAlter(ctx context.Context, stored *mvccpb.KeyValue) error {
	may, asks := registry.MayAlter(ctx)
	if !asks || stored == nil {
		return nil
	}
	old, err := decodeInstance(stored.Key, stored.Value)
	if err != nil {
		old = registry.Instance{}
	}
	return may(&old)
}

// Deregister implements registry.Registrar. The service stays.
func (s *Store) Deregister(ctx context.Context, id registry.InstanceID) (int64, error) {
	rev, err := s.deregister(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("deregister %s: %w", id, err)
	}
	return rev, nil
}

func (s *Store) deregister(ctx context.Context, id registry.InstanceID) (int64, error) {
	keys, err := keysOf(id)
	if err != nil {
		return 0, err
	}
	there := clientv3.Compare(clientv3.CreateRevision(keys.instance), ">", 0)
	if _, asks := registry.MayAlter(ctx); asks {
		got, err := s.client.Get(ctx, keys.instance)
		if err != nil {
			return 0, err
		}
		kv := first(got.Kvs)
		if kv == nil {
			return 0, registry.ErrNotFound
		}
		if err := mayAlter(ctx, kv); err != nil {
			return 0, err
		}
		there = clientv3.Compare(clientv3.ModRevision(keys.instance), "=", kv.ModRevision)
	}
	done, err := s.client.Txn(ctx).If(there).
		Then(clientv3.OpDelete(keys.instance), clientv3.OpDelete(keys.lease, clientv3.WithPrevKV()), clientv3.OpDelete(keys.health)).
		Else(clientv3.OpGet(keys.instance, clientv3.WithCountOnly())).
		Commit()
	switch {
	case err != nil:
		return 0, err
	case !done.Succeeded && done.Responses[0].GetResponseRange().GetCount() > 0:
		return 0, errConflict
	case !done.Succeeded:
		return 0, registry.ErrNotFound
	}
	for _, kv := range done.Responses[1].GetResponseDeleteRange().GetPrevKvs() {
		s.revoke(ctx, clientv3.LeaseID(kv.Lease))
	}
	return s.wrote(done.Header.Revision), nil
}

// SetHealth says that an instance's checks fail, or with nil that it is well. It returns the revision from which
// on that is known, or an error that wraps registry.ErrNotFound if there is no such instance.
func (s *Store) SetHealth(ctx context.Context, id registry.InstanceID, h *registry.InstanceHealth) (int64, error) {
	rev, err := s.setHealth(ctx, id, h)
	if err != nil {
		return 0, fmt.Errorf("set health of %s: %w", id, err)
	}
	return rev, nil
}

func (s *Store) setHealth(ctx context.Context, id registry.InstanceID, h *registry.InstanceHealth) (int64, error) {
	keys, err := keysOf(id)
	if err != nil {
		return 0, err
	}
	op := clientv3.OpDelete(keys.health)
	if h != nil {
		record := *h
		record.InstanceID, record.Since, record.Reason = id, stamp(h.Since), brief(h.Reason)
		v, err := encode(record)
		if err == nil {
			_, err = decodeHealth([]byte(keys.health), []byte(v))
		}
		if err != nil {
			return 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
		}
		op = clientv3.OpPut(keys.health, v)
	}
	done, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(keys.instance), ">", 0)).Then(op).Commit()
	switch {
	case err != nil:
		return 0, err
	case !done.Succeeded:
		return 0, registry.ErrNotFound
	case h == nil && done.Responses[0].GetResponseDeleteRange().GetDeleted() == 0:
		return s.written.Load(), nil
	}
	return s.wrote(done.Header.Revision), nil
}

// brief cuts a reason to what is stored, at the end of a letter.
func brief(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	for len(text) > maxHealth {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return text
}
