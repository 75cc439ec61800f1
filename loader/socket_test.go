package loader

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cgroupVariable tells a test binary that it runs in this cgroup, for its socket tests.
const cgroupVariable = "SLUICE_TEST_CGROUP"

// inCgroup runs the test once more, in a process of its own in a cgroup of its own, and returns "". In
// that process it returns the cgroup's directory. What is skipped there as a whole is skipped.
func inCgroup(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv(cgroupVariable); dir != "" {
		return dir
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := newCgroup(t)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.timeout=3m", "-test.v")
	cmd.Env = append(os.Environ(), cgroupVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if said, _, skipped := bytes.Cut(out, []byte("\n--- SKIP: "+t.Name()+" ")); skipped {
		_, why, _ := bytes.Cut(said, []byte("\n")) // === RUN
		t.Skip(string(bytes.TrimSpace(why)))
	}
	return ""
}

// domain is a kind of socket and the addresses it is used with.
type domain struct {
	name   string
	f      family
	mapped bool // IPv6 sockets with IPv4 addresses
}

func domains() []domain {
	f := families()
	return []domain{{"ipv4", f[0], false}, {"ipv6", f[1], false}, {"mapped", f[0], true}}
}

func (d domain) number() int {
	if d.f.v6 || d.mapped {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// sockets are a rig with the socket programs attached to this process's cgroup, in a namespace whose
// loopback has the addresses of A, B and C. Nothing else can be reached there.
type sockets struct {
	*rig
	d domain
}

// newSockets takes plain to be what it is in rigOptions.
func newSockets(t *testing.T, dir string, d domain, plain bool) *sockets {
	t.Helper()
	n := newNetspace(t)
	s := &sockets{d: d, rig: &rig{t: t, f: d.f, netns: n.fd, ifindex: map[string]uint32{}}}
	s.enter()
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
	spec, err := loadSock()
	if err != nil {
		t.Fatal(err)
	}
	cfg := podConfig(t, plain)
	unpinned(t, spec, cfg)
	if s.coll, err = ebpf.NewCollection(spec); err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(s.coll.Close)
	for name, p := range spec.Programs {
		l, err := link.AttachCgroup(link.CgroupOptions{
			Path: dir, Attach: p.AttachType, Program: s.coll.Programs[name],
		})
		if err != nil {
			t.Fatalf("attach %s: %v", name, err)
		}
		t.Cleanup(func() { l.Close() })
	}
	s.reset()
	return s
}

// sockaddr is an endpoint of a fixture as the domain's sockets want it.
func (s *sockets) sockaddr(endpoint string) unix.Sockaddr {
	name, port := parseEndpoint(endpoint)
	a := s.f.addr(name)
	if s.d.number() == unix.AF_INET6 {
		return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
	}
	return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
}

// name writes a socket's address as fixtures do. IPv4 as an IPv6 socket shows it is the same.
func (s *sockets) name(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return s.who(toAddress(netip.AddrFrom4(sa.Addr)), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return s.who(address{Bytes: sa.Addr}, uint16(sa.Port))
	}
	return fmt.Sprintf("%T", sa)
}

// socket opens one, and closes it at the test's end.
func (s *sockets) socket(typ, proto int) int {
	s.t.Helper()
	fd, err := unix.Socket(s.d.number(), typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { unix.Close(fd) })
	wait := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		s.t.Fatal(err)
	}
	return fd
}

func (s *sockets) stream() int   { s.t.Helper(); return s.socket(unix.SOCK_STREAM, 0) }
func (s *sockets) datagram() int { s.t.Helper(); return s.socket(unix.SOCK_DGRAM, 0) }

// serveTCP says the endpoint's name to each connection, until close is called.
func (s *sockets) serveTCP(endpoint string) (close func()) {
	s.t.Helper()
	fd := s.stream()
	err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{}),
		unix.Bind(fd, s.sockaddr(endpoint)), unix.Listen(fd, 16))
	if err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		for {
			c, _, err := unix.Accept(fd)
			if err != nil {
				break
			}
			unix.Write(c, []byte(endpoint))
			unix.Close(c)
		}
		ended <- struct{}{}
	}()
	return func() { unix.Shutdown(fd, unix.SHUT_RDWR); <-ended }
}

// serveUDP answers each datagram with the endpoint's name.
func (s *sockets) serveUDP(endpoint string) {
	s.t.Helper()
	fd := s.datagram()
	err := errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{}),
		unix.Bind(fd, s.sockaddr(endpoint)))
	if err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	s.t.Cleanup(func() { unix.Shutdown(fd, unix.SHUT_RDWR); <-ended })
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil || n == 0 || from == nil {
				break
			}
			unix.Sendto(fd, []byte(endpoint), 0, from)
		}
		close(ended)
	}()
}

// peer is whom the socket says it is connected to.
func (s *sockets) peer(fd int) string {
	s.t.Helper()
	sa, err := unix.Getpeername(fd)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.name(sa)
}

// uninterrupted calls f again when a signal ended it: a call with a timeout is not restarted by the
// kernel, and Go's runtime sends itself signals.
func uninterrupted(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive returns what came, and from whom as the application sees it.
func (s *sockets) receive(fd int) (text, from string) {
	s.t.Helper()
	b := make([]byte, 100)
	var n int
	var sa unix.Sockaddr
	err := uninterrupted(func() (err error) {
		n, sa, err = unix.Recvfrom(fd, b, 0)
		return err
	})
	if err != nil {
		s.t.Fatalf("receive: %v", err)
	}
	if sa == nil {
		return string(b[:n]), ""
	}
	return string(b[:n]), s.name(sa)
}

// ask sends a datagram to an endpoint and expects an answer by whom, seen as from the same endpoint.
func (s *sockets) ask(fd int, to string, by ...string) string {
	s.t.Helper()
	if err := unix.Sendto(fd, []byte("?"), 0, s.sockaddr(to)); err != nil {
		s.t.Fatalf("send to %s: %v", to, err)
	}
	text, from := s.receive(fd)
	if from != to {
		s.t.Errorf("answer is from %s, want %s", from, to)
	}
	if len(by) > 0 && text != by[0] {
		s.t.Errorf("answer is %s's, want %s's", text, by[0])
	}
	return text
}
