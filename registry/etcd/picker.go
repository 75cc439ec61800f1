package etcd

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// guesses is how often an address or a node port is guessed before the taken ones are read. At half of a range
// taken, all of them fail once in 256 times.
const guesses = 8

// taken is what nobody is to choose any more, for all that is known: what others have, and what was chosen for the
// services that are written together. When too many guesses were wrong, all that others have is read.
type taken struct {
	most       int // wrong guesses, of either kind
	vips       map[netip.Addr]struct{}
	ports      map[string]bool // keys
	wrongVIPs  int
	wrongPorts int
	readVIPs   bool
	readPorts  bool
}

// newTaken is for so many services: to read costs as much as to guess again for a quarter of many.
func newTaken(services int) *taken {
	return &taken{most: max(guesses, services/4), vips: map[netip.Addr]struct{}{}, ports: map[string]bool{}}
}

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
		good := c.free(a) && !slices.Contains(avoid, a) && (chosen || !has(c.taken.vips, a))
		c.taken.vips[a] = struct{}{}
		if good {
			c.vips[f], c.guessed[vipKey(a)] = a, true
			return a, nil
		}
		delete(c.vips, f)
		c.taken.wrongVIPs++
	}
}

// free reports whether, for all that is known, nobody has an address.
func (c *claimer) free(a netip.Addr) bool {
	return !c.foreign(vipKey(a)) && c.store.real(a) == ""
}

// freeVIP returns an address that is likely to be free.
func (c *claimer) freeVIP(ctx context.Context, f registry.Family) (netip.Addr, error) {
	t := c.taken
	if t.wrongVIPs >= t.most && !t.readVIPs {
		others, err := c.store.taken(ctx)
		if err != nil {
			return netip.Addr{}, err
		}
		maps.Copy(t.vips, others)
		t.readVIPs = true
	}
	for _, r := range c.store.ranges {
		if r.family() != f {
			continue
		}
		if !t.readVIPs {
			return r.random(), nil
		}
		if a, ok := r.firstFree(t.vips); ok {
			return a, nil
		}
	}
	return netip.Addr{}, &registry.FieldError{Field: "spec.clusterIP", Err: fmt.Errorf(
		"%w: %s ranges of %s are full; delete a service or configure another range in services.cidrs",
		registry.ErrVIPsExhausted, f, c.store.describeRanges())}
}
