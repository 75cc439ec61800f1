package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// readyPatience is more than the second by which linkwatch delays what is not urgent to it.
	readyPatience = 10 * time.Second
	readyPause    = 500 * time.Microsecond
)

// createVeth makes the pair: the host side here, the other at once in the container's namespace,
// both with their names, MACs and MTU, so that no other name is ever seen.
func createVeth(ns *netns, ifName string, r AddReply) error {
	mac, err := ParseMAC(r.MAC)
	if err != nil {
		return fmt.Errorf("create veth: the agent's reply: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = r.HostInterface, r.MTU, gatewayMAC()
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = ifName, uint32(r.MTU), mac
	veth.PeerNamespace = netlink.NsFd(ns.file.Fd())
	if err := h.LinkAdd(veth); err != nil {
		if errors.Is(err, os.ErrExist) {
			return existsError(ns, ifName, r.HostInterface)
		}
		return fmt.Errorf("create veth %s: %w", r.HostInterface, err)
	}
	return nil
}

// existsError finds out which of both names was taken.
func existsError(ns *netns, ifName, hostInterface string) error {
	taken := false
	err := ns.do(func() error {
		_, err := netlink.LinkByName(ifName)
		taken = err == nil
		return nil
	})
	if err != nil {
		return err
	}
	if taken {
		return types.NewError(CodeAttached, fmt.Sprintf("interface %s already exists in %s", ifName, ns.path), "")
	}
	return fmt.Errorf("create veth: interface %s already exists on the node", hostInterface)
}

// removeVeth deletes the host side, and with it the container's. One that is not there is no error;
// a device that only has the name is left alone.
func removeVeth(hostInterface string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(hostInterface)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find veth %s: %w", hostInterface, err)
	}
	if link.Type() != "veth" || link.Attrs().HardwareAddr.String() != GatewayMAC {
		return nil
	}
	if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete veth %s: %w", hostInterface, err)
	}
	return nil
}

// configure brings the container's side up with its addresses, neighbours and routes. It returns the
// namespace's cookie, which only who is in the namespace can ask for.
func configure(ns *netns, ifName string, addrs []netip.Addr) (cookie uint64, err error) {
	err = ns.do(func() error {
		if cookie, err = netnsCookie(); err != nil {
			return err
		}
		for _, a := range addrs {
			if a.Is6() {
				if err := quietIPv6(ifName); err != nil {
					return err
				}
			}
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		defer h.Close()
		link, err := h.LinkByName(ifName)
		if err != nil {
			return fmt.Errorf("find interface %s in the container: %w", ifName, err)
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set interface %s up: %w", ifName, err)
		}
		for _, a := range addrs {
			if err := configureAddress(h, link, a); err != nil {
				return err
			}
		}
		return nil
	})
	return cookie, err
}

// awaitReady waits for two things that the kernel does some time after it was asked, before which
// packets are lost: it starts the queue of the container's side when it has noticed that the host
// side came up (linkwatch; newer kernels do it at once when asked for the link's state, as here), and
// it makes a new IPv6 address' local route (addrconf_dad_work, also without duplicate detection).
func awaitReady(ns *netns, ifName string, addrs []netip.Addr) error {
	return ns.do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		defer h.Close()
		for deadline := time.Now().Add(readyPatience); ; time.Sleep(readyPause) {
			missing, err := notReady(h, ifName, addrs)
			if err != nil || missing == "" {
				return err
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s after %s", missing, readyPatience)
			}
		}
	})
}

// notReady says what an interface lacks for traffic, nothing when it lacks nothing.
func notReady(h *netlink.Handle, ifName string, addrs []netip.Addr) (string, error) {
	link, err := h.LinkByName(ifName)
	if err != nil {
		return "", fmt.Errorf("find interface %s in the container: %w", ifName, err)
	}
	if state := link.Attrs().OperState; state != netlink.OperUp {
		return fmt.Sprintf("interface %s is %s", ifName, state), nil
	}
	for _, a := range addrs {
		if a.Is4() {
			continue // its route is there when the kernel has answered
		}
		routes, err := h.RouteGet(a.AsSlice())
		if err != nil && !errors.Is(err, unix.ENETUNREACH) {
			return "", fmt.Errorf("find the route to %s in the container: %w", a, err)
		}
		if len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL {
			return fmt.Sprintf("address %s has no local route", a), nil
		}
	}
	return "", nil
}

// quietIPv6 turns IPv6 on for the interface, also where a runtime has it off by default, and stops
// it from looking for duplicates and routers: there are none to be found.
func quietIPv6(ifName string) error {
	for _, s := range [][2]string{{"disable_ipv6", "0"}, {"accept_dad", "0"}, {"accept_ra", "0"}, {"autoconf", "0"}} {
		if err := SetSysctl(s[1], "net/ipv6/conf", ifName, s[0]); err != nil {
			return fmt.Errorf("prepare interface %s for IPv6: %w", ifName, err)
		}
	}
	return nil
}

func configureAddress(h *netlink.Handle, link netlink.Link, a netip.Addr) error {
	addr := &netlink.Addr{IPNet: hostNet(a)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s: %w", a, err)
	}
	// The dataplane answers for the gateway, but a permanent entry spares the first packet the wait
	// and the kernel its probes.
	gateway := gatewayOf(a)
	neigh := &netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: gateway.AsSlice(), HardwareAddr: gatewayMAC(),
	}
	if err := h.NeighSet(neigh); err != nil {
		return fmt.Errorf("add neighbour %s: %w", gateway, err)
	}
	for _, r := range routesFor(a) {
		r.LinkIndex = link.Attrs().Index
		if err := h.RouteAdd(&r); err != nil {
			return fmt.Errorf("add route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// routesFor returns a container's routes for the family of one of its addresses: the gateway on the
// link, where it is not link-local already, and the default through it.
func routesFor(a netip.Addr) []netlink.Route {
	gateway := gatewayOf(a)
	if a.Is6() {
		return []netlink.Route{{Dst: anyNet(a), Gw: gateway.AsSlice()}}
	}
	return []netlink.Route{
		{Dst: hostNet(gateway), Scope: netlink.SCOPE_LINK},
		{Dst: anyNet(a), Gw: gateway.AsSlice()},
	}
}

// hostNet returns the prefix that holds the one address.
func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// anyNet returns the prefix that holds every address of a's family.
func anyNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
}
