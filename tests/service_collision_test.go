package tests

import (
	"fmt"
	"net/netip"

	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// from returns the client's address with a port that no other row binds to, nor another way.
func (s *scene) from(w way, container string, port uint16) netip.AddrPort {
	s.Helper()
	c := s.find(container)
	if w.tc {
		port++
	}
	return netip.AddrPortFrom(w.pick(c.V4, c.V6), port)
}

// collisionRows are about flows that are one and the same for the backend.
var collisionRows = []row{
	{says: "from one port, a VIP and its backend's own address each answer for themselves", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a")))
		s.each(func(w way) { s.together(w, s.from(w, "client", 6000), s.vip(w, "web"), s.addr(w, "a")) })
		s.each(func(w way) { s.together(w, s.from(w, "client", 6002), s.addr(w, "a"), s.vip(w, "web")) })
	}},
	{says: "from one port, two VIPs with one backend each answer for themselves", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a"), s.service("also", ""), s.slices("also", "a")))
		s.each(func(w way) {
			s.together(w, s.from(w, "client", 6010), s.vip(w, "web"), s.vip(w, "also"), s.addr(w, "a"))
		})
	}},
	{says: "one UDP socket that talks to many VIPs of one backend gets each answer from whom it asked", nets: "udp", show: func(s *scene) {
		var documents []string
		for i := range 8 {
			name := fmt.Sprintf("web-%d", i)
			documents = append(documents, s.service(name, ""), s.slices(name, "a"))
		}
		s.must(s.apply(documents...))
		s.each(func(w way) {
			p := s.loose(w)
			to := []netip.AddrPort{s.addr(w, "a")}
			for i := range 8 {
				to = append(to, s.vip(w, fmt.Sprintf("web-%d", i)))
			}
			for range 3 {
				for _, at := range to {
					p.ask(at) // which tells from whom the answer is
				}
			}
		})
	}},
	{says: "one UDP socket gets answers from all that it asked before it listens", nets: "udp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a"), s.service("also", ""), s.slices("also", "a")))
		s.each(func(w way) {
			p := s.loose(w)
			open := map[netip.AddrPort]bool{s.vip(w, "web"): true, s.vip(w, "also"): true, s.addr(w, "a"): true}
			for to := range open {
				_, err := p.do(report.Act{Do: report.Send, To: to})
				s.must(err)
			}
			for len(open) > 0 {
				did, err := p.do(report.Act{Do: report.Receive})
				if err != nil || !open[did.Peer] {
					s.Errorf("%s: answer from %s and %v, still open: %v", w, did.Peer, err, open)
					return
				}
				delete(open, did.Peer)
			}
		})
	}},
	{says: "a container that is a backend reaches itself through the VIP", show: func(s *scene) {
		s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}")))
		s.each(func(w way) {
			w.from = "x"
			p := s.dial(w, s.vip(w, "web"))
			for range 3 {
				p.asks("x")
			}
			p.close()
			s.spread(w, s.vip(w, "web"), "x")
		})
	}},
	{says: "a backend that is its own client, its VIP and its own address, from one port", show: func(s *scene) {
		s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}"), s.service("also", "selector: {app: x}")))
		s.each(func(w way) {
			w.from = "x"
			s.together(w, s.from(w, "x", 6020), s.vip(w, "web"), s.vip(w, "also"))
		})
	}},
}

// together opens a connection to each address from one source port, and asks them in turn.
func (s *scene) together(w way, from netip.AddrPort, to ...netip.AddrPort) {
	s.Helper()
	var peers []*peer
	for _, at := range to {
		p, err := s.open(w, report.Act{From: from, To: at})
		if err != nil {
			s.Errorf("%s from %s to %s: %v", w, from, at, err)
			continue
		}
		peers = append(peers, p)
	}
	for range 3 {
		for _, p := range peers {
			p.ask() // a stranger's answer does not come in, or is one from elsewhere
		}
	}
	for _, p := range peers {
		p.close()
	}
}
