package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/cni/ipam"
)

const (
	defaultMTU  = 1500 // bytes; of a node without a default route
	minMTU      = 1280 // bytes; IPv6's, RFC 8200 5
	maxMTU      = 65535
	uplinkFresh = 10 * time.Second // how long the uplink's MTU is believed
	deletePoll  = 200 * time.Microsecond
)

// withNetlink runs f with a netlink socket of its own: a slow request on a shared one would hold up
// every other.
func withNetlink(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	return f(h)
}

// isOurs tells whether a link is the host side of a container's veth.
func isOurs(link netlink.Link) bool {
	a := link.Attrs()
	return link.Type() == "veth" && cni.IsHostInterface(a.Name) && a.HardwareAddr.String() == cni.GatewayMAC
}

// findLink returns a host interface, or nil when there is none of ours by that name.
func findLink(h *netlink.Handle, host string) (netlink.Link, error) {
	link, err := h.LinkByName(host)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", host, err)
	}
	if !isOurs(link) {
		return nil, nil
	}
	return link, nil
}

// hostIndex returns the index of a host interface, 0 when it is not there.
func hostIndex(host string) (index int, err error) {
	err = withNetlink(func(h *netlink.Handle) error {
		link, err := findLink(h, host)
		if link != nil {
			index = link.Attrs().Index
		}
		return err
	})
	return index, err
}

// hostLinks lists the host interfaces that there are, by name.
func hostLinks() (map[string]netlink.Link, error) {
	links := map[string]netlink.Link{}
	err := withNetlink(func(h *netlink.Handle) error {
		all, err := cni.Dump(h.LinkList)
		for _, link := range all {
			if isOurs(link) {
				links[link.Attrs().Name] = link
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return links, nil
}

// deleteLink removes a host interface and with it the container's. One that is not there is no
// error. It returns when both have left their namespaces, with their addresses, routes and
// neighbours. The kernel then still waits for readers of the freed memory (rcu_barrier in
// netdev_run_todo, 20 ms where the rest takes 2), which is nobody's concern but its own.
func deleteLink(host string) error {
	index, err := hostIndex(host)
	if err != nil || index == 0 {
		return err
	}
	done := make(chan error, 1)
	go func() {
		done <- withNetlink(func(h *netlink.Handle) error {
			return h.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
		})
	}()
	return withNetlink(func(h *netlink.Handle) error {
		for {
			select {
			case err := <-done:
				if err != nil && !errors.Is(err, unix.ENODEV) {
					return fmt.Errorf("delete interface %s: %w", host, err)
				}
				return nil
			case <-time.After(deletePoll):
			}
			// The kernel answers this when the deletion has let go of its big lock, not within it.
			if _, err := h.LinkByIndex(index); errors.As(err, new(netlink.LinkNotFoundError)) {
				return nil
			}
		}
	})
}

// setDown keeps a host interface from carrying traffic. One that is not there is no error.
func setDown(host string) error {
	return withNetlink(func(h *netlink.Handle) error {
		link, err := findLink(h, host)
		if err != nil || link == nil {
			return err
		}
		if err := h.LinkSetDown(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("set interface %s down: %w", host, err)
		}
		return nil
	})
}

// setUpHost makes the host side of an attachment carry traffic. It may be repeated.
func setUpHost(a ipam.Attachment, index int) error {
	if err := hostSysctls(a); err != nil {
		return err
	}
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		return fmt.Errorf("record of %s: %w", a.HostInterface, err)
	}
	return withNetlink(func(h *netlink.Handle) error {
		link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set interface %s up: %w", a.HostInterface, err)
		}
		for _, addr := range a.Addresses {
			neigh := &netlink.Neigh{
				LinkIndex: index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac,
			}
			if err := h.NeighSet(neigh); err != nil {
				return fmt.Errorf("set neighbour %s on %s: %w", addr, a.HostInterface, err)
			}
			route := &netlink.Route{
				LinkIndex: index, Dst: hostNet(addr), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC,
			}
			if err := h.RouteReplace(route); err != nil {
				return fmt.Errorf("set route to %s on %s: %w", addr, a.HostInterface, err)
			}
		}
		return nil
	})
}

// hostSysctls prepares a host interface, before it is up. A packet's way back is not where it came
// from when a service translates it, so no reverse path filter; the programs on the veth know
// better what a container may send. The host side has no IPv6 address of its own and believes no
// router behind it.
func hostSysctls(a ipam.Attachment) error {
	sysctls := [][3]string{{"ipv4", "rp_filter", "0"}}
	for _, addr := range a.Addresses {
		if addr.Is6() {
			sysctls = append(sysctls, [3]string{"ipv6", "disable_ipv6", "0"},
				[3]string{"ipv6", "addr_gen_mode", "1"}, [3]string{"ipv6", "accept_ra", "0"})
		}
	}
	for _, s := range sysctls {
		if err := cni.SetSysctl(s[2], "net", s[0], "conf", a.HostInterface, s[1]); err != nil {
			return fmt.Errorf("prepare interface %s: %w", a.HostInterface, err)
		}
	}
	return nil
}

// checkHost compares the host side of an attachment with the record.
func checkHost(h *netlink.Handle, a ipam.Attachment, link netlink.Link) ([]string, error) {
	var problems []string
	found := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	attrs := link.Attrs()
	if attrs.Flags&net.FlagUp == 0 {
		found("interface %s is down", a.HostInterface)
	}
	if attrs.MTU != a.MTU {
		found("interface %s has MTU %d instead of %d", a.HostInterface, attrs.MTU, a.MTU)
	}
	routes, err := cni.Dump(func() ([]netlink.Route, error) { return h.RouteList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes of %s: %w", a.HostInterface, err)
	}
	neighs, err := cni.Dump(func() ([]netlink.Neigh, error) { return h.NeighList(attrs.Index, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list neighbours of %s: %w", a.HostInterface, err)
	}
	for _, addr := range a.Addresses {
		hasRoute, hasNeigh := false, false
		for _, r := range routes {
			hasRoute = hasRoute || r.Dst != nil && r.Dst.String() == hostNet(addr).String()
		}
		for _, n := range neighs {
			hasNeigh = hasNeigh || n.IP.Equal(addr.AsSlice()) && n.State&netlink.NUD_PERMANENT != 0 && n.HardwareAddr.String() == a.MAC
		}
		if !hasRoute {
			found("route to %s over %s is missing", addr, a.HostInterface)
		}
		if !hasNeigh {
			found("neighbour %s on %s is missing or not %s", addr, a.HostInterface, a.MAC)
		}
	}
	return problems, nil
}

// enableForwarding makes the node route its containers' packets. An interface that takes its IPv6
// routes from a router goes on doing so: forwarding alone would end that.
func enableForwarding() error {
	if err := cni.SetSysctl("1", "net/ipv4/ip_forward"); err != nil {
		return err
	}
	const conf = "/proc/sys/net/ipv6/conf"
	interfaces, err := os.ReadDir(conf)
	if errors.Is(err, os.ErrNotExist) {
		return nil // no IPv6
	}
	if err != nil {
		return fmt.Errorf("list IPv6 interfaces: %w", err)
	}
	if on, err := os.ReadFile(conf + "/all/forwarding"); err == nil && string(on) == "1\n" {
		return nil
	}
	for _, i := range interfaces {
		name := i.Name()
		accept, err := os.ReadFile(conf + "/" + name + "/accept_ra")
		if err != nil || string(accept) != "1\n" || name == "all" || name == "default" {
			continue
		}
		if err := cni.SetSysctl("2", "net/ipv6/conf", name, "accept_ra"); err != nil {
			return err
		}
	}
	return cni.SetSysctl("1", "net/ipv6/conf/all/forwarding")
}

// closedMetric is behind that of any route that an operator would make for a range.
const closedMetric = 1 << 30

// rangeRoute is what the node answers for the addresses of a range that no container has: unreachable,
// instead of sending it out by the default route, where nobody would ever answer.
func rangeRoute(p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst:  &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_STATIC, Priority: closedMetric,
	}
}

func closeRanges(prefixes []netip.Prefix) error {
	return withNetlink(func(h *netlink.Handle) error {
		for _, p := range prefixes {
			if err := h.RouteReplace(rangeRoute(p)); err != nil {
				return fmt.Errorf("make the unused addresses of %s unreachable: %w", p, err)
			}
		}
		return nil
	})
}

// OpenRanges takes the routes away that Settle made for the containers' ranges.
func OpenRanges(prefixes []netip.Prefix) error {
	return withNetlink(func(h *netlink.Handle) error {
		for _, p := range prefixes {
			if err := h.RouteDel(rangeRoute(p)); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the route for %s: %w", p, err)
			}
		}
		return nil
	})
}

// uplink remembers the MTU of the device that the node's default route goes out by.
type uplink struct {
	mu   sync.Mutex
	mtu  int
	read time.Time
}

// MTU returns the uplink's, or that of Ethernet on a node without a default route.
func (u *uplink) MTU() (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mtu > 0 && time.Since(u.read) < uplinkFresh {
		return u.mtu, nil
	}
	mtu := 0
	err := withNetlink(func(h *netlink.Handle) error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := cni.Dump(func() ([]netlink.Route, error) {
				return h.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_DST)
			})
			if err != nil {
				return fmt.Errorf("list default routes: %w", err)
			}
			for _, r := range routes {
				link, err := h.LinkByIndex(r.LinkIndex)
				if err != nil || r.Type != unix.RTN_UNICAST {
					continue // a route over several devices, or one that just went
				}
				if m := link.Attrs().MTU; mtu == 0 || m < mtu {
					mtu = m
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if mtu == 0 {
		mtu = defaultMTU
	}
	u.mtu, u.read = min(max(mtu, minMTU), maxMTU), time.Now()
	return u.mtu, nil
}

// hostNet returns the prefix that holds the one address.
func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
