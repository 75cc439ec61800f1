package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// guesses is how often an address or a node port is guessed before the taken ones are read. At half of a range
// taken, all of them fail once in 256 times.
const guesses = 8

// fill returns the planned VIPs, choosing those that are left open. avoid are other addresses of the service.
func (c *claimer) fill(ctx context.Context, plan []wanted, avoid []netip.Addr) ([]netip.Addr, error) {
	var list []netip.Addr
	for _, w := range plan {
		a := w.addr
		if !a.IsValid() {
			var err error
			if a, err = c.chooseVIP(ctx, w.family, avoid); err != nil {
				return nil, err
			}
		}
		list = append(list, a)
	}
	return list, nil
}

func (c *claimer) chooseVIP(ctx context.Context, f registry.Family, avoid []netip.Addr) (netip.Addr, error) {
	for {
		a, chosen := c.vips[f]
		if !chosen {
			var err error
			if a, err = c.freeVIP(ctx, f); err != nil {
				return a, err
			}
		}
		if c.free(a) && !slices.Contains(avoid, a) {
			c.vips[f], c.guessed[vipKey(a)] = a, true
			return a, nil
		}
		delete(c.vips, f)
		c.refusedVIPs++
		if c.takenVIPs != nil {
			c.takenVIPs[a] = struct{}{}
		}
	}
}

// free reports whether, for all that is known, nobody has an address.
func (c *claimer) free(a netip.Addr) bool {
	return !c.foreign(vipKey(a)) && c.store.real(a) == ""
}

// freeVIP returns an address that is likely to be free.
func (c *claimer) freeVIP(ctx context.Context, f registry.Family) (netip.Addr, error) {
	if c.refusedVIPs >= guesses && c.takenVIPs == nil {
		var err error
		if c.takenVIPs, err = c.store.taken(ctx); err != nil {
			return netip.Addr{}, err
		}
	}
	for _, r := range c.store.ranges {
		if r.family() != f {
			continue
		}
		if c.takenVIPs == nil {
			return r.random(), nil
		}
		if a, ok := r.firstFree(c.takenVIPs); ok {
			return a, nil
		}
	}
	return netip.Addr{}, &registry.FieldError{Field: "spec.clusterIP", Err: fmt.Errorf(
		"%w: %s ranges of %s are full; delete a service or configure another range in services.cidrs",
		registry.ErrVIPsExhausted, f, c.store.describeRanges())}
}
