package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/cni"
)

// nodeAddresses returns the global addresses of the devices that have a default route, at most one
// of each family. A node without such a route has none.
func nodeAddresses() ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addr, err := uplinkAddress(family)
		if err != nil {
			return nil, fmt.Errorf("find the node's addresses: %w", err)
		}
		if addr.IsValid() {
			addrs = append(addrs, addr)
		}
	}
	return addrs, nil
}

// uplinkAddress returns the zero address when there is none.
func uplinkAddress(family int) (netip.Addr, error) {
	routes, err := cni.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list routes: %w", err)
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	for _, route := range routes {
		if !isDefault(route) {
			continue
		}
		link, err := netlink.LinkByIndex(route.LinkIndex)
		if err != nil {
			continue // it has just gone
		}
		list, err := cni.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
		if err != nil {
			return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, a := range list {
			if addr, ok := netip.AddrFromSlice(a.IP); ok && a.IP.IsGlobalUnicast() {
				return addr.Unmap(), nil
			}
		}
	}
	return netip.Addr{}, nil
}

func isDefault(route netlink.Route) bool {
	if route.Dst == nil {
		return true
	}
	ones, _ := route.Dst.Mask.Size()
	return ones == 0 && route.Dst.IP.IsUnspecified()
}
