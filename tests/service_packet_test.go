package tests

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// closed are a service's ports where no backend listens.
const closed = "ports: [{name: tcp, port: 80}, {name: udp, port: 80, protocol: UDP}, {name: sctp, port: 80, protocol: SCTP}]"

// packetRows are about packets that are not simply a request or its answer.
var packetRows = []row{
	{says: "an echo request to a VIP is answered", nets: "tcp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a"), s.service("none", "")))
		s.each(func(w way) {
			for _, service := range []string{"web", "none"} {
				for _, size := range []int{0, 56, 1400} {
					if _, err := s.do(w, report.Act{Do: report.Ping, To: s.vip(w, service), Size: size}); err != nil {
						s.Errorf("%s: ping of %s with %d bytes: %v", w, service, size, err)
					}
				}
			}
		})
	}},
	{says: "a port that no backend listens at is refused by the VIP", nets: "tcp udp", show: func(s *scene) {
		s.must(s.apply(s.service("web", closed), s.slices("web", "a port=9")))
		s.each(func(w way) { s.refused(w, s.vip(w, "web")) })
	}},
	{says: "an ICMP error about a datagram to a VIP is about that datagram, and comes from the VIP", nets: "udp", show: func(s *scene) {
		s.must(s.apply(s.service("web", closed), s.slices("web", "a port=9")))
		s.each(func(w way) {
			p := s.dialWith(w, report.Act{From: netip.AddrPortFrom(w.pick(netip.IPv4Unspecified(), netip.IPv6Unspecified()), 0), Errors: true})
			s.told(p, s.vip(w, "web"), unreachable(w, s.vip(w, "web")))
		})
	}},
	{says: "traceroute to a VIP ends at the VIP", nets: "udp", show: func(s *scene) {
		s.must(s.apply(s.service("web", closed), s.slices("web", "a port=9")))
		s.each(func(w way) {
			for ttl := 1; ttl <= 3; ttl++ {
				anywhere := w.pick(netip.IPv4Unspecified(), netip.IPv6Unspecified())
				p := s.dialWith(w, report.Act{From: netip.AddrPortFrom(anywhere, 0), Errors: true, TTL: ttl})
				s.told(p, s.vip(w, "web"), unreachable(w, s.vip(w, "web")))
			}
		})
	}},
	{says: "traceroute through a VIP to a backend beyond the node sees the node on its way", nets: "udp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "world")))
		s.each(func(w way) {
			anywhere := w.pick(netip.IPv4Unspecified(), netip.IPv6Unspecified())
			p := s.dialWith(w, report.Act{From: netip.AddrPortFrom(anywhere, 0), Errors: true, TTL: 1})
			want := report.ICMP{Errno: int(unix.EHOSTUNREACH), Type: 11, By: w.pick(nodeAddrs...), To: s.vip(w, "web")} // RFC 792
			if w.v6 {
				want.Type = 3 // RFC 4443, 3.3
			}
			s.told(p, s.vip(w, "web"), want)
		})
	}},
	{says: "a client learns at once that there is no way to the backend", nets: "tcp udp", show: func(s *scene) {
		lost := &nstest.Container{V4: netip.MustParseAddr("198.51.100.66"), V6: netip.MustParseAddr("2001:db8:66::66")}
		s.own["lost"] = lost
		s.must(s.node.InNetns(func() error { return errors.Join(noWay(lost.V4), noWay(lost.V6)) }))
		s.must(s.apply(s.service("web", ""), s.slices("web", "lost")))
		for i, w := range s.ways {
			// A client each, for the node sends one of them few errors a second.
			w.from = fmt.Sprint(i)
			s.container(w.from, nstest.Spec{Empty: true})
			want := unix.EHOSTUNREACH
			if w.v6 {
				want = unix.ENETUNREACH // how IPv6 says such a route
			}
			p, err := s.open(w, report.Act{To: s.vip(w, "web"), Errors: true})
			if err == nil {
				_, err = p.do(report.Act{Do: report.Ask})
			}
			if !errors.Is(err, want) {
				s.Errorf("%s: want %v: %v", w, want, err)
			}
		}
	}},
	{says: "a backend hears of a client that listens no more", nets: "udp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a port=7777")))
		s.each(func(w way) {
			backend := w
			backend.from, backend.tc = "a", true // translated by nobody: it answers
			at := s.addr(w, "a")
			server := s.dialWith(backend, report.Act{From: netip.AddrPortFrom(at.Addr(), 7777)})
			client := s.dial(w, s.vip(w, "web"))
			_, err := client.do(report.Act{Do: report.Send})
			s.must(err)
			did, err := server.do(report.Act{Do: report.Receive})
			s.must(err)
			if did.Peer != client.local {
				s.Errorf("%s: the backend sees %s, and the client is %s", w, did.Peer, client.local)
			}
			_, err = server.do(report.Act{Do: report.Connect, To: did.Peer})
			s.must(err)
			client.close()
			_, err = server.do(report.Act{Do: report.Send})
			s.must(err)
			if _, err := server.do(report.Act{Do: report.Receive}); !errors.Is(err, unix.ECONNREFUSED) {
				s.Errorf("%s: the backend hears %v, want that it is refused", w, err)
			}
			server.close()
		})
	}},
	{says: "large datagrams go through a VIP in fragments, both ways", nets: "udp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a")))
		s.each(func(w way) {
			for _, size := range []int{1473, 4000, 20000, 60000} {
				for _, p := range []*peer{s.dial(w, s.vip(w, "web")), s.loose(w)} {
					if did, err := p.do(report.Act{Do: report.Ask, Size: size, To: s.vip(w, "web")}); err != nil || did.Name != "a" {
						s.Errorf("%s, %d bytes: %q answers: %v", p, size, did.Name, err)
					}
				}
			}
		})
	}},
	{says: "long requests and answers pass whole, as segments that offload puts together", nets: "tcp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a")))
		s.each(func(w way) {
			p := s.dial(w, s.vip(w, "web"))
			if did, err := p.do(report.Act{Do: report.Ask, Size: 1 << 20}); err != nil || did.Name != "a" {
				s.Errorf("%s: %q answers: %v", p, did.Name, err)
			}
			p.close()
		})
	}},
	{says: "containers with jumbo frames, and such without, exchange them through a VIP", nets: "tcp udp", show: func(s *scene) {
		s.container("jumbo", nstest.Spec{MTU: 9000, Labels: map[string]string{"app": "x"}})
		s.container("small", nstest.Spec{MTU: 1400, Labels: map[string]string{"app": "y"}})
		s.must(s.apply(s.service("jumbos", "selector: {app: x}"), s.service("smalls", "selector: {app: y}")))
		s.each(func(w way) {
			for _, from := range []string{"client", "jumbo", "small"} {
				for service, name := range map[string]string{"jumbos": "jumbo", "smalls": "small"} {
					w.from = from
					p := s.dial(w, s.vip(w, service))
					for _, size := range []int{1000, 8000, 30000} {
						if did, err := p.do(report.Act{Do: report.Ask, Size: size}); err != nil || did.Name != s.namespace+"-"+name && did.Name != name {
							s.Errorf("%s, %d bytes: %q answers: %v", p, size, did.Name, err)
						}
					}
					p.close()
				}
			}
		})
	}},
	{says: "the path's MTU is found through a VIP", nets: "tcp udp", show: func(s *scene) {
		s.faraway("far", 1300)
		s.must(s.apply(s.service("web", ""), s.slices("web", "far")))
		s.each(func(w way) {
			to := s.vip(w, "web")
			if w.net == "tcp" {
				p := s.dial(w, to)
				if did, err := p.do(report.Act{Do: report.Ask, Size: 100000}); err != nil || did.Name != "far" {
					s.Errorf("%s: %q answers: %v", p, did.Name, err)
				}
				return
			}
			p := s.dialWith(w, report.Act{To: to, NoFragment: true, Errors: true})
			if _, err := p.do(report.Act{Do: report.Send, Size: 1400}); err != nil && !errors.Is(err, unix.EMSGSIZE) {
				s.Errorf("%s: %v", p, err)
			}
			if did, err := p.do(report.Act{Do: report.Trouble}); err != nil || did.ICMP.Errno != int(unix.EMSGSIZE) || did.ICMP.MTU != 1300 {
				s.Errorf("%s: a packet that is too big is told of by %+v: %v", p, did.ICMP, err)
			}
			if did, err := p.do(report.Act{Do: report.PathMTU}); err != nil || did.MTU != 1300 {
				s.Errorf("%s: MTU %d, want 1300: %v", p, did.MTU, err)
			}
			if did, err := p.do(report.Act{Do: report.Ask, Size: 1200}); err != nil || did.Name != "far" {
				s.Errorf("%s: %q answers: %v", p, did.Name, err)
			}
		})
	}},
	{says: "either side may say first that it has said all, and hears the rest", nets: "tcp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a")))
		s.each(func(w way) {
			p := s.dial(w, s.vip(w, "web"))
			_, err := p.do(report.Act{Do: report.Send})
			s.must(err)
			if did, err := p.do(report.Act{Do: report.Shutdown}); err != nil || did.Name != "a" {
				s.Errorf("%s: hears %q after its own end: %v", p, did.Name, err)
			}
			if did, err := p.do(report.Act{Do: report.Receive}); err != nil || did.Name != "" {
				s.Errorf("%s: hears %q instead of the end: %v", p, did.Name, err)
			}
			p.end()
		})
	}},
	{says: "both ends may open one connection", nets: "tcp", show: func(s *scene) {
		s.container("x", nstest.Spec{})
		s.must(s.apply(s.service("web", ""), s.slices("web", "x port=7788")))
		port := uint16(6070)
		s.each(func(w way) {
			at := netip.AddrPortFrom(s.addr(w, "x").Addr(), 7788)
			for _, to := range []netip.AddrPort{s.vip(w, "web"), at} {
				s.meet(w, report.Act{To: to}, at)
				s.meet(w, report.Act{To: to, From: s.from(w, "client", port)}, at)
				port++
			}
		})
	}},
	{says: "a source port is used again while the backend still waits in TIME_WAIT, or was reset", nets: "tcp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a", "b")))
		s.each(func(w way) {
			from := s.from(w, "client", 6030)
			for range 10 {
				p := s.dialWith(w, report.Act{From: from, To: s.vip(w, "web")})
				for _, a := range []report.Act{{Do: report.Ask, Last: true}, {Do: report.Receive}} {
					_, err := p.do(a)
					s.must(err)
				}
				p.end() // second: no TIME_WAIT stays here
				p = s.dialWith(w, report.Act{From: from, To: s.vip(w, "web")})
				p.asks("a", "b")
				p.close()
			}
		})
	}},
}

// meet opens a connection that its other end opens too, at a port where nobody listens: a SYN is answered by a SYN
// (RFC 9293, 3.5, where the first of them is lost).
func (s *scene) meet(w way, client report.Act, at netip.AddrPort) {
	s.Helper()
	backend := w
	backend.from, backend.tc = "x", true // translated by nobody: it answers
	deaf := s.dialWith(backend, report.Act{From: at, Deaf: true})
	defer deaf.end()
	type opened struct {
		*peer
		err error
	}
	s.hand(w)
	opening := make(chan opened, 1)
	go func() {
		p, err := s.open(w, client)
		opening <- opened{p, err}
	}()
	did, err := deaf.do(report.Act{Do: report.Receive})
	s.must(err)
	far, err := s.open(backend, report.Act{From: at, To: did.Peer, Beside: true})
	near := <-opening
	if err := errors.Join(err, near.err); err != nil {
		s.Errorf("%s to %s: %v", w, client.To, err)
		return
	}
	for from, to := range map[*peer]*peer{near.peer: far, far: near.peer} {
		_, err := from.do(report.Act{Do: report.Send})
		s.must(err)
		if did, err := to.do(report.Act{Do: report.Receive}); err != nil || did.Name == "" {
			s.Errorf("%s to %s: one end hears %q of the other: %v", w, client.To, did.Name, err)
		}
	}
	near.close()
	far.close()
}

// told wants a datagram to be answered with an ICMP error.
func (s *scene) told(p *peer, to netip.AddrPort, want report.ICMP) {
	s.Helper()
	if _, err := p.do(report.Act{Do: report.Send, To: to}); err != nil {
		s.Errorf("%s to %s: %v", p.way, to, err)
		return
	}
	did, err := p.do(report.Act{Do: report.Trouble})
	if err != nil {
		s.Errorf("%s to %s: %v", p.way, to, err)
		return
	}
	if *did.ICMP != want {
		s.Errorf("%s to %s: the error says %+v, want %+v", p.way, to, *did.ICMP, want)
	}
}

// unreachable says that nobody listens there.
func unreachable(w way, at netip.AddrPort) report.ICMP {
	e := report.ICMP{Errno: int(unix.ECONNREFUSED), Type: 3, Code: 3, By: at.Addr(), To: at} // RFC 792
	if w.v6 {
		e.Type, e.Code = 1, 4 // RFC 4443, 3.1
	}
	return e
}

// noWay has the node say that a host is unreachable.
func noWay(to netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{Dst: netlink.NewIPNet(to.AsSlice()), Type: unix.RTN_UNREACHABLE})
}

// faraway makes a host beyond the node, by a way with a smaller MTU.
func (s *scene) faraway(name string, mtu int) {
	s.Helper()
	far, err := s.node.Outside(name, netip.MustParseAddr("203.0.113.20"), netip.MustParseAddr("2001:db8:113::20"))
	s.must(err)
	s.must(far.Serve(stagePorts...))
	s.must(s.node.InNetns(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(link, mtu)
	}))
	s.own[name] = far
}
