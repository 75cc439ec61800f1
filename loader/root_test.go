package loader

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/sluice-net/sluice/registry"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// smallSizes keep tests quick.
func smallSizes() Sizes {
	return Sizes{
		Services: 64, Slots: 256, Backends: 128, Endpoints: 32,
		Flows: 64, SockOrigin: 64, SockChoices: 64, Affinity: 64, Frags: 64,
		Identities: 64, Policies: 64, PolicyEntries: 256, Rulesets: 128,
		PortNodes: 64, Outcomes: 128, Prefixes: 128, Events: 4096,
	}
}

// node is a place for a Loader that nothing else sees: a network namespace, a bpf filesystem, and a
// cgroup without processes.
type node struct {
	t      testing.TB
	bpffs  string
	cgroup string
}

// newNode makes a node. The test's goroutine stays in its network namespace.
func newNode(t testing.TB) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	// The thread is not unlocked: it dies with the goroutine, and its namespace with it.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, bpffs: filepath.Join(mountBPF(t), "sluice")}
	n.cgroup = newCgroup(t)
	return n
}

// mountBPF makes a bpf filesystem, for as long as the test runs.
func mountBPF(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", owner())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// cgroupRoots are where cgroup2 may be mounted.
func cgroupRoots() []string { return []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} }

func newCgroup(t testing.TB) string {
	t.Helper()
	for _, root := range cgroupRoots() {
		var fs unix.Statfs_t
		if unix.Statfs(root, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir, err := os.MkdirTemp(root, owner())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		})
		return dir
	}
	t.Skip("needs cgroup2")
	return ""
}

func (n *node) options() Options {
	return Options{
		BPFFS: n.bpffs, Cgroup: n.cgroup, SocketTranslation: true, Sizes: smallSizes(),
		grace: time.Nanosecond, edit: quick,
	}
}

// quick makes programs that do nothing of those that take the verifier long.
func quick(spec *ebpf.CollectionSpec) {
	for _, p := range spec.Programs {
		if p.Type == ebpf.SchedCLS {
			p.Instructions = asm.Instructions{
				asm.Mov.Imm(asm.R0, -1).WithSymbol(p.Name), asm.Return(),
			}
		}
	}
}

func (n *node) open(o Options) *Loader {
	n.t.Helper()
	l, err := Open(o)
	if err != nil {
		n.t.Fatalf("%+v", err)
	}
	n.t.Cleanup(func() { l.Close() })
	return l
}

// veth makes a veth, whose peer stays in the same namespace, and returns the interface to attach.
func (n *node) veth(i int) Interface {
	n.t.Helper()
	name := fmt.Sprintf("slhost%d", i)
	mac := net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: fmt.Sprintf("slpeer%d", i),
		PeerHardwareAddr: mac,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		n.t.Fatal(err)
	}
	return Interface{
		Name: name, Index: link.Attrs().Index, MAC: mac,
		Addrs: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}),
			netip.MustParseAddr(fmt.Sprintf("fd00:10:244:1::%x", i)),
		},
	}
}

// resolved returns a frontend with n backends.
func resolved(vip string, port uint16, n int) registry.Resolved {
	r := registry.Resolved{
		Frontend: registry.Frontend{Addr: netip.MustParseAddr(vip), Port: port, Protocol: registry.TCP},
		Service:  registry.Name{Namespace: "default", Name: "web"}, PortName: "http",
	}
	for i := range n {
		r.Backends = append(r.Backends, registry.Evenly(netip.AddrPortFrom(
			netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 1)}), 8080))...)
	}
	return r
}

// mustBeClean fails the test unless Check finds nothing.
func mustBeClean(t *testing.T, l *Loader) {
	t.Helper()
	diffs, err := l.Check()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs {
		t.Errorf("check: %s", d)
	}
}

func (n *node) remove(i Interface) {
	n.t.Helper()
	link, err := netlink.LinkByIndex(i.Index)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		n.t.Fatal(err)
	}
}
