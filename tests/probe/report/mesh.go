package report

import (
	"fmt"
	"net/netip"
)

// Target is what a member of a mesh sends to.
type Target struct {
	Net  string         `json:"net"`  // tcp, udp, sctp, icmp
	To   netip.AddrPort `json:"to"`   // icmp: the port is 0
	Name string         `json:"name"` // who must answer
	// Fresh sends from a source port that was not used before. TCP does so always; the others use one
	// port for good otherwise, so that a flow of an earlier round goes on.
	Fresh bool `json:"fresh,omitempty"`
}

// Order is a line on a member's standard input; one field is set.
type Order struct {
	Targets []Target `json:"targets,omitempty"` // to send to in the rounds to come
	Reset   bool     `json:"reset,omitempty"`   // count arrivals from now on
	// Round holds Await or Once for each target, and begins a round.
	Round string `json:"round,omitempty"`
	// Finish ends the round.
	Finish bool `json:"finish,omitempty"`
}

// What is asked about one target in a round, and what came of it.
const (
	Await = 'a' // send, and again now and then, until the answer comes or patience ends
	Once  = 'o' // send once, wait for nothing

	Silent   = '.' // no answer
	Answered = 'A'
	Wrong    = 'W' // someone else than Target.Name answered
)

// Outcome is a member's line on its standard output about an order: when the targets are known, when
// all awaited answers are there, when the round has ended.
type Outcome struct {
	Error string `json:"error,omitempty"`
	// Answers holds Silent, Answered or Wrong for each target, when the round has ended.
	Answers string `json:"answers,omitempty"`
	// Notes say what was wrong besides: of the latest round.
	Notes []string `json:"notes,omitempty"`
	// Arrived counts what has reached the member's interface since Reset, whether answered or not: the
	// first packets of TCP connections, each of SCTP and UDP, ICMP echo requests. See Arrival.
	Arrived map[string]int `json:"arrived,omitempty"`
}

// Arrival is a key of Outcome.Arrived.
func Arrival(network string, from netip.Addr, to netip.AddrPort) string {
	return fmt.Sprintf("%s %s -> %s", network, from, to)
}

// Flood is what a flood has sent so far.
type Flood struct {
	Sent   int `json:"sent"`
	Failed int `json:"failed"` // the kernel took it not: there was no way
}
