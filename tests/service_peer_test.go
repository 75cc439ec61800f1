package tests

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// hand is the way's client.
func (s *scene) hand(w way) *nstest.Hand {
	s.Helper()
	from := cmp.Or(w.from, "client")
	own := s.own[from] != nil
	key := fmt.Sprint(from, w.tc)
	if own {
		key = s.namespace + key
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hands[key]; h != nil {
		return h
	}
	var h *nstest.Hand
	var err error
	if from == "node" {
		h, err = s.node.Hand()
	} else {
		h, err = s.find(from).Hand(w.tc)
	}
	s.must(err)
	s.hands[key] = h
	return h
}

// do acts, and says what came of it.
func (s *scene) do(w way, a report.Act) (report.Did, error) {
	s.Helper()
	a.Net = w.net
	did, err := s.hand(w).Do(a)
	did.Name = strings.TrimPrefix(did.Name, s.namespace+"-")
	return did, err
}

// peer is a client's socket.
type peer struct {
	s     *scene
	way   way
	id    int
	to    netip.AddrPort
	local netip.AddrPort
}

func (p *peer) String() string {
	if !p.to.IsValid() {
		return p.way.String() + ", not connected"
	}
	return fmt.Sprintf("%s to %s", p.way, p.to)
}

// open opens a socket; TCP and SCTP connect, and so does UDP if there is someone to connect to.
func (s *scene) open(w way, a report.Act) (*peer, error) {
	s.Helper()
	a.Do = report.Open
	did, err := s.do(w, a)
	return &peer{s, w, did.Socket, a.To, did.Local}, err
}

// dial opens a socket that is connected.
func (s *scene) dial(w way, to netip.AddrPort) *peer {
	s.Helper()
	return s.dialWith(w, report.Act{To: to})
}

func (s *scene) dialWith(w way, a report.Act) *peer {
	s.Helper()
	p, err := s.open(w, a)
	if err != nil {
		s.Fatalf("%s to %s: %v", w, a.To, err)
	}
	return p
}

// loose opens a UDP socket that is not connected.
func (s *scene) loose(w way) *peer {
	s.Helper()
	anywhere := w.pick(netip.IPv4Unspecified(), netip.IPv6Unspecified())
	return s.dialWith(w, report.Act{From: netip.AddrPortFrom(anywhere, 0)})
}

// do acts with the socket.
func (p *peer) do(a report.Act) (report.Did, error) {
	p.s.Helper()
	a.Socket = p.id
	return p.s.do(p.way, a)
}

// ask returns who answers.
func (p *peer) ask(to ...netip.AddrPort) string {
	p.s.Helper()
	a := report.Act{Do: report.Ask}
	if to != nil {
		a.To = to[0]
	}
	did, err := p.do(a)
	if err != nil {
		p.s.Errorf("%s from %s, asking %s: %v", p, p.local, cmp.Or(a.To, p.to), err)
	}
	return did.Name
}

// asks wants one of these to answer.
func (p *peer) asks(names ...string) {
	p.s.Helper()
	if got := p.ask(); got != "" && !slices.Contains(names, got) {
		p.s.Errorf("%s: %s answers, want %s", p, got, strings.Join(names, " or "))
	}
}

// close ends it with a reset; end does so properly.
func (p *peer) close() { p.leave(true) }

func (p *peer) end() { p.leave(false) }

func (p *peer) leave(reset bool) {
	p.s.Helper()
	if _, err := p.do(report.Act{Do: report.Close, Reset: reset}); err != nil {
		p.s.Errorf("%s: %v", p, err)
	}
}

// reach wants a new connection to be answered by one of these.
func (s *scene) reach(w way, to netip.AddrPort, names ...string) {
	s.Helper()
	p, err := s.open(w, report.Act{To: to})
	if err != nil {
		s.Errorf("%s to %s: %v", w, to, err)
		return
	}
	p.asks(names...)
	p.close()
}

// tally calls so many times on a new connection each, and returns how often each has answered.
func (s *scene) tally(w way, to netip.AddrPort, count int) map[string]int {
	s.Helper()
	did, err := s.do(w, report.Act{Do: report.Tally, To: to, Count: count})
	if err != nil {
		s.Errorf("%s to %s: after the answers %v: %v", w, to, did.Answers, err)
	}
	answers := map[string]int{}
	for name, n := range did.Answers {
		answers[strings.TrimPrefix(name, s.namespace+"-")] = n
	}
	return answers
}

// connections are some that last, by every way.
type connections struct {
	peers []*peer
	names []string // who answered each at first
}

// hold opens so many connections by each way, to port 80 or another.
func (s *scene) hold(service string, each int, port ...uint16) *connections {
	s.Helper()
	c := &connections{}
	s.each(func(w way) {
		for range each {
			p := s.dial(w, s.vip(w, service, port...))
			c.peers, c.names = append(c.peers, p), append(c.names, p.ask())
		}
	})
	return c
}

// stay wants each to go on with its backend.
func (c *connections) stay() {
	for i, p := range c.peers {
		p.s.Helper()
		p.asks(c.names[i])
	}
}

// of returns those that name has answered.
func (c *connections) of(name string) []*peer {
	var peers []*peer
	for i, p := range c.peers {
		if c.names[i] == name {
			peers = append(peers, p)
		}
	}
	return peers
}

// spread wants new connections to be answered by all of these and nobody else.
func (s *scene) spread(w way, to netip.AddrPort, names ...string) {
	s.Helper()
	const calls = 60 // with three backends one is missed once in 10^10 times
	got := s.tally(w, to, calls)
	for _, name := range names {
		if got[name] == 0 {
			s.Errorf("%s to %s: %s never answered: %v", w, to, name, got)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		s.Errorf("%s to %s: answers by %v, want only %v", w, to, got, names)
	}
}

// refused wants the address to refuse at once.
func (s *scene) refused(w way, to netip.AddrPort) {
	s.Helper()
	p, err := s.open(w, report.Act{To: to, Errors: true})
	if err == nil {
		var did report.Did
		did, err = p.do(report.Act{Do: report.Ask})
		if err == nil {
			s.Errorf("%s to %s: %s answers, want it refused", w, to, did.Name)
		}
		p.close()
	}
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		s.Errorf("%s to %s: want it refused: %v", w, to, err)
	}
}
