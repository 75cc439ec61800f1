package dns

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// What one source, and all together, may have at a time.
const (
	maxWaiting       = 2048 // queries that wait for other servers
	maxWaitingSource = 256
	maxConns         = 1024 // TCP connections
	maxConnsSource   = 64
)

// gate counts what clients hold, so that none can hold it all.
type gate struct {
	waiting, conns holders
}

// holders counts who holds how many of something.
type holders struct {
	most, mostEach int

	mu  sync.Mutex
	all int
	of  map[netip.Addr]int
}

func newGate() *gate {
	return &gate{
		waiting: holders{most: maxWaiting, mostEach: maxWaitingSource, of: map[netip.Addr]int{}},
		conns:   holders{most: maxConns, mostEach: maxConnsSource, of: map[netip.Addr]int{}},
	}
}

func (g *gate) enter(source netip.Addr) bool { return g.waiting.take(source) }

func (g *gate) leave(source netip.Addr) { g.waiting.give(source) }

func (h *holders) take(source netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all >= h.most || h.of[source] >= h.mostEach {
		return false
	}
	h.all++
	h.of[source]++
	return true
}

func (h *holders) give(source netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all--
	if h.of[source]--; h.of[source] == 0 {
		delete(h.of, source)
	}
}

// addrOf is the address of a UDP or TCP peer; invalid: it is neither.
func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap().WithZone("")
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// doorman reads only what comes from those who may ask.
type doorman struct {
	dns.Reader
	allow   func(netip.Addr) bool
	refused func()
}

// ReadUDP implements dns.Reader. A datagram from elsewhere is not even parsed; it comes back as one that is too
// short, which the server drops.
func (d *doorman) ReadUDP(conn *net.UDPConn, timeout time.Duration) ([]byte, *dns.SessionUDP, error) {
	m, session, err := d.Reader.ReadUDP(conn, timeout)
	if err == nil && d.allow != nil && !d.allow(addrOf(session.RemoteAddr())) {
		d.refused()
		return m[:0], session, nil
	}
	return m, session, err
}

// door accepts connections from those who may ask, and not too many of them.
type door struct {
	net.Listener
	allow   func(netip.Addr) bool
	conns   *holders
	refused func()
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := addrOf(c.RemoteAddr())
		if (d.allow == nil || d.allow(source)) && d.conns.take(source) {
			return &guest{Conn: c, leave: sync.OnceFunc(func() { d.conns.give(source) })}, nil
		}
		d.refused()
		c.Close()
	}
}

// guest is a connection that is counted.
type guest struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}
