package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netspace is a network namespace without a way out.
type netspace struct {
	t  testing.TB
	fd int
}

func newNetspace(t testing.TB) *netspace {
	t.Helper()
	n := &netspace{t: t, fd: -1}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(n.fd) })
	n.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// do calls f in the namespace. Sockets that it opens stay there.
func (n *netspace) do(f func() error) {
	n.t.Helper()
	if err := n.try(f); err != nil {
		n.t.Fatal(err)
	}
}

func (n *netspace) try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // see newNetspace
		err := unix.Setns(n.fd, unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// sysctl writes a setting of the namespace, NAME as in net/ipv4/ip_forward.
func (n *netspace) sysctl(name, value string) {
	n.t.Helper()
	n.do(func() error { return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0) })
}

// wires are namespaces around a rig whose programs are attached: the containers A, B and C, and R,
// another machine that the node's stack forwards to.
type wires struct {
	*rig
	node *netspace
	pods map[string]*netspace
}

func newWires(t testing.TB, f family) *wires {
	t.Helper()
	r := newRig(t, f, rigOptions{})
	r.reset()
	w := &wires{rig: r, node: &netspace{t: t, fd: r.netns}, pods: map[string]*netspace{}}
	for _, all := range []string{"all", "default"} {
		w.node.sysctl("net/ipv4/conf/"+all+"/rp_filter", "0")
	}
	w.node.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		remote := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "hostR"}, PeerName: "podR"}
		return errors.Join(netlink.LinkSetUp(lo), w.address(lo, "N"), netlink.LinkAdd(remote))
	})
	for _, name := range []string{"A", "B", "C", "R"} {
		w.pod(name)
	}
	w.node.sysctl("net/ipv4/ip_forward", "1")
	w.node.sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, name := range []string{"A", "B", "C"} {
		w.attach(name)
	}
	return w
}

// attach attaches the programs to a container's veth, in the way that every kernel has.
func (w *wires) attach(name string) {
	w.t.Helper()
	w.node.do(func() error {
		return clsact{}.attach("host"+name, int(w.ifindex[name]), &programs{
			fromPod: w.coll.Programs["from_pod"], toPod: w.coll.Programs["to_pod"],
		})
	})
}

func (w *wires) address(l netlink.Link, name string) error {
	return netlink.AddrAdd(l, &netlink.Addr{
		IPNet: w.net(w.f.addr(name)), Flags: unix.IFA_F_NODAD,
	})
}

func (w *wires) net(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// pod moves a veth's end into a namespace of its own and gives it an address and the gateway.
func (w *wires) pod(name string) {
	w.t.Helper()
	pod := newNetspace(w.t)
	w.pods[name] = pod
	// Tests ask for more errors a second than a host gives away.
	pod.sysctl("net/ipv4/icmp_ratelimit", "0")
	pod.sysctl("net/ipv6/icmp/ratelimit", "0")
	pm, gm := mac(name), mac("G")
	w.node.do(func() error {
		host, err := netlink.LinkByName("host" + name)
		if err != nil {
			return err
		}
		peer, err := netlink.LinkByName("pod" + name)
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.LinkSetHardwareAddr(host, gm[:]), netlink.LinkSetHardwareAddr(peer, pm[:]),
			netlink.LinkSetNsFd(peer, pod.fd), netlink.LinkSetUp(host),
			netlink.RouteAdd(&netlink.Route{LinkIndex: host.Attrs().Index, Dst: w.net(w.f.addr(name))}),
			netlink.NeighAdd(&netlink.Neigh{LinkIndex: host.Attrs().Index, State: netlink.NUD_PERMANENT,
				IP: w.f.addr(name).AsSlice(), HardwareAddr: pm[:]}))
	})
	pod.do(func() error {
		peer, err := netlink.LinkByName("pod" + name)
		if err != nil {
			return err
		}
		gateway := w.f.addr("G").AsSlice()
		link := peer.Attrs().Index
		err = errors.Join(netlink.LinkSetUp(peer), w.address(peer, name),
			netlink.RouteAdd(&netlink.Route{LinkIndex: link, Dst: w.net(w.f.addr("G")),
				Scope: netlink.SCOPE_LINK}))
		if name == "R" { // no program answers for its gateway
			err = errors.Join(err, netlink.NeighAdd(&netlink.Neigh{LinkIndex: link,
				State: netlink.NUD_PERMANENT, IP: gateway, HardwareAddr: gm[:]}))
		}
		return errors.Join(err, netlink.RouteAdd(&netlink.Route{LinkIndex: link, Gw: gateway}))
	})
	// The end that came up first drops all packets until the kernel has noticed its carrier, which
	// it does in the background.
	w.node.do(func() error { return awaitCarrier("host" + name) })
	pod.do(func() error { return errors.Join(awaitCarrier("pod"+name), awaitAddress(w.f.addr(name))) })
}

func awaitCarrier(device string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		l, err := netlink.LinkByName(device)
		if err != nil || l.Attrs().OperState == netlink.OperUp {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is %s", device, l.Attrs().OperState)
		}
	}
}

// awaitAddress waits until a fresh address of the namespace has its route: the kernel enters that of an
// IPv6 address in the background, even if there is no duplicate to be detected.
func awaitAddress(a netip.Addr) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(a.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has no local route: %w", a, err)
		}
	}
}

// offload turns the checksumming and segmentation by a device in a namespace on or off. Without, the
// kernel itself does both before it hands a packet over, and the receiver verifies the checksum.
func (w *wires) offload(n *netspace, device string, on bool) {
	w.t.Helper()
	const setTxChecksum = 0x17 // ETHTOOL_STXCSUM
	value := struct{ cmd, data uint32 }{cmd: setTxChecksum}
	if on {
		value.data = 1
	}
	n.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return ethtool(fd, device, &value)
	})
}

// network is "tcp4" and so on.
func (w *wires) network(proto string) string {
	if w.f.v6 {
		return proto + "6"
	}
	return proto + "4"
}

// at is an address of a fixture, NAME:PORT, as the net package spells it.
func (w *wires) at(endpoint string) string {
	name, port := parseEndpoint(endpoint)
	s := netip.AddrPortFrom(w.f.addr(name), port).String()
	return strings.TrimSpace(s)
}
