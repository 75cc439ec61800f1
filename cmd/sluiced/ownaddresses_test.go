package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd"
)

// TestOwnAddresses: whoever has one of the node's addresses too is named, with what to do about it.
func TestOwnAddresses(t *testing.T) {
	vip, external, container := netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("10.244.1.7")
	web := registry.Name{Namespace: "shop", Name: "web"}
	held := []etcd.Held{{Addr: vip, Service: web}, {Addr: external, Service: web, External: true}}
	var down error
	o := ownAddresses{
		services: func(_ context.Context, list []netip.Addr) ([]etcd.Held, error) {
			return slices.DeleteFunc(slices.Clone(held), func(h etcd.Held) bool { return !slices.Contains(list, h.Addr) }), down
		},
		containers: func([]netip.Addr) map[netip.Addr]registry.Name { return map[netip.Addr]registry.Name{container: web} },
	}
	o.set([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")})
	if err := o.check(t.Context()); err != nil || len(o.get()) != 1 {
		t.Errorf("%v: %v", o.get(), err)
	}
	o.set([]netip.Addr{container, vip, external})
	want := []string{
		"10.96.0.7 is an address of this node and the VIP of service shop/web: take it off the node, or delete the service",
		"2001:db8::7 is an address of this node and an external address of service shop/web: take it off the node, or delete the service",
		"10.244.1.7 is an address of this node and of container shop/web: take it off the node, or make the container anew",
	}
	if err := o.check(t.Context()); err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("%v", err)
	}
	down = errors.New("no registry")
	if err := o.check(t.Context()); !errors.Is(err, down) {
		t.Errorf("%v", err)
	}
}
