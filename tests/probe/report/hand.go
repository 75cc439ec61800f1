package report

import (
	"net/netip"
	"time"
)

// Act is a line on a hand's standard input: something to do with a socket. Acts run side by side.
type Act struct {
	ID     int    `json:"id"` // of the answer, too
	Do     Deed   `json:"do"`
	Socket int    `json:"socket,omitempty"` // as the answer to Open gave it
	Net    string `json:"net,omitempty"`    // Open, Tally: tcp, udp, sctp

	From netip.AddrPort `json:"from"` // Open: where to bind to; port 0: any, no address: not at all
	To   netip.AddrPort `json:"to"`   // Open, Connect, Tally, Ping: the peer; Ask, Send: of an unconnected socket
	// Size of a request in bytes, and of its answer over UDP; 0: one byte. Over TCP the answer to a larger
	// one is larger, too.
	Size int `json:"size,omitempty"`
	// Count of calls: Tally.
	Count int `json:"count,omitempty"`
	// Patience is how long an answer is waited for; 0: 5 s.
	Patience time.Duration `json:"patience,omitempty"`
	// Open: hear of ICMP errors in detail, never fragment, leave with this TTL.
	Errors     bool `json:"errors,omitempty"`
	NoFragment bool `json:"noFragment,omitempty"`
	TTL        int  `json:"ttl,omitempty"`
	// Open over TCP: listen at From and never say a word, also not that nobody is there; Receive then tells who
	// asks for a connection. Beside: bind where such a socket is.
	Deaf   bool `json:"deaf,omitempty"`
	Beside bool `json:"beside,omitempty"`
	// Close: with a reset. Ask over TCP: have the server close after its answer.
	Reset bool `json:"reset,omitempty"`
	Last  bool `json:"last,omitempty"`
}

// Deed is what an Act does.
type Deed string

// The deeds.
const (
	Open     Deed = "open"     // and connect, if To is set
	Connect  Deed = "connect"  // anew
	Ask      Deed = "ask"      // send a request and wait for its answer
	Send     Deed = "send"     // send a request and do not wait
	Receive  Deed = "receive"  // wait for a datagram, or for the end of a connection
	Shutdown Deed = "shutdown" // say no more, and hear the rest
	Close    Deed = "close"
	Trouble  Deed = "trouble" // wait for an ICMP error
	PathMTU  Deed = "mtu"     // of a connected socket
	Tally    Deed = "tally"   // make calls on a socket each
	Ping     Deed = "ping"    // echo request
)

// Did is a hand's line about an act.
type Did struct {
	ID     int `json:"id"`
	Socket int `json:"socket,omitempty"`
	// Local is the socket's own address; Peer is who sent what came.
	Local netip.AddrPort `json:"local"`
	Peer  netip.AddrPort `json:"peer"`
	// Name is who answered.
	Name    string         `json:"name,omitempty"`
	Answers map[string]int `json:"answers,omitempty"` // Tally: by name
	MTU     int            `json:"mtu,omitempty"`
	Took    time.Duration  `json:"took,omitempty"`
	ICMP    *ICMP          `json:"icmp,omitempty"`
	// Error says what failed; Errno is the kernel's number, if it was the kernel that said so.
	Error string `json:"error,omitempty"`
	Errno int    `json:"errno,omitempty"`
}

// ICMP is an error message about a packet that was sent.
type ICMP struct {
	Errno int            `json:"errno"`
	Type  int            `json:"type"`
	Code  int            `json:"code"`
	MTU   int            `json:"mtu,omitempty"` // of a packet that was too big
	By    netip.Addr     `json:"by"`            // who sent the error
	To    netip.AddrPort `json:"to"`            // where the packet went that it is about
}
