package tests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// uplinked is a node with a device that has a default route to nowhere, and no address yet.
//
//	client, web   containers
//	up0 ... up1   the device, and its other end in the same namespace
type uplinked struct {
	*testing.T
	*nstest.Node
}

func newUplinked(t *testing.T) uplinked {
	t.Helper()
	n := uplinked{t, newNode(t, nstest.Settings{FoundAddresses: true})}
	n.inside(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up1"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		for _, name := range []string{"up0", "up1"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
		}
		for _, to := range []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
			dst := netlink.NewIPNet(to.Addr().AsSlice())
			dst.Mask = make([]byte, len(dst.Mask))
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Attrs().Index, Dst: dst, Scope: unix.RT_SCOPE_LINK}); err != nil {
				return err
			}
		}
		return nil
	})
	return n
}

func (n uplinked) inside(do func() error) {
	n.Helper()
	if err := n.InNetns(do); err != nil {
		n.Fatal(err)
	}
}

// move adds addresses to a device, or takes them off it.
func (n uplinked) move(device string, do func(netlink.Link, *netlink.Addr) error, addrs ...netip.Addr) {
	n.Helper()
	n.inside(func() error {
		link, err := netlink.LinkByName(device)
		for _, a := range addrs {
			err = errors.Join(err, do(link, &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice()), Flags: unix.IFA_F_NODAD}))
		}
		return err
	})
}

// registered awaits that the registry has these addresses of the node, and no others.
func (n uplinked) registered(want ...netip.Addr) {
	n.Helper()
	n.await(fmt.Sprint("the node's addresses to be ", want), func() (bool, error) {
		nodes, err := n.API().Nodes(n.Context())
		return err == nil && len(nodes) == 1 && slices.Equal(nodes[0].Addresses, want), err
	})
}

func (n uplinked) await(what string, cond func() (bool, error)) {
	n.Helper()
	ctx, cancel := context.WithTimeout(n.Context(), 30*time.Second)
	defer cancel()
	if err := nstest.Await(ctx, what, cond); err != nil {
		n.Fatal(err)
	}
}

// told awaits what status says of the addresses: that all is well, or a text.
func (n uplinked) told(want string) {
	n.Helper()
	n.await(fmt.Sprintf("status to say %q", want), func() (bool, error) {
		s, err := n.API().Status(n.Context())
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(s.Conditions, func(c api.Condition) bool { return c.Name == "addresses" })
		if i < 0 || !s.Ready {
			return false, fmt.Errorf("status is %+v", s)
		}
		c := s.Conditions[i]
		return c.OK == (want == "") && strings.Contains(c.Message, want), nil
	})
}

// calls asks a node port by all protocols, from sockets that the hooks see and from others.
func (n uplinked) calls(client *nstest.Container, to netip.AddrPort, want string, refused bool) {
	n.Helper()
	for _, outside := range []bool{false, true} {
		h, err := client.Hand(outside)
		if err != nil {
			n.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			did, err := h.Do(report.Act{Do: report.Tally, Net: network, To: to, Count: 1})
			switch {
			case refused && !errors.Is(err, unix.ECONNREFUSED):
				n.Errorf("%s to %s, outside %t: %v answers, %v; want it refused", network, to, outside, did.Answers, err)
			case !refused && (err != nil || did.Answers[want] != 1):
				n.Errorf("%s to %s, outside %t: %v answers, %v; want %s", network, to, outside, did.Answers, err, want)
			}
		}
	}
}

// TestNodeAddresses: the registry, and node ports with it, follow the addresses of a running agent's node. No
// container gets one of them, and what a service or a container has already is told when the node gets it, too.
func TestNodeAddresses(t *testing.T) {
	n := newUplinked(t)
	n.registered()
	client := addContainer(t, n.Node, "client", nil)
	addContainer(t, n.Node, "web", map[string]string{"app": "web"})
	manifest := strings.NewReplacer("spec:", "spec:\n  type: NodePort", "port: 80,", "port: 80, nodePort: 30080,").Replace(web("web", "web"))
	vips := apply(t, n.Node, "web", manifest)

	old := []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:7::7")}
	n.move("up0", netlink.AddrAdd, old...)
	n.registered(old...)
	for _, a := range old {
		n.calls(client, netip.AddrPortFrom(a, 30080), "web", false)
	}
	now := []netip.Addr{netip.MustParseAddr("198.51.100.8"), netip.MustParseAddr("2001:db8:7::8")}
	n.move("up0", netlink.AddrAdd, now...) // first: with a device's last address its routes go
	// Still the node's, but no longer one by which it is known.
	n.move("up0", netlink.AddrDel, old...)
	n.move("lo", netlink.AddrAdd, old...)
	n.registered(now...)
	for i := range now {
		n.calls(client, netip.AddrPortFrom(now[i], 30080), "web", false)
		n.calls(client, netip.AddrPortFrom(old[i], 30080), "", true)
	}
	n.told("")

	own := []netip.Addr{netip.MustParseAddr("10.244.1.77"), netip.MustParseAddr("fd00:10:244:1::77")}
	n.move("lo", netlink.AddrAdd, own...)
	n.move("lo", netlink.AddrAdd, vips[0], client.V6)
	n.told(fmt.Sprintf("%s is an address of this node and the VIP of service default/web", vips[0]))
	n.told(fmt.Sprintf("%s is an address of this node and of container", client.V6))
	for _, a := range own {
		c, err := n.AddContainer(t.Context(), nstest.Spec{Name: "thief", Addresses: []netip.Addr{a}})
		if err == nil || !strings.Contains(err.Error(), "kept for the node") {
			t.Errorf("a container with the node's address %s: %v, %v", a, c, err)
		}
	}
	n.move("lo", netlink.AddrDel, append(own, vips[0], client.V6)...)
	n.told("")
	if c, err := n.AddContainer(t.Context(), nstest.Spec{Name: "heir", Addresses: own}); err != nil || c.V4 != own[0] {
		t.Errorf("what the node gave up: %v, %v", c, err)
	}
}
