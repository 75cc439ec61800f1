package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// claimer writes one service together with what it has of addresses and node ports, over as many attempts as it
// takes.
type claimer struct {
	store *Store
	owner registry.Name
	// known holds what keys were last read to hold; nil: nothing. Of a key that was guessed it is assumed to be
	// nothing until a transaction finds otherwise.
	known   map[string]*mvccpb.KeyValue
	guessed map[string]bool
	// vips and ports are what was chosen so far where the user insists on nothing.
	vips  map[registry.Family]netip.Addr
	ports map[portID]uint16
	taken *taken // shared with those that write other services together with this one
}

func newClaimer(s *Store, owner registry.Name, t *taken) *claimer {
	return &claimer{
		store: s, owner: owner, known: map[string]*mvccpb.KeyValue{}, guessed: map[string]bool{},
		vips: map[registry.Family]netip.Addr{}, ports: map[portID]uint16{}, taken: t,
	}
}

// errHolders is a value that does not say who has an address or a node port.
var errHolders = errors.New("registry value is not valid: delete it to free what it is about")

// transaction is what makes a service of an old one.
type transaction struct {
	conditions []clientv3.Cmp
	then       []clientv3.Op
	keys       []string // that the conditions are about, beside the service's own
}

// transaction takes what next has and old has not, and gives up the opposite. It is an error if others have what
// next asks for.
func (c *claimer) transaction(ctx context.Context, old, next *registry.Service) (transaction, error) {
	after := footprint(next)
	t := transaction{keys: touched(old, next)}
	if err := c.read(ctx, t.keys); err != nil {
		return t, err
	}
	for _, k := range t.keys {
		h, wants := after[k]
		others, err := c.others(ctx, k)
		if err != nil && (wants || !errors.Is(err, errHolders)) {
			return t, err
		}
		if wants {
			if port, err := conflict(k, h, others); err != nil {
				return t, &registry.FieldError{Field: fieldOf(next, old, k, port), Err: err}
			}
			others = append(others, h)
		}
		t.conditions = append(t.conditions, clientv3.Compare(clientv3.ModRevision(k), "=", modRevision(c.known[k])))
		switch {
		case len(others) > 0:
			v, err := encode(holders{Holders: others})
			if err != nil {
				return t, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
			}
			t.then = append(t.then, clientv3.OpPut(k, v))
		case c.known[k] != nil:
			t.then = append(t.then, clientv3.OpDelete(k))
		}
	}
	return t, nil
}

// touched returns the keys of what next has and old has not, of what it has otherwise, and of what it gives up.
func touched(old, next *registry.Service) (keys []string) {
	before, after := footprint(old), footprint(next)
	for k, h := range before {
		if now, keeps := after[k]; !keeps || !h.equal(now) {
			keys = append(keys, k)
		}
	}
	for k := range after {
		if _, had := before[k]; !had {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// unknown returns those keys of which is neither known nor assumed what they hold.
func (c *claimer) unknown(keys []string) (list []string) {
	for _, k := range keys {
		if _, known := c.known[k]; !known && !c.guessed[k] {
			list = append(list, k)
		}
	}
	return list
}

// read learns what keys hold that nothing is known of.
func (c *claimer) read(ctx context.Context, keys []string) error {
	unknown := c.unknown(keys)
	if len(unknown) == 0 {
		return nil
	}
	ops := make([]clientv3.Op, len(unknown))
	for i, k := range unknown {
		ops[i] = clientv3.OpGet(k)
	}
	r, err := c.store.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return err
	}
	for i, k := range unknown {
		c.known[k] = first(r.Responses[i].GetResponseRange().GetKvs())
	}
	return nil
}

// others returns who else has something of a key.
func (c *claimer) others(ctx context.Context, k string) ([]holding, error) {
	kv := c.known[k]
	if kv == nil {
		return nil, nil
	}
	list, old, err := parseHolders(kv.Value)
	if err != nil {
		return nil, fmt.Errorf("%w: key %s: %w", errHolders, k, err)
	}
	list = slices.DeleteFunc(list, func(h holding) bool { return h.Name == c.owner })
	if !old || len(list) == 0 {
		return list, nil
	}
	// The ports are the service's. Should they change, it writes this key, and the transaction sees that.
	sk, err := serviceKey(list[0].Name)
	if err != nil {
		return list, nil
	}
	svc, err := c.store.get(ctx, sk)
	if err != nil {
		return nil, err
	}
	other := c.store.existing(svc)
	if h, has := footprint(&other)[k]; has {
		list[0] = h
	}
	return list, nil
}

// commit does a transaction together with op, which writes the service's own key. A revision of 0 means that
// something has come in between: what the service's key holds now is returned, and the rest is known.
func (c *claimer) commit(ctx context.Context, k string, kv *mvccpb.KeyValue, op clientv3.Op, t transaction) (int64, *mvccpb.KeyValue, error) {
	look := []clientv3.Op{clientv3.OpGet(k)}
	for _, key := range t.keys {
		look = append(look, clientv3.OpGet(key))
	}
	r, err := c.store.client.Txn(ctx).
		If(append(t.conditions, clientv3.Compare(clientv3.ModRevision(k), "=", modRevision(kv)))...).
		Then(append(t.then, op)...).Else(look...).Commit()
	if err != nil {
		return 0, nil, err
	}
	if r.Succeeded {
		return c.store.wrote(r.Header.Revision), nil, nil
	}
	for i, key := range t.keys {
		c.known[key] = first(r.Responses[i+1].GetResponseRange().GetKvs())
	}
	return 0, first(r.Responses[0].GetResponseRange().GetKvs()), nil
}

// foreign reports whether another service is known to have something of a key.
func (c *claimer) foreign(k string) bool {
	kv := c.known[k]
	if kv == nil {
		return false
	}
	list, _, err := parseHolders(kv.Value)
	return err != nil || slices.ContainsFunc(list, func(h holding) bool { return h.Name != c.owner })
}
