package loader

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// socketTest is run for each domain on maps as rig.reset leaves them.
type socketTest struct {
	name     string
	run      func(*testing.T, *sockets)
	counters counters // what it adds
	stats    serviceStats
}

func TestSockets(t *testing.T) {
	dir := inCgroup(t)
	if dir == "" {
		return
	}
	runSocketTests(t, dir, false, append(streams(), append(datagrams(), refusedSockets()...)...))
}

// TestSocketsFallback is for kernels on which a program can neither choose an error nor see the kernel's own structures.
func TestSocketsFallback(t *testing.T) {
	dir := inCgroup(t)
	if dir == "" {
		return
	}
	runSocketTests(t, dir, true, append(streams(), append(datagrams(), fallbacks()...)...))
}

func runSocketTests(t *testing.T, dir string, plain bool, tests []socketTest) {
	if !plain && features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) != nil {
		t.Skip("the kernel lets no program choose an error")
	}
	for _, d := range domains() {
		for _, x := range tests {
			t.Run(d.name+"/"+x.name, func(t *testing.T) {
				s := newSockets(t, dir, d, plain)
				x.run(t, s)
				if got := s.counters().minus(s.before); got != x.counters {
					t.Errorf("counters are %s, want %s", show(got), show(x.counters))
				}
				var sum serviceStats
				for id := range uint32(40) {
					one := s.stats(id)
					sum.Connections += one.Connections
					sum.Refused += one.Refused
				}
				if sum != x.stats {
					t.Errorf("stats are %+v, want %+v", sum, x.stats)
				}
			})
		}
	}
}

func streams() []socketTest {
	return []socketTest{{
		name: "TCP through a VIP",
		run: func(t *testing.T, s *sockets) {
			defer s.serveTCP("B:7000")()
			fd := s.stream()
			if err := unix.Connect(fd, s.sockaddr("V:80")); err != nil {
				t.Fatal(err)
			}
			if got := s.peer(fd); got != "V:80" {
				t.Errorf("peer is %s, want V:80", got)
			}
			s.service("V:80", protoTCP, 1)
			s.freeBackend(1, protoTCP)
			if got := s.peer(fd); got != "V:80" {
				t.Errorf("peer is %s after the backend left, want V:80", got)
			}
			if text, _ := s.receive(fd); text != "B:7000" {
				t.Errorf("%s answered, want B:7000", text)
			}
		},
		counters: counters{SockTranslated: 1}, stats: serviceStats{Connections: 1},
	}, {
		name: "TCP to the backend itself",
		run: func(t *testing.T, s *sockets) {
			defer s.serveTCP("B:7000")()
			fd := s.stream()
			if err := unix.Connect(fd, s.sockaddr("B:7000")); err != nil {
				t.Fatal(err)
			}
			if got := s.peer(fd); got != "B:7000" {
				t.Errorf("peer is %s, want B:7000", got)
			}
		},
	}, {
		name: "TCP spreads over the backends",
		run: func(t *testing.T, s *sockets) {
			defer s.serveTCP("B:7000")()
			defer s.serveTCP("C:7000")()
			s.service("V:80", protoTCP, 1, 1, 6)
			seen := map[string]int{}
			for range 64 {
				fd := s.stream()
				if err := unix.Connect(fd, s.sockaddr("V:80")); err != nil {
					t.Fatal(err)
				}
				text, _ := s.receive(fd)
				seen[text]++
			}
			// The odds that this fails by chance are less than 1 in 10^9.
			if len(seen) != 2 || seen["B:7000"] < 10 || seen["C:7000"] < 10 {
				t.Errorf("answers: %v", seen)
			}
		},
		counters: counters{SockTranslated: 64}, stats: serviceStats{Connections: 64},
	}, {
		name: "TCP to the backend itself, after its VIP was in vain",
		run: func(t *testing.T, s *sockets) {
			fd := s.stream()
			if err := unix.Connect(fd, s.sockaddr("V:80")); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("connect to a closed port: %v", err)
			}
			defer s.serveTCP("B:7000")()
			if err := unix.Connect(fd, s.sockaddr("B:7000")); err != nil {
				t.Fatal(err)
			}
			if got := s.peer(fd); got != "B:7000" {
				t.Errorf("peer is %s, want B:7000", got)
			}
		},
		counters: counters{SockTranslated: 1}, stats: serviceStats{Connections: 1},
	}}
}

func datagrams() []socketTest {
	return []socketTest{{
		name: "UDP, connected",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			fd := s.datagram()
			if err := unix.Connect(fd, s.sockaddr("V:80")); err != nil {
				t.Fatal(err)
			}
			if got := s.peer(fd); got != "V:80" {
				t.Errorf("peer is %s, want V:80", got)
			}
			for range 3 {
				if _, err := unix.Write(fd, []byte("?")); err != nil {
					t.Fatal(err)
				}
				if text, from := s.receive(fd); text != "B:7000" || from != "V:80" {
					t.Errorf("%s answered as %s", text, from)
				}
			}
		},
		counters: counters{SockTranslated: 1}, stats: serviceStats{Connections: 1},
	}, {
		name: "UDP, connected to the backend itself afterwards",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			fd := s.datagram()
			for _, to := range []string{"V:80", "B:7000", "V:80"} {
				if err := unix.Connect(fd, s.sockaddr(to)); err != nil {
					t.Fatal(err)
				}
				if got := s.peer(fd); got != to {
					t.Errorf("peer is %s, want %s", got, to)
				}
				unix.Write(fd, []byte("?"))
				if text, from := s.receive(fd); text != "B:7000" || from != to {
					t.Errorf("%s answered as %s, want as %s", text, from, to)
				}
			}
		},
		counters: counters{SockTranslated: 2}, stats: serviceStats{Connections: 2},
	}, {
		name: "UDP, unconnected, stays with its backend",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			s.serveUDP("C:7000")
			s.service("V:80", protoUDP, 1, 1, 6)
			seen := map[string]int{}
			for range 64 {
				fd := s.datagram()
				first := s.ask(fd, "V:80")
				seen[first]++
				for range 5 {
					s.ask(fd, "V:80", first)
				}
			}
			if len(seen) != 2 || seen["B:7000"] < 10 || seen["C:7000"] < 10 {
				t.Errorf("answers: %v", seen)
			}
		},
		counters: counters{SockTranslated: 64}, stats: serviceStats{Connections: 64},
	}, {
		name: "UDP, unconnected, leaves a backend that is out of service",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			s.serveUDP("C:7000")
			fd := s.datagram()
			s.ask(fd, "V:80", "B:7000")
			s.service("V:80", protoUDP, 1, 6)
			s.ask(fd, "V:80", "B:7000") // it is still in service
			s.freeBackend(1, protoUDP)
			s.ask(fd, "V:80", "C:7000")
			s.ask(fd, "V:80", "C:7000")
		},
		counters: counters{SockTranslated: 2}, stats: serviceStats{Connections: 2},
	}, {
		name: "UDP, unconnected, leaves a backend whose id is another service's now",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			s.serveUDP("C:7000")
			fd := s.datagram()
			s.ask(fd, "V:80", "B:7000")
			s.service("V:80", protoUDP, 1, 6)
			s.backend(1, "B:7000", protoUDP, 2)
			s.ask(fd, "V:80", "C:7000")
		},
		counters: counters{SockTranslated: 2}, stats: serviceStats{Connections: 2},
	}, {
		name: "UDP, unconnected, to two VIPs",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			s.serveUDP("C:7000")
			s.backend(2, "C:7000", protoUDP, 2)
			fd := s.datagram()
			for range 3 {
				s.ask(fd, "V:80", "B:7000")
				s.ask(fd, "W:81", "C:7000")
			}
		},
		counters: counters{SockTranslated: 2}, stats: serviceStats{Connections: 2},
	}, {
		name: "UDP, unconnected, to two VIPs of one backend",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			fd := s.datagram()
			for range 3 {
				s.ask(fd, "V:80", "B:7000")
				s.ask(fd, "W:81", "B:7000")
			}
		},
		counters: counters{SockTranslated: 2}, stats: serviceStats{Connections: 2},
	}, {
		name: "UDP, unconnected, to two VIPs that another backend has, too",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			s.serveUDP("C:7000")
			s.backend(3, "C:7000", protoUDP, 2)
			s.service("W:81", protoUDP, 2, 2, 3)
			for range 16 {
				fd := s.datagram()
				s.ask(fd, "V:80", "B:7000")
				s.ask(fd, "W:81", "C:7000") // B's answers would be from V or from W
				s.ask(fd, "V:80", "B:7000")
				s.ask(fd, "W:81", "C:7000")
			}
		},
		counters: counters{SockTranslated: 32}, stats: serviceStats{Connections: 32},
	}, {
		name: "UDP, unconnected, to a VIP and to its backend itself",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			fd := s.datagram()
			for range 2 {
				s.ask(fd, "V:80", "B:7000")
				s.ask(fd, "B:7000", "B:7000")
			}
		},
		counters: counters{SockTranslated: 1}, stats: serviceStats{Connections: 1},
	}, {
		name: "UDP, unconnected, keeps to a backend that drains",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			s.serveUDP("C:7000")
			old, connected := s.datagram(), s.datagram()
			s.ask(old, "V:80", "B:7000")
			if err := unix.Connect(connected, s.sockaddr("V:80")); err != nil {
				t.Fatal(err)
			}
			s.drainBackend(1, protoUDP)
			s.service("V:80", protoUDP, 1, 6)
			for range 4 {
				s.ask(old, "V:80", "B:7000")
				s.ask(s.datagram(), "V:80", "C:7000")
			}
			if _, err := unix.Write(connected, []byte("?")); err != nil {
				t.Fatal(err)
			}
			if text, from := s.receive(connected); text != "B:7000" || from != "V:80" {
				t.Errorf("%s answered as %s", text, from)
			}
		},
		counters: counters{SockTranslated: 6}, stats: serviceStats{Connections: 6},
	}, {
		name: "sockets mark the backends that they use",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			s.serveUDP("C:7000")
			s.service("V:80", protoUDP, 1, 6)
			s.ask(s.datagram(), "V:80", "C:7000")
			if err := unix.Connect(s.datagram(), s.sockaddr("W:81")); err != nil {
				t.Fatal(err)
			}
			for id, want := range map[uint32]uint32{1: 0, 2: 1, 6: 1} {
				var b backend
				if s.lookup("backends", number(id, protoUDP), &b); b.Used != want {
					t.Errorf("backend %d has used %d, want %d", id, b.Used, want)
				}
			}
		},
		counters: counters{SockTranslated: 2}, stats: serviceStats{Connections: 2},
	}, {
		name: "UDP, unconnected, when the map has forgotten it",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			fd := s.datagram()
			s.ask(fd, "V:80", "B:7000")
			s.forgetPeers()
			s.ask(fd, "V:80", "B:7000")
			s.empty("sock_choices")
			s.ask(fd, "V:80", "B:7000")
		},
		counters: counters{SockTranslated: 2}, stats: serviceStats{Connections: 2},
	}, {
		name: "UDP to no service",
		run: func(t *testing.T, s *sockets) {
			s.serveUDP("B:7000")
			s.serveUDP("A:9")
			fd := s.datagram()
			s.ask(fd, "B:7000", "B:7000")
			s.ask(fd, "A:9", "A:9")
		},
	}, {
		name: "other protocols",
		run: func(t *testing.T, s *sockets) {
			const udpLite = 136
			ping := unix.IPPROTO_ICMP
			if s.f.v6 {
				ping = unix.IPPROTO_ICMPV6
			}
			for _, x := range []struct{ typ, proto int }{
				{unix.SOCK_DGRAM, udpLite}, {unix.SOCK_RAW, 253}, {unix.SOCK_RAW, ping},
			} {
				fd, err := unix.Socket(s.d.number(), x.typ|unix.SOCK_CLOEXEC, x.proto)
				if errors.Is(err, unix.EPROTONOSUPPORT) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				// There is no way to a VIP: where it is not translated, it cannot be reached.
				if err := unix.Connect(fd, s.sockaddr("V:80")); !errors.Is(err, unix.ENETUNREACH) {
					t.Errorf("protocol %d: %v, want %v", x.proto, err, unix.ENETUNREACH)
				}
				unix.Close(fd)
			}
		},
	}}
}

// vain calls VIPs at which no one is: a service without backends, and a port that is no service.
func vain(t *testing.T, s *sockets, call func(to string) error, want error) {
	t.Helper()
	for _, to := range []string{"V:90", "V:7"} {
		if err := call(to); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", to, err, want)
		}
	}
}

func refusedSockets() []socketTest {
	c, stats := counters{SockRefused: 2}, serviceStats{Refused: 1}
	connect := func(open func(*sockets) int) func(*testing.T, *sockets) {
		return func(t *testing.T, s *sockets) {
			vain(t, s, func(to string) error { return unix.Connect(open(s), s.sockaddr(to)) },
				unix.ECONNREFUSED)
		}
	}
	return []socketTest{
		{"TCP to no one", connect((*sockets).stream), c, stats},
		{"UDP, connected, to no one", connect((*sockets).datagram), c, stats},
		{"UDP, unconnected, to no one", func(t *testing.T, s *sockets) {
			fd := s.datagram()
			vain(t, s, func(to string) error { return unix.Sendto(fd, []byte("?"), 0, s.sockaddr(to)) },
				unix.ECONNREFUSED)
		}, c, stats},
	}
}

func fallbacks() []socketTest {
	c, stats := counters{SockRefused: 2}, serviceStats{Refused: 1}
	return []socketTest{
		{"TCP to no one", func(t *testing.T, s *sockets) {
			vain(t, s, func(to string) error { return unix.Connect(s.stream(), s.sockaddr(to)) },
				unix.ECONNREFUSED)
		}, c, stats},
		// A datagram socket's connect sends nothing: it is the first answer that refuses. An IPv6
		// socket with an IPv4 peer does not even send to port 0.
		{"UDP, connected, to no one", func(t *testing.T, s *sockets) {
			vain(t, s, func(to string) error {
				fd := s.datagram()
				if err := unix.Connect(fd, s.sockaddr(to)); err != nil {
					return err
				}
				if _, err := unix.Write(fd, []byte("?")); err != nil {
					return err
				}
				return uninterrupted(func() error {
					_, err := unix.Read(fd, make([]byte, 1))
					return err
				})
			}, map[bool]error{false: unix.ECONNREFUSED, true: unix.EINVAL}[s.d.mapped])
		}, c, stats},
		{"UDP, unconnected, to no one", func(t *testing.T, s *sockets) {
			fd := s.datagram()
			vain(t, s, func(to string) error { return unix.Sendto(fd, []byte("?"), 0, s.sockaddr(to)) },
				unix.EPERM)
		}, c, stats},
	}
}
