// Package kernels holds what must work on every kernel that Sluice claims. make test runs it on this
// machine; make kernels also under older kernels, in QEMU, beside the loader's own tests.
package kernels

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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/loader"
)

// The gateway as every container has it; the programs answer for its addresses. A container that is
// its own backend has gatewayV4 or hairpinV6 for a client.
const (
	gatewayV4  = "169.254.1.1"
	gatewayV6  = "fe80::1"
	gatewayMAC = "02:53:6c:75:63:65"
	hairpinV6  = "fd53:6c75:6963:65::1"
)

// node is a network namespace without uplink, with a bpf filesystem and a cgroup of its own. The
// test's process is in that cgroup.
type node struct {
	*loader.Loader
	t       *testing.T
	netns   *os.File
	options loader.Options
}

// container is a network namespace that a node wires.
type container struct {
	name      string
	netns     *os.File
	addresses []netip.Addr
}

// newNode makes a node and opens its Loader.
func newNode(t *testing.T, attach loader.AttachMode, socket bool) *node {
	t.Helper()
	n := &node{t: t, netns: newNetns(t)}
	n.options = loader.Options{
		BPFFS: filepath.Join(mountBPF(t), "sluice"), Cgroup: enterCgroup(t),
		SocketTranslation: socket, Sizes: loader.DefaultSizes().Scale(1. / 64), Attach: attach,
	}
	// The node's own addresses, for calls from it.
	n.must(n.in(func() error { return configure("lo", "192.0.2.1/32", "2001:db8::1/128") }))
	n.open()
	t.Cleanup(func() { n.must(n.in(n.Detach)) })
	return n
}

func (n *node) open() {
	n.t.Helper()
	n.must(n.in(func() (err error) {
		n.Loader, err = loader.Open(n.options)
		return err
	}))
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatalf("%+v", err)
	}
}

func (n *node) in(f func() error) error { return in(n.netns, f) }

// wire makes a container with the addresses 10.244.1.I and fd00:10:244:1::I, wired as the plugin
// does it, and starts its server.
func (n *node) wire(name string, i byte) *container {
	n.t.Helper()
	c := &container{name: name, netns: newNetns(n.t), addresses: []netip.Addr{
		netip.AddrFrom4([4]byte{10, 244, 1, i}), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:1::%x", i)),
	}}
	gateway, err := net.ParseMAC(gatewayMAC)
	n.must(err)
	host := loader.Interface{
		Name: "sl" + name, MAC: net.HardwareAddr{2, 0, 0, 0, 1, i}, Addrs: c.addresses,
	}
	n.must(in(c.netns, func() error {
		// No waiting until addresses are known to be nobody else's.
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	}))
	n.must(n.in(func() error {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: host.Name, HardwareAddr: gateway},
			PeerName:  "eth0", PeerHardwareAddr: host.MAC, PeerNamespace: netlink.NsFd(c.netns.Fd()),
		})
		if err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		link, err := netlink.LinkByName(host.Name)
		if err != nil {
			return err
		}
		host.Index = link.Attrs().Index
		if err := n.Attach(host); err != nil {
			return err
		}
		return configure(host.Name)
	}))
	n.must(in(c.netns, func() error {
		if err := configure("lo"); err != nil {
			return err
		}
		err := configure("eth0", c.addresses[0].String()+"/32", c.addresses[1].String()+"/128")
		return errors.Join(err, route("eth0", gatewayV4+"/32", ""), route("eth0", gatewayV6+"/128", ""),
			route("eth0", "0.0.0.0/0", gatewayV4), route("eth0", "::/0", gatewayV6))
	}))
	n.must(n.in(func() error { return reach(host) }))
	c.serve(n.t)
	return c
}

// reach gives the node's stack routes to a container.
func reach(host loader.Interface) error {
	var errs []error
	for _, addr := range host.Addrs {
		errs = append(errs, netlink.NeighSet(&netlink.Neigh{
			LinkIndex: host.Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: host.MAC,
		}), route(host.Name, netip.PrefixFrom(addr, addr.BitLen()).String(), ""))
	}
	return errors.Join(errs...)
}

// configure gives a device addresses and sets it up.
func configure(device string, addrs ...string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", text, device, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// route adds a route by a device and, unless empty, a gateway.
func route(device, to, gateway string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
	if gateway != "" {
		r.Gw, r.Scope, r.Flags = net.ParseIP(gateway), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("add route to %s by %s: %w", to, device, err)
	}
	return nil
}

// newNetns makes a network namespace without a name; it goes with its file and its sockets.
func newNetns(t *testing.T) *os.File {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	var netns *os.File
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			netns, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { netns.Close() })
	return netns
}

// in runs f on a thread inside a namespace; sockets made there stay there.
func in(netns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func mountBPF(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpf: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount bpf: %v", err)
		}
	})
	return dir
}

// enterCgroup makes a cgroup and moves the test's process into it until the test ends.
func enterCgroup(t *testing.T) string {
	t.Helper()
	root := ""
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			root = dir
		}
	}
	if root == "" {
		t.Skip("needs cgroup2")
	}
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	home := root
	for line := range strings.Lines(string(memberships)) {
		if path, is := strings.CutPrefix(strings.TrimSpace(line), "0::"); is {
			home = filepath.Join(root, path)
		}
	}
	dir, err := os.MkdirTemp(root, "sluice-kernels-test-")
	if err != nil {
		t.Fatal(err)
	}
	move := func(to string) {
		if err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatalf("enter cgroup: %v", err)
		}
	}
	t.Cleanup(func() {
		move(home)
		if err := os.Remove(dir); err != nil {
			t.Errorf("remove cgroup: %v", err)
		}
	})
	move(dir)
	return dir
}
