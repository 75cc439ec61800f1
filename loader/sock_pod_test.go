package loader

import (
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// newPodSockets are sockets in the container A of wires, with the socket programs attached to this
// process's cgroup. The test's goroutine is in A.
func newPodSockets(t *testing.T, dir string, d domain) (*sockets, *wires) {
	t.Helper()
	w := newWires(t, d.f)
	s := &sockets{rig: w.rig, d: d}
	s.attachSockets(dir)
	s.put("namespaces", w.pods["A"].cookie(), namespace{Endpoint: 1})
	s.in(w.pods["A"])
	return s, w
}

// attachSockets attaches the socket programs, which share the rig's maps.
func (s *sockets) attachSockets(dir string) {
	s.t.Helper()
	spec, err := loadSock()
	if err != nil {
		s.t.Fatal(err)
	}
	shared := s.shared(spec)
	unpinned(s.t, spec, podConfig(s.t, false))
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		s.t.Fatalf("%+v", err)
	}
	s.t.Cleanup(coll.Close)
	for name, p := range spec.Programs {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: p.AttachType, Program: coll.Programs[name]})
		if err != nil {
			s.t.Fatalf("attach %s: %v", name, err)
		}
		s.t.Cleanup(func() { l.Close() })
	}
	for name, m := range coll.Maps {
		if s.coll.Maps[name] == nil { // from_pod has no use for it
			s.coll.Maps[name] = m
		}
	}
}

// shared returns the rig's maps that the spec has, too.
func (s *sockets) shared(spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	maps := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if have := s.coll.Maps[name]; have != nil && m.Pinning == ebpf.PinByName {
			maps[name] = have
		}
	}
	return maps
}

// in moves the test's goroutine, which may be a subtest's, to a namespace.
func (s *sockets) in(n *netspace) {
	s.t.Helper()
	runtime.LockOSThread() // see newRig
	if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
		s.t.Fatal(err)
	}
}

// cookie is the kernel's number of the namespace.
func (n *netspace) cookie() (cookie uint64) {
	n.t.Helper()
	err := n.try(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if errors.Is(err, unix.ENOPROTOOPT) {
		n.t.Skip("the kernel tells no cookie of a network namespace")
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return cookie
}

// bound opens a socket that shares its source port with others.
func (s *sockets) bound(typ int, port string) int {
	s.t.Helper()
	fd := s.socket(typ, 0)
	err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, s.sockaddr("A:"+port)))
	if err != nil {
		s.t.Fatal(err)
	}
	return fd
}

// TestSocketsOfContainers has sockets where from_pod sees every packet: what hooks cannot tell apart they
// leave to it, so that every answer comes from the address that was asked.
func TestSocketsOfContainers(t *testing.T) {
	dir := inCgroup(t)
	if dir == "" {
		return
	}
	tests := []struct {
		name     string
		run      func(*testing.T, *sockets, *wires)
		counters counters // of what hooks did, and of ports that from_pod rewrote
	}{
		{"TCP from one port to two VIPs of one backend, and to the backend", podStreams, counters{PortsRewritten: 2}},
		{"UDP from one port, connected", podConnected, counters{PortsRewritten: 2}},
		{"UDP from one socket", podDatagrams, counters{PortsRewritten: 2}},
		{"no port yet", podUnbound, counters{SockTranslated: 2}},
		{"no one there", podRefused, counters{SockRefused: 6}},
		{"another port of a shared address", podShared, counters{}},
		{"no connection any more", podDisconnected, counters{SockTranslated: 1}},
		{"another VIP", podReconnected, counters{SockTranslated: 1, PortsRewritten: 2}},
	}
	for _, d := range domains() {
		for _, x := range tests {
			t.Run(d.name+"/"+x.name, func(t *testing.T) {
				s, w := newPodSockets(t, dir, d)
				x.run(t, s, w)
				c := s.counters().minus(s.before)
				got := counters{SockTranslated: c.SockTranslated, SockRefused: c.SockRefused, PortsRewritten: c.PortsRewritten}
				if got != x.counters {
					t.Errorf("counters are %s, want %s", show(got), show(x.counters))
				}
				w.noDrops()
			})
		}
	}
}

// serve has B and C answer at port 7000.
func (s *sockets) serve(w *wires) {
	s.t.Helper()
	for _, name := range []string{"B", "C"} {
		s.in(w.pods[name])
		s.t.Cleanup(s.serveTCP(name + ":7000"))
		s.serveUDP(name + ":7000")
	}
	s.in(w.pods["A"])
}

func podStreams(t *testing.T, s *sockets, w *wires) {
	s.serve(w)
	for _, to := range []string{"V:80", "W:81", "B:7000"} {
		fd := s.bound(unix.SOCK_STREAM, "4444")
		if err := unix.Connect(fd, s.sockaddr(to)); err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		if got := s.peer(fd); got != to {
			t.Errorf("peer is %s, want %s", got, to)
		}
		if text, _ := s.receive(fd); text != "B:7000" {
			t.Errorf("%s: %s answered, want B:7000", to, text)
		}
	}
}

func podConnected(t *testing.T, s *sockets, w *wires) {
	s.serve(w)
	fds := map[string]int{}
	for _, to := range []string{"V:80", "W:81", "B:7000"} {
		fds[to] = s.bound(unix.SOCK_DGRAM, "4444")
		if err := unix.Connect(fds[to], s.sockaddr(to)); err != nil {
			t.Fatalf("%s: %v", to, err)
		}
	}
	for to, fd := range fds {
		if _, err := unix.Write(fd, []byte("?")); err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		if text, from := s.receive(fd); text != "B:7000" || from != to {
			t.Errorf("%s: %s answered as %s", to, text, from)
		}
	}
}

func podDatagrams(t *testing.T, s *sockets, w *wires) {
	s.serve(w)
	fd := s.datagram()
	for range 3 {
		for _, to := range []string{"V:80", "W:81", "B:7000"} {
			s.ask(fd, to, "B:7000")
		}
	}
	// All asked before the first is heard.
	want := map[string]bool{}
	for _, to := range []string{"W:81", "B:7000", "V:80"} {
		if err := unix.Sendto(fd, []byte("?"), 0, s.sockaddr(to)); err != nil {
			t.Fatal(err)
		}
		want[to] = true
	}
	for range len(want) {
		_, from := s.receive(fd)
		if !want[from] {
			t.Errorf("an answer is from %s, want one from each of %v", from, want)
		}
		delete(want, from)
	}
}

func podUnbound(t *testing.T, s *sockets, w *wires) {
	s.serve(w)
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
		fd := s.socket(typ, 0)
		if err := unix.Connect(fd, s.sockaddr("V:80")); err != nil {
			t.Fatal(err)
		}
		if got := s.peer(fd); got != "V:80" {
			t.Errorf("peer is %s, want V:80", got)
		}
	}
}

func podRefused(t *testing.T, s *sockets, _ *wires) {
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
		vain(t, s, func(to string) error { return unix.Connect(s.bound(typ, "4444"), s.sockaddr(to)) },
			unix.ECONNREFUSED)
	}
	fd := s.datagram()
	vain(t, s, func(to string) error { return unix.Sendto(fd, []byte("?"), 0, s.sockaddr(to)) },
		unix.ECONNREFUSED)
}

// podShared takes V's mark away: its other ports are as if there were no service.
func podShared(t *testing.T, s *sockets, w *wires) {
	s.remove("services", markerKey(s.f.addr("V")))
	for _, port := range []string{"7000", "7001"} {
		s.in(w.pods["B"])
		s.t.Cleanup(s.serveTCP("B:" + port))
	}
	s.in(w.pods["A"])
	s.put("services", serviceKey{Addr: toAddress(s.f.addr("B")), Port: 80, Proto: protoTCP}, s.serviceAt("V:80"))
	for to, by := range map[string]string{"B:80": "B:7000", "B:7001": "B:7001"} {
		fd := s.bound(unix.SOCK_STREAM, "0")
		if err := unix.Connect(fd, s.sockaddr(to)); err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		if text, _ := s.receive(fd); text != by {
			t.Errorf("%s: %s answered, want %s", to, text, by)
		}
	}
}

// serviceAt reads a TCP service's entry.
func (s *sockets) serviceAt(at string) (v service) {
	s.t.Helper()
	name, port := parseEndpoint(at)
	s.lookup("services", serviceKey{Addr: toAddress(s.f.addr(name)), Port: port, Proto: protoTCP}, &v)
	return v
}

// podDisconnected: what a hook remembered of a connection says nothing about the socket's datagrams.
func podDisconnected(t *testing.T, s *sockets, w *wires) {
	s.serve(w)
	fd := s.datagram()
	if err := unix.Connect(fd, s.sockaddr("V:80")); err != nil {
		t.Fatal(err)
	}
	if err := disconnect(fd); err != nil {
		t.Fatal(err)
	}
	// (An IPv6 socket goes on to hear its former peer alone: __udp_disconnect leaves sk_v6_daddr.)
	for range 2 {
		s.ask(fd, "B:7000", "B:7000")
	}
}

// disconnect makes a connected datagram socket one that is not.
func disconnect(fd int) error {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return errno
	}
	return nil
}

// podReconnected connects a socket that has its port from an earlier connection.
func podReconnected(t *testing.T, s *sockets, w *wires) {
	s.serve(w)
	fd := s.datagram()
	for _, to := range []string{"V:80", "W:81", "B:7000", "V:80"} {
		if err := unix.Connect(fd, s.sockaddr(to)); err != nil {
			t.Fatal(err)
		}
		if got := s.peer(fd); got != to {
			t.Errorf("peer is %s, want %s", got, to)
		}
		if _, err := unix.Write(fd, []byte("?")); err != nil {
			t.Fatal(err)
		}
		if text, from := s.receive(fd); text != "B:7000" || from != to {
			t.Errorf("%s answered as %s, want as %s", text, from, to)
		}
	}
}
