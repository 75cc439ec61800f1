package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sluice-net/sluice/registry"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sweepRig is a node whose agent serves this process's sockets, and a namespace with clients, whose
// loopback has the addresses of A, B and C. B and C answer there at port 7000.
type sweepRig struct {
	*sockets
	node   *node
	home   *netspace
	client *netspace
	l      *Loader
	paths  []string // that the agent is told
	listed error    // the same
}

func newSweepRig(t *testing.T, dir string, d domain) *sweepRig {
	t.Helper()
	r := &sweepRig{node: newNode(t), client: newNetspace(t)}
	r.node.cgroup = dir
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(home) })
	r.home = &netspace{t: t, fd: home}
	r.sockets = &sockets{d: d, rig: &rig{t: t, f: d.f, netns: r.client.fd}}
	r.paths = []string{fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.client.fd)}
	r.l = r.node.open(r.options())
	r.in(r.client)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"A", "B", "C"} {
		a := &netlink.Addr{IPNet: netlink.NewIPNet(d.f.addr(name).AsSlice()), Flags: unix.IFA_F_NODAD}
		if err := errors.Join(netlink.AddrAdd(lo, a), awaitAddress(d.f.addr(name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"B:7000", "C:7000"} {
		r.serveUDP(name)
		r.accept(name)
	}
	return r
}

func (r *sweepRig) options() Options {
	o := r.node.options()
	o.Sizes.SockOrigin, o.Sizes.SockChoices = 4096, 4096
	o.Namespaces = func() ([]string, error) { return r.paths, r.listed }
	return o
}

// accept takes connections and is silent.
func (r *sweepRig) accept(endpoint string) {
	r.t.Helper()
	fd := r.stream()
	if err := errors.Join(unix.Bind(fd, r.sockaddr(endpoint)), unix.Listen(fd, 16)); err != nil {
		r.t.Fatal(err)
	}
}

// service is V:80 or W:81 with these backends.
func (r *sweepRig) service(at string, proto registry.Protocol, backends ...string) registry.Resolved {
	name, port := parseEndpoint(at)
	v := registry.Resolved{
		Frontend: registry.Frontend{Addr: r.f.addr(name), Port: port, Protocol: proto},
		Service:  registry.Name{Namespace: "default", Name: strings.ToLower(name)},
	}
	for _, b := range backends {
		name, port := parseEndpoint(strings.TrimPrefix(b, "-"))
		e := registry.Evenly(netip.AddrPortFrom(r.f.addr(name), port))[0]
		e.Draining = strings.HasPrefix(b, "-")
		v.Backends = append(v.Backends, e)
	}
	return v
}

func (r *sweepRig) sync(services ...registry.Resolved) {
	r.t.Helper()
	if err := r.l.Sync(registry.Update{Revision: 1, Set: services, Snapshot: !r.l.syncer.synced}); err != nil {
		r.t.Fatal(err)
	}
}

// connected returns a socket in the clients' namespace.
func (r *sweepRig) connected(typ int, to string) int {
	r.t.Helper()
	r.in(r.client)
	fd := r.socket(typ, 0)
	if err := unix.Connect(fd, r.sockaddr(to)); err != nil {
		r.t.Fatalf("connect to %s: %v", to, err)
	}
	return fd
}

// ended waits in a read until the socket is destroyed.
func (r *sweepRig) ended(fd int) {
	r.t.Helper()
	err := uninterrupted(func() error {
		_, err := unix.Read(fd, make([]byte, 1))
		return err
	})
	if !errors.Is(err, unix.ECONNABORTED) {
		r.t.Errorf("read: %v, want %v", err, unix.ECONNABORTED)
	}
}

// lives fails the test when the socket was destroyed.
func (r *sweepRig) lives(what string, fd int) {
	r.t.Helper()
	if e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
		r.t.Errorf("%s has error %v, %v", what, unix.Errno(e), err)
	}
	if _, err := unix.Getpeername(fd); err != nil {
		r.t.Errorf("%s: %v", what, err)
	}
}

func eachSweep(t *testing.T, test func(*testing.T, *sweepRig)) {
	dir := inCgroup(t)
	if dir == "" {
		return
	}
	for _, d := range domains() {
		t.Run(d.name, func(t *testing.T) { test(t, newSweepRig(t, dir, d)) })
	}
}

// TestSweepUDP takes a backend out of a service.
func TestSweepUDP(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		r.sync(r.service("V:80", registry.UDP, "B:7000"), r.service("W:81", registry.UDP, "B:7000"))
		lost, waiting := r.connected(unix.SOCK_DGRAM, "V:80"), r.connected(unix.SOCK_DGRAM, "V:80")
		direct, other := r.connected(unix.SOCK_DGRAM, "B:7000"), r.connected(unix.SOCK_DGRAM, "W:81")
		free := r.datagram()
		r.ask(free, "V:80", "B:7000")

		r.sync(r.service("V:80", registry.UDP, "-B:7000", "C:7000"))
		for range 4 {
			r.lives("a socket to a backend that drains", lost)
		}
		r.sync(r.service("V:80", registry.UDP, "C:7000"))
		r.ended(lost)
		r.ended(waiting)
		if err := unix.Connect(lost, r.sockaddr("V:80")); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(lost, []byte("?")); err != nil {
			t.Fatal(err)
		}
		if text, from := r.receive(lost); text != "C:7000" || from != "V:80" {
			t.Errorf("after its next connect %s answers as %s", text, from)
		}
		r.lives("a socket to the backend itself", direct)
		r.lives("a socket to another VIP of the backend", other)
		r.ask(free, "V:80", "C:7000")
		if err := r.l.Swept(); err != nil {
			t.Error(err)
		}
	})
}

// TestSweepTCP takes a backend out of its service, and then its container away.
func TestSweepTCP(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		b := r.wire("B")
		r.sync(r.service("V:80", registry.TCP, "B:7000"), r.service("W:81", registry.UDP, "B:7000"))
		lost, direct := r.connected(unix.SOCK_STREAM, "V:80"), r.connected(unix.SOCK_STREAM, "B:7000")
		witness := r.connected(unix.SOCK_DGRAM, "W:81")
		r.sync(r.service("V:80", registry.TCP, "C:7000"), r.service("W:81", registry.UDP, "C:7000"))
		r.ended(witness)
		r.lives("a stream to a container that lives", lost)
		if err := r.l.DetachInterface(b.Name); err != nil {
			t.Fatal(err)
		}
		r.ended(lost)
		r.lives("a stream to the container itself", direct)
	})
}

// TestSweepDetached takes a container away whose services do not know it yet.
func TestSweepDetached(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		b := r.wire("B")
		r.sync(r.service("V:80", registry.TCP, "B:7000"), r.service("V:80", registry.UDP, "B:7000"))
		stream, datagram := r.connected(unix.SOCK_STREAM, "V:80"), r.connected(unix.SOCK_DGRAM, "V:80")
		if err := r.l.DetachInterface(b.Name); err != nil {
			t.Fatal(err)
		}
		r.ended(stream)
		r.ended(datagram)
	})
}

// wire attaches a veth, whose container has an address of a fixture.
func (r *sweepRig) wire(name string) Interface {
	r.t.Helper()
	r.in(r.home)
	i := r.node.veth(1)
	i.Addrs = []netip.Addr{r.f.addr(name)}
	i.MAC = net.HardwareAddr{2, 0, 0, 0, 1, 1}
	if err := r.l.Attach(i); err != nil {
		r.t.Fatal(err)
	}
	return i
}

// TestSweepOwnNamespace has a socket of the node itself.
func TestSweepOwnNamespace(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		r.in(r.home)
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		a := &netlink.Addr{IPNet: netlink.NewIPNet(r.f.addr("B").AsSlice()), Flags: unix.IFA_F_NODAD}
		if err := errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, a), awaitAddress(r.f.addr("B"))); err != nil {
			t.Fatal(err)
		}
		r.paths = append(r.paths, "/proc/self/task/1/none") // gone since it was listed
		r.sync(r.service("V:80", registry.UDP, "B:7000"))
		fd := r.datagram()
		if err := unix.Connect(fd, r.sockaddr("V:80")); err != nil {
			t.Fatal(err)
		}
		r.sync(r.service("V:80", registry.UDP))
		r.ended(fd)
		if err := r.l.Swept(); err != nil {
			t.Error(err)
		}
	})
}

// TestSweepAfterRestart: an agent dies when it has freed a backend, before it has looked for sockets.
func TestSweepAfterRestart(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		r.in(r.home)
		r.l.Close()
		o := r.options()
		o.Namespaces = nil
		r.l = r.node.open(o)
		r.sync(r.service("V:80", registry.UDP, "B:7000"))
		fd := r.connected(unix.SOCK_DGRAM, "V:80")
		r.sync(r.service("V:80", registry.UDP, "C:7000"))
		r.lives("a socket that nobody looked for", fd)
		r.in(r.home)
		r.l.Close()
		r.l = r.node.open(r.options())
		r.ended(fd)
	})
}

// TestSweepCannotEnter has namespaces that are none, or are not to be found: it is told, and the others are
// swept.
func TestSweepCannotEnter(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		file := filepath.Join(t.TempDir(), "netns")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r.paths = append([]string{file}, r.paths...)
		r.listed = errors.New("nobody knows")
		r.in(r.home)
		i := r.node.veth(1)
		attached(t, r.l, i, 1<<40)
		r.sync(r.service("V:80", registry.UDP, "B:7000"))
		fd := r.connected(unix.SOCK_DGRAM, "V:80")
		r.sync(r.service("V:80", registry.UDP, "C:7000"))
		r.ended(fd)
		var err error
		for deadline := time.Now().Add(patience); err == nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			err = r.l.Swept()
		}
		for _, want := range []string{file, "nobody knows", i.Name} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Swept says %v, which does not tell of %s", err, want)
			}
		}
		metrics := prometheus.NewRegistry()
		metrics.MustRegister(r.l.metrics.sweepErrors)
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if n := families[0].GetMetric()[0].GetCounter().GetValue(); n < 3 {
			t.Errorf("%v errors are counted, want 3", n)
		}
	})
}

// TestSweepEnds closes the agent while it sweeps: it leaves what it has not begun to its successor.
func TestSweepEnds(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		r.in(r.home)
		r.l.Close()
		o, sweeps := r.options(), make(chan bool)
		o.Namespaces = func() ([]string, error) {
			sweeps <- true
			<-sweeps
			return r.paths, nil
		}
		r.l = r.node.open(o)
		r.sync(r.service("V:80", registry.UDP, "B:7000"))
		fd := r.connected(unix.SOCK_DGRAM, "V:80")
		r.sync(r.service("V:80", registry.UDP, "C:7000"))
		<-sweeps
		r.l.sweeper.stop()
		sweeps <- true
		r.in(r.home)
		r.l.Close()
		r.lives("a socket that the sweep did not come to", fd)
		r.l = r.node.open(r.options())
		r.ended(fd)
	})
}
