package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-net/sluice/tests/probe/report"
)

const (
	// patience is how long awaited answers are waited for.
	patience = 5 * time.Second
	// again is the pause before an awaited datagram is sent once more: it may have been lost.
	again = 250 * time.Millisecond
)

// member serves its ports and sends to many targets at once.
type member struct {
	name  string
	addrs []netip.Addr // its own, one a family
	ports []int
	sniff *sniffer // nil: none

	senders map[string]sender // by protocol
	targets []report.Target

	mu      sync.Mutex
	round   int
	asked   string // of this round
	answers []byte // of this round, by target
	missing int    // awaited answers
	notes   []string
	whole   chan struct{} // closed when none is missing
	cancel  context.CancelFunc
}

// sender sends to targets of one protocol. Answers go to member.answer.
type sender interface {
	// begin begins a round. What it opens lasts until ctx ends.
	begin(ctx context.Context, round int) error
	// send sends to the target of that number.
	send(i int, t report.Target) error
}

func mesh(args []string) error {
	m := &member{}
	fs := flag.NewFlagSet("mesh", flag.ExitOnError)
	fs.StringVar(&m.name, "name", "probe", "what to answer")
	device := fs.String("sniff", "", "interface to count arrivals on; empty: none, any: all")
	fs.Func("addr", "own address; once a family", func(s string) error {
		a, err := netip.ParseAddr(s)
		m.addrs = append(m.addrs, a)
		return err
	})
	fs.Func("port", "port to serve, over TCP, UDP and SCTP", func(s string) error {
		var port int
		_, err := fmt.Sscan(s, &port)
		m.ports = append(m.ports, port)
		return err
	})
	fs.Parse(args)
	if *device != "" {
		s, err := newSniffer(*device, m.ports)
		if err != nil {
			return err
		}
		m.sniff = s
	}
	if err := m.open(); err != nil {
		return err
	}
	fmt.Println("ready")
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return nil // standard input was closed
		}
		var order report.Order
		if err := json.Unmarshal(line, &order); err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		outcome, err := m.do(order)
		if err != nil {
			outcome.Error = err.Error()
		}
		if err := out.Encode(outcome); err != nil {
			return err
		}
	}
}

// open begins to serve, and opens what it sends from.
func (m *member) open() error {
	if len(m.addrs) == 0 {
		return nil // counts only
	}
	m.senders = map[string]sender{"tcp": &tcpSender{member: m}}
	for _, a := range m.addrs {
		for _, port := range m.ports {
			if err := m.serveTCP(netip.AddrPortFrom(a, uint16(port))); err != nil {
				return err
			}
			if err := m.serveUDP(netip.AddrPortFrom(a, uint16(port))); err != nil {
				return err
			}
		}
	}
	for network, open := range map[string]func(*member) (sender, error){
		"udp": newUDPSender, "sctp": newSCTPSender, "icmp": newICMPSender,
	} {
		s, err := open(m)
		if err != nil {
			return err
		}
		m.senders[network] = s
	}
	return nil
}

func (m *member) do(order report.Order) (o report.Outcome, err error) {
	switch {
	case order.Targets != nil:
		m.targets = order.Targets
		return o, nil
	case order.Reset:
		m.sniff.reset()
		return o, nil
	case order.Round != "":
		return o, m.begin(order.Round)
	case order.Finish:
		return m.finish()
	}
	return o, fmt.Errorf("empty order")
}

// begin sends to all targets, and returns when the awaited answers are there or patience has ended.
func (m *member) begin(asked string) error {
	if len(asked) != len(m.targets) {
		return fmt.Errorf("round of %d targets, %d are known", len(asked), len(m.targets))
	}
	var ctx context.Context
	m.mu.Lock()
	ctx, m.cancel = context.WithCancel(context.Background())
	m.round++
	m.asked = asked
	m.answers = slices.Repeat([]byte{report.Silent}, len(asked))
	m.missing = strings.Count(asked, string(report.Await))
	m.notes = nil
	m.whole = make(chan struct{})
	if m.missing == 0 {
		close(m.whole)
	}
	m.mu.Unlock()
	for _, s := range m.senders {
		if err := s.begin(ctx, m.round); err != nil {
			return err
		}
	}
	for i, t := range m.targets {
		m.send(i, t)
	}
	m.await()
	return nil
}

func (m *member) send(i int, t report.Target) {
	s, ok := m.senders[t.Net]
	if !ok {
		m.note("%s: no such protocol", t.Net)
		return
	}
	if err := s.send(i, t); err != nil {
		m.note("%s to %s: %v", t.Net, t.To, err)
	}
}

// await sends again what may have been lost. TCP does so by itself.
func (m *member) await() {
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		select {
		case <-m.whole:
			return
		case <-end.C:
			return
		case <-tick.C:
			for i, t := range m.targets {
				if t.Net != "tcp" && m.asked[i] == report.Await && m.silent(i) {
					m.send(i, t)
				}
			}
		}
	}
}

func (m *member) silent(i int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.answers[i] == report.Silent
}

// answer takes note that name answered what was sent to target i in a round. An empty name is
// whoever it should be: the protocol does not tell.
func (m *member) answer(round, i int, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if round != m.round || i < 0 || i >= len(m.answers) || m.answers[i] != report.Silent {
		return
	}
	m.answers[i] = report.Answered
	if want := m.targets[i].Name; name != "" && name != want {
		m.answers[i] = report.Wrong
		m.notes = append(m.notes, fmt.Sprintf("%s to %s: %s answered, not %s", m.targets[i].Net, m.targets[i].To, name, want))
	}
	if m.asked[i] == report.Await {
		if m.missing--; m.missing == 0 {
			close(m.whole)
		}
	}
}

// note keeps the first few things that were wrong in a round.
func (m *member) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.notes) < 20 {
		m.notes = append(m.notes, fmt.Sprintf(format, args...))
	}
}

// finish ends the round: what has not been answered by now is not.
func (m *member) finish() (o report.Outcome, err error) {
	m.mu.Lock()
	if m.cancel != nil {
		m.cancel()
	}
	o.Answers, o.Notes = string(m.answers), m.notes
	m.mu.Unlock()
	o.Arrived, err = m.sniff.read()
	return o, err
}
