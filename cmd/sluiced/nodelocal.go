package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/cni"
)

// nodeLocal returns the addresses by which containers reach their own node's agent, of the families that
// containers have.
func (c *Config) nodeLocal() []netip.Addr {
	_, noIPv6 := os.Stat("/proc/sys/net/ipv6")
	var out []netip.Addr
	for _, text := range []string{cni.NodeLocalV4, cni.NodeLocalV6} {
		addr := netip.MustParseAddr(text)
		if addr.Is6() && noIPv6 != nil {
			continue
		}
		if slices.ContainsFunc(c.Containers.CIDRs, func(p netip.Prefix) bool { return p.Addr().Is4() == addr.Is4() }) {
			out = append(out, addr)
		}
	}
	return out
}

// nodeLocalAddr is how an address stands on lo: never the source of what the node says to others. IPv4 has the
// scope of 127.0.0.1 for that, else it would be the first choice where a device has no address (inet_select_addr
// looks at lo first); IPv6 is deprecated (RFC 6724, 5, rule 3).
func nodeLocalAddr(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
	if a.Is4() {
		addr.Scope = unix.RT_SCOPE_HOST
		return addr
	}
	addr.Flags = unix.IFA_F_NODAD
	addr.ValidLft, addr.PreferedLft = math.MaxUint32, 0
	return addr
}

// keepNodeLocal puts the node-local addresses on lo of the calling thread's network namespace, where they are not.
func keepNodeLocal(addrs []netip.Addr) error {
	var errs []error
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	for _, a := range addrs {
		if err := netlink.AddrAdd(lo, nodeLocalAddr(a)); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("add %s to lo: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// dropNodeLocal takes them off again.
func dropNodeLocal() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	for _, text := range []string{cni.NodeLocalV4, cni.NodeLocalV6} {
		err := netlink.AddrDel(lo, nodeLocalAddr(netip.MustParseAddr(text)))
		// Without IPv6 the kernel knows neither the address nor its family.
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("remove %s from lo: %w", text, err)
		}
	}
	return nil
}
