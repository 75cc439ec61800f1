package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd"
)

// ownAddresses are the addresses that the node's devices have, and what else has one of them. A store refuses to
// give a service an address of a node, and no container gets one either; but nobody asks before a device gets one.
type ownAddresses struct {
	services   func(context.Context, []netip.Addr) ([]etcd.Held, error)
	containers func([]netip.Addr) map[netip.Addr]registry.Name

	mu   sync.Mutex
	list []netip.Addr
}

// set remembers the addresses, all that there are. Link-local ones are nobody else's concern.
func (o *ownAddresses) set(addrs []netip.Addr) {
	list := slices.DeleteFunc(slices.Clone(addrs), netip.Addr.IsLinkLocalUnicast)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = list
}

func (o *ownAddresses) get() []netip.Addr {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.list
}

// check returns an error that names the addresses which services or containers have too, and what to do.
func (o *ownAddresses) check(ctx context.Context) error {
	list := o.get()
	held, err := o.services(ctx, list)
	errs := []error{err}
	for _, h := range held {
		what := "the VIP"
		if h.External {
			what = "an external address"
		}
		errs = append(errs, fmt.Errorf("%s is an address of this node and %s of service %s: take it off the node, or delete the service", h.Addr, what, h.Service))
	}
	containers := o.containers(list)
	for _, a := range list {
		if name, taken := containers[a]; taken {
			errs = append(errs, fmt.Errorf("%s is an address of this node and of container %s: take it off the node, or make the container anew", a, name))
		}
	}
	return errors.Join(errs...)
}
