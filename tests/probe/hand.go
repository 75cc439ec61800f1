package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// handPatience is how long answers are waited for if an act does not say.
const handPatience = 5 * time.Second

// hands does with sockets what it is told.
type hands struct {
	out   *json.Encoder
	ports ports

	mu      sync.Mutex
	sockets map[int]socket
	opened  int
}

// ports keeps the kernel from giving a new socket a port of an old one with the same peer. To whoever tracks
// flows the two would be one, unless the protocol says when a flow begins, as TCP does.
type ports struct {
	odd bool // take only such; otherwise only even ones, so that two hands of a container keep apart

	mu   sync.Mutex
	used map[netip.AddrPort]map[uint16]bool // by peer
}

// take tells whether a port is new.
func (p *ports) take(peer netip.AddrPort, port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.odd != (port%2 == 1) || p.used[peer][port] {
		return false
	}
	if p.used[peer] == nil {
		p.used[peer] = map[uint16]bool{}
	}
	p.used[peer][port] = true
	return true
}

// socket is one of any protocol.
type socket interface {
	connect(a report.Act) error
	// ask sends a request, unless it is to receive only, and hears the answer, unless it is to send only.
	ask(a report.Act) (report.Did, error)
	close(reset bool) error
}

// hand obeys acts, several at a time, until standard input closes.
func hand(args []string) error {
	h := &hands{out: json.NewEncoder(os.Stdout), sockets: map[int]socket{}}
	h.ports.used = map[netip.AddrPort]map[uint16]bool{}
	fs := flag.NewFlagSet("hand", flag.ExitOnError)
	fs.BoolVar(&h.ports.odd, "odd", false, "leave even source ports to another hand of the container")
	fs.Parse(args)
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return nil // standard input was closed
		}
		var a report.Act
		if err := json.Unmarshal(line, &a); err != nil {
			return fmt.Errorf("read act: %w", err)
		}
		if a.Patience == 0 {
			a.Patience = handPatience
		}
		go h.obey(a)
	}
}

func (h *hands) obey(a report.Act) {
	start := time.Now()
	did, err := h.do(a)
	did.ID, did.Took = a.ID, time.Since(start)
	if err != nil {
		did.Error = explain(err).Error()
		var errno unix.Errno
		if errors.As(err, &errno) {
			did.Errno = int(errno)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.out.Encode(did)
}

func (h *hands) do(a report.Act) (report.Did, error) {
	switch a.Do {
	case report.Open:
		return h.open(a)
	case report.Tally:
		return h.tally(a)
	case report.Ping:
		return report.Did{}, ping(a)
	}
	h.mu.Lock()
	s := h.sockets[a.Socket]
	if a.Do == report.Close {
		delete(h.sockets, a.Socket)
	}
	h.mu.Unlock()
	switch {
	case s == nil:
		return report.Did{}, fmt.Errorf("no socket %d", a.Socket)
	case a.Do == report.Close:
		return report.Did{}, s.close(a.Reset)
	case a.Do == report.Connect:
		return report.Did{}, s.connect(a)
	}
	return s.ask(a)
}

// openSocket opens one of any protocol.
func (h *hands) openSocket(a report.Act) (s socket, did report.Did, err error) {
	switch {
	case a.Deaf:
		s, err = openDeaf(a)
		return s, report.Did{Local: a.From}, err
	case a.Net == "sctp":
		s, did.Local, err = openAssociation(a, &h.ports)
		return s, did, err
	case a.Net == "udp" && a.To.IsValid() && !a.From.IsValid():
		return h.openUDP(a)
	}
	s, did.Local, err = openPlain(a)
	return s, did, err
}

// openUDP opens sockets until one has a new port. Binding it would do as well, but would be seen.
func (h *hands) openUDP(a report.Act) (socket, report.Did, error) {
	for {
		s, local, err := openPlain(a)
		if err != nil || h.ports.take(a.To, local.Port()) {
			return s, report.Did{Local: local}, err
		}
		defer s.close(false) // held until then: the kernel gives its port to no other
	}
}

func (h *hands) open(a report.Act) (report.Did, error) {
	s, did, err := h.openSocket(a)
	if err != nil {
		return did, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened++
	did.Socket = h.opened
	h.sockets[did.Socket] = s
	return did, nil
}

// tally calls on a new socket each time, and counts who answered; the first failure ends it.
func (h *hands) tally(a report.Act) (did report.Did, err error) {
	did.Answers = map[string]int{}
	a.Do = report.Ask
	for range a.Count {
		s, _, err := h.openSocket(a)
		if err != nil {
			return did, err
		}
		one, err := s.ask(a)
		s.close(true) // leaves nothing behind, also in the maps' flows
		if err != nil {
			return did, err
		}
		did.Answers[one.Name]++
	}
	return did, nil
}
