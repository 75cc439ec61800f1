package tests

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// soon is how long what happens at once may take on a machine that is busy.
const soon = 5 * time.Second

// cut wants the connection to end with an error, without waiting for a timeout.
func (p *peer) cut(a report.Act) {
	p.s.Helper()
	a.Patience = soon
	did, err := p.do(a)
	switch {
	case err == nil:
		p.s.Errorf("%s: %s says %q, want an error", p, a.Do, did.Name)
	case errors.Is(err, unix.EAGAIN) || did.Took >= soon:
		p.s.Errorf("%s: no error after %s: %v", p, did.Took, err)
	}
}

// endingRows are about backends that drain, and such as are gone.
var endingRows = []row{
	{says: "a draining backend keeps its connections, and new ones go elsewhere", show: func(s *scene) {
		x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.container("y", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}")))
		held := s.hold("web", 4)
		s.condition(x, "drain")
		held.stay()
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "y") })
		held.stay()
		s.condition(x, "undrain")
		held.stay()
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "x", "y") })
	}},
	{says: "a slice's terminating endpoint that serves drains too", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a", "b")))
		held := s.hold("web", 4)
		s.must(s.apply(s.slices("web", "a", "b draining")))
		held.stay()
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a") })
	}},
	{says: "a backend of weight 0 keeps its connections and takes no new ones", show: func(s *scene) {
		x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.container("y", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}")))
		held := s.hold("web", 4)
		s.label(x, "sluice.net/weight=0")
		held.stay()
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "y") })
	}},
	{says: "backends that all drain still serve", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a draining", "b draining", "c unready")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a", "b") })
	}},
	{says: "a socket's datagrams stay with a draining backend, and leave one that is unready", nets: "udp", show: func(s *scene) {
		x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.container("y", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}")))
		s.each(func(w way) {
			sockets := map[*peer]string{}
			for range 8 {
				p := s.loose(w)
				sockets[p] = p.ask(s.vip(w, "web"))
			}
			s.condition(x, "drain")
			for p, name := range sockets {
				if got := p.ask(s.vip(w, "web")); got != name {
					s.Errorf("%s: %s answers where %s did before x began to drain", p, got, name)
				}
			}
			s.condition(x, "unready")
			for p := range sockets {
				if got := p.ask(s.vip(w, "web")); got != "y" {
					s.Errorf("%s: %s answers, want y", p, got)
				}
			}
			s.condition(x, "undrain")
			s.condition(x, "ready")
		})
	}},
	{says: "connections to a backend that is gone are reset, others go on, and new ones are served", nets: "tcp sctp", show: func(s *scene) {
		x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.container("y", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}")))
		held := s.hold("web", 6)
		read := make(chan func(), len(held.peers))
		blocked := 0
		for _, p := range held.of("x") {
			// By socket a reader that waits is told; a packet's flow is answered.
			if !p.way.tc {
				blocked++
				go func() {
					did, err := p.do(report.Act{Do: report.Receive, Patience: soon})
					read <- func() { p.ended(did, err) }
				}()
			}
		}
		s.must(x.Delete(s.Context()))
		for range blocked {
			(<-read)()
		}
		for _, p := range held.of("x") {
			if p.way.tc {
				p.cut(report.Act{Do: report.Ask})
			}
		}
		for _, p := range held.of("y") {
			p.asks("y")
		}
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "y") })
	}},
	{says: "a connected UDP socket learns that its backend is gone, and its next connection is served", nets: "udp", show: func(s *scene) {
		x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.container("y", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}")))
		held := s.hold("web", 6)
		s.must(x.Delete(s.Context()))
		for _, p := range held.of("x") {
			if p.way.tc {
				p.asks("y") // its datagrams have moved
			} else {
				p.cut(report.Act{Do: report.Receive})
			}
			s.reach(p.way, p.to, "y")
		}
		for _, p := range held.of("y") {
			p.asks("y")
		}
	}},
	{says: "an unconnected UDP socket's next datagram goes to a backend that is there", nets: "udp", show: func(s *scene) {
		s.each(func(w way) {
			x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
			y := s.container("y", nstest.Spec{Labels: map[string]string{"app": "x"}})
			s.must(s.apply(s.service("web", "selector: {app: x}")))
			p := s.loose(w)
			gone, left := x, "y"
			if p.ask(s.vip(w, "web")) == "y" {
				gone, left = y, "x"
			}
			s.must(gone.Delete(s.Context()))
			if got := p.ask(s.vip(w, "web")); got != left {
				s.Errorf("%s: %s answers, want %s", p, got, left)
			}
			s.must(s.find(left).Delete(s.Context()))
		})
	}},
	{says: "a connection whose backend has left the service goes on, and datagrams go elsewhere", show: func(s *scene) {
		x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.container("y", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}")))
		held := s.hold("web", 6)
		s.label(x, "app-")
		for _, p := range held.of("x") {
			switch {
			case p.way.net != "udp":
				p.asks("x")
			case p.way.tc:
				p.asks("y")
			default:
				p.cut(report.Act{Do: report.Receive})
				s.reach(p.way, p.to, "y")
			}
		}
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "y") })
	}},
}

// ended wants what a blocked reader was told to be an error.
func (p *peer) ended(did report.Did, err error) {
	p.s.Helper()
	if err == nil || errors.Is(err, unix.EAGAIN) {
		p.s.Errorf("%s: a blocked reader was told %q and %v after %s, want an error at once", p, did.Name, err, did.Took)
	}
}
