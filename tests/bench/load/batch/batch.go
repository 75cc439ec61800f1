// Package batch is what the load driver is told and what it answers: one line of JSON each.
//
// A driver lives as long as what is compared, so that batches of several ways can be interleaved without a
// process starting in between.
package batch

import (
	"net/netip"
	"time"
)

// Kind is what one operation of a batch is. The names are netperf's where it has one.
type Kind string

const (
	TCPRR      Kind = "TCP_RR"      // a request and its answer on a connection that stays
	UDPRR      Kind = "UDP_RR"      // the same on a connected UDP socket
	TCPCRR     Kind = "TCP_CRR"     // connect, request, answer, close
	TCPConnect Kind = "TCP_CONNECT" // connect and close, with nothing sent
	TCPStream  Kind = "TCP_STREAM"  // bulk data on one connection
	TCPStreams Kind = "TCP_STREAMS" // bulk data on several at once

	UDPConnectReused Kind = "UDP_CONNECT_REUSED" // connect of a UDP socket that is connected already
	UDPConnectNew    Kind = "UDP_CONNECT_NEW"    // a UDP socket of its own: socket, connect and close
)

// Stream tells whether a kind moves bulk data: its operation is a KiB that has arrived.
func (k Kind) Stream() bool { return k == TCPStream || k == TCPStreams }

// Silent tells whether a kind sends nothing: what it costs is the system calls, and what hooks add to them.
func (k Kind) Silent() bool { return k == UDPConnectReused || k == UDPConnectNew }

// The ports that a load server listens on, for IPv4 and for IPv6, and that are called.
const (
	Echo   = 7000 // TCP and UDP: requests and answers
	Accept = 7001 // TCP: connections that are closed as soon as they are accepted
	Sink   = 7002 // TCP: bulk data
)

// A load server listens on so many sets of ports, each so far above the one before. A way that translates
// ports may end at a set of its own, so that no tuple of its connections is one of another way's that rests in
// TIME_WAIT.
const (
	Sets = 3
	Step = 10
)

// Port is where a kind calls.
func (k Kind) Port() uint16 {
	switch k {
	case TCPConnect:
		return Accept
	case TCPStream, TCPStreams:
		return Sink
	}
	return Echo
}

// Order is one batch.
type Order struct {
	Kind Kind
	To   netip.AddrPort
	// Warm is how long the same is done before anything is timed, but at most a quarter of Count.
	Warm time.Duration
	// For is how long operations are begun.
	For time.Duration
	// Count is how many operations there are at most, those of the warming included; 0: no bound. Streams have none.
	Count int
	// Bytes are the size of a request and of its answer, 1 to MaxBytes; of a write to a stream.
	Bytes int
	// Streams are how many there are at once: TCP_STREAMS only.
	Streams int
	// PIDs are processes whose CPU time counts besides the driver's.
	PIDs []int
}

// MaxBytes is the largest request.
const MaxBytes = 1024

// Result is what a batch came to; what the warming did is not in it.
type Result struct {
	// N are the operations done: round trips, connections, or KiB that arrived.
	N int
	// Elapsed is from the first operation's begin to the last one's end.
	Elapsed time.Duration
	// CPU is the CPU time that the driver and the PIDs used meanwhile, softirqs on their behalf included unless the
	// kernel accounts for those apart (CONFIG_IRQ_TIME_ACCOUNTING).
	CPU time.Duration
	// Error says why the last operation failed, which ended the batch; N does not count it.
	Error string `json:",omitempty"`
	// Latency holds the time of each operation; none: a stream.
	Latency *Histogram `json:",omitempty"`
}
