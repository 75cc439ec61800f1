package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/sluice-net/sluice/registry"
)

// randomTries is how often a VIP is guessed before the taken ones are read. At half of a range
// taken, all of them fail once in 256 times.
const randomTries = 8

// picker chooses VIPs for one service, over as many attempts as it takes.
type picker struct {
	store   *Store
	owner   registry.Name
	wanted  []wanted
	picked  map[registry.Family]netip.Addr
	refused int                     // picks that turned out to be taken
	all     map[netip.Addr]struct{} // taken addresses; read when guessing fails
	held    map[netip.Addr]int64    // VIPs that are this service's already: revision of their key
}

// fill returns the planned VIPs, choosing those that are left open.
func (p *picker) fill(ctx context.Context, plan []wanted) ([]netip.Addr, error) {
	p.wanted = plan
	var list []netip.Addr
	for _, w := range plan {
		a := w.addr
		if !a.IsValid() {
			var err error
			if a, err = p.choose(ctx, w.family); err != nil {
				return nil, err
			}
		}
		list = append(list, a)
	}
	return list, nil
}

func (p *picker) choose(ctx context.Context, f registry.Family) (netip.Addr, error) {
	if a, ok := p.picked[f]; ok {
		return a, nil
	}
	if p.picked == nil {
		p.picked = map[registry.Family]netip.Addr{}
	}
	if p.refused >= randomTries && p.all == nil {
		var err error
		if p.all, err = p.store.taken(ctx); err != nil {
			return netip.Addr{}, err
		}
	}
	for _, r := range p.store.ranges {
		if r.family() != f {
			continue
		}
		if p.all == nil {
			p.picked[f] = r.random()
			return p.picked[f], nil
		}
		if a, ok := r.firstFree(p.all); ok {
			p.picked[f] = a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: %s ranges of %s are full; delete a service or configure another range in services.cidrs",
		registry.ErrVIPsExhausted, f, p.store.describeRanges())
}

// taken learns that an address has an owner. It is an error when the user insists on it.
func (p *picker) taken(vip *mvccpb.KeyValue) error {
	a, err := netip.ParseAddr(string(vip.Key[len(vipPrefix):]))
	if err != nil {
		return fmt.Errorf("key %s: %w", vip.Key, err)
	}
	var owner registry.Name
	if err := json.Unmarshal(vip.Value, &owner); err == nil && owner == p.owner {
		p.held[a] = vip.ModRevision
		return nil
	}
	delete(p.held, a)
	if slices.ContainsFunc(p.wanted, func(w wanted) bool { return w.addr == a }) {
		return fmt.Errorf("%w: %s belongs to service %s", registry.ErrVIPTaken, a, owner)
	}
	p.refused++
	delete(p.picked, registry.FamilyOf(a))
	if p.all != nil {
		p.all[a] = struct{}{}
	}
	return nil
}
