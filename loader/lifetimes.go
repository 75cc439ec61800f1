package loader

import (
	"fmt"
	"time"
)

// Lifetimes say how long a flow may be silent, by its protocol and state. After that another flow may have
// its tuple at the far end; a datagram is a new flow's, which is given a backend anew, and no answer is
// let through as one. An open connection is never cut: the entry of one that is silent for longer
// still leads to its backend. A field that is 0 has its default.
//
// The kernel notes a flow's packets once a second, so that a life may end up to a second early.
type Lifetimes struct {
	TCPOpening     time.Duration // after a SYN, without an answer
	TCPEstablished time.Duration
	TCPClosing     time.Duration // after a FIN from one side
	TCPTimeWait    time.Duration // after a FIN from both sides
	TCPReset       time.Duration // after a RST; the default is none

	UDPUnanswered time.Duration
	UDPAnswered   time.Duration

	SCTPOpening     time.Duration // after an INIT, without an answer
	SCTPEstablished time.Duration
	SCTPClosing     time.Duration // after a SHUTDOWN ACK or SHUTDOWN COMPLETE; after an ABORT there is none

	Other time.Duration // of ICMP echo and the protocols without ports
}

// The bounds of a lifetime that is given.
const (
	MinLifetime = 2 * time.Second
	MaxLifetime = 30 * 24 * time.Hour
)

// DefaultLifetimes are what RFCs ask of translators for the sake of applications, and Linux's TIME_WAIT.
func DefaultLifetimes() Lifetimes {
	return Lifetimes{
		// RFC 5382, REQ-5: not less than 4 minutes for what is partially open or closed, and not less
		// than 2 hours and 4 minutes for what is open.
		TCPOpening: 4 * time.Minute, TCPEstablished: 124 * time.Minute, TCPClosing: 4 * time.Minute,
		// Linux keeps TIME_WAIT for 60 seconds (TCP_TIMEWAIT_LEN); a second more makes up for what is
		// noted late. A connection to another destination that became the same tuple would come with
		// another clock in its timestamps (RFC 7323, 5; the kernel's ts_off depends on the
		// destination), and its SYN would be turned away as old.
		TCPTimeWait: 61 * time.Second,
		// RFC 7857, 2.2: a mapping may go with the RST.
		TCPReset: 0,
		// RFC 4787, REQ-5: not less than 2 minutes; 5 are recommended.
		UDPUnanswered: 2 * time.Minute, UDPAnswered: 5 * time.Minute,
		// No RFC tells; an association is silent for half a minute at most (HB.interval, RFC 9260, 16).
		SCTPOpening: 4 * time.Minute, SCTPEstablished: 124 * time.Minute,
		// A SHUTDOWN ACK is repeated after 60 seconds at most (RTO.Max, RFC 9260, 16).
		SCTPClosing: 61 * time.Second,
		Other:       2 * time.Minute,
	}
}

// fields returns each lifetime with the name that errors have for it.
func (l *Lifetimes) fields() []lifetime {
	return []lifetime{
		{"TCP opening", &l.TCPOpening}, {"TCP established", &l.TCPEstablished},
		{"TCP closing", &l.TCPClosing}, {"TCP time wait", &l.TCPTimeWait}, {"TCP reset", &l.TCPReset},
		{"UDP unanswered", &l.UDPUnanswered}, {"UDP answered", &l.UDPAnswered},
		{"SCTP opening", &l.SCTPOpening}, {"SCTP established", &l.SCTPEstablished},
		{"SCTP closing", &l.SCTPClosing}, {"other", &l.Other},
	}
}

type lifetime struct {
	name  string
	value *time.Duration
}

// withDefaults fills in what is zero and refuses what is out of bounds.
func (l Lifetimes) withDefaults() (Lifetimes, error) {
	def := DefaultLifetimes()
	defs := def.fields()
	for i, f := range l.fields() {
		if *f.value == 0 {
			*f.value = *defs[i].value
			continue
		}
		if *f.value < MinLifetime || *f.value > MaxLifetime {
			return l, fmt.Errorf("lifetime of a flow, %s: %v: want %v to %v",
				f.name, *f.value, MinLifetime, MaxLifetime)
		}
	}
	return l, nil
}

// tell writes the lifetimes into the programs' config.
func (l Lifetimes) tell(c *config) {
	ns := func(d time.Duration) uint64 { return uint64(d.Nanoseconds()) }
	c.Lifetimes.TcpOpening, c.Lifetimes.TcpEstablished = ns(l.TCPOpening), ns(l.TCPEstablished)
	c.Lifetimes.TcpClosing, c.Lifetimes.TcpTimeWait = ns(l.TCPClosing), ns(l.TCPTimeWait)
	c.Lifetimes.TcpReset = ns(l.TCPReset)
	c.Lifetimes.UdpUnanswered, c.Lifetimes.UdpAnswered = ns(l.UDPUnanswered), ns(l.UDPAnswered)
	c.Lifetimes.SctpOpening, c.Lifetimes.SctpEstablished = ns(l.SCTPOpening), ns(l.SCTPEstablished)
	c.Lifetimes.SctpClosing = ns(l.SCTPClosing)
	c.Lifetimes.Other = ns(l.Other)
}
