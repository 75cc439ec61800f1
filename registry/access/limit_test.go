package access

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

// pipeListener hands out connections from where a test says.
type pipeListener struct{ conns chan net.Conn }

func (l *pipeListener) Accept() (net.Conn, error) {
	if c := <-l.conns; c != nil {
		return c, nil
	}
	return nil, io.EOF
}
func (l *pipeListener) Close() error   { return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// fromConn is a connection from an address; the far end sees it closed.
type fromConn struct {
	net.Conn
	from netip.Addr
}

func (c fromConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.from, 1234))
}

// dial returns the far end of a connection that comes from an address.
func (l *pipeListener) dial(from string) net.Conn {
	near, far := net.Pipe()
	l.conns <- fromConn{near, netip.MustParseAddr(from)}
	return far
}

// TestConnections: a client has so many connections, all together have so many, and what is closed counts no more.
func TestConnections(t *testing.T) {
	inner := &pipeListener{make(chan net.Conn, 100)}
	l := NewLimiter(Limits{Connections: 40, PerClient: 2}, own).Listener(inner, nil)
	accepted := func(from string) []net.Conn {
		var list []net.Conn
		for range 3 * nodeShare {
			inner.dial(from)
		}
		inner.conns <- nil // ends the round
		for {
			c, err := l.Accept()
			if err != nil {
				return list
			}
			list = append(list, c)
		}
	}
	first := accepted("10.244.1.2")
	if len(first) != 2 {
		t.Fatalf("one client has %d connections, want 2", len(first))
	}
	if again := accepted("::ffff:10.244.1.2"); len(again) != 0 {
		t.Errorf("the same has %d more", len(again))
	}
	if other := accepted("2001:db8::1"); len(other) != 2 {
		t.Errorf("another has %d", len(other))
	}
	if same := accepted("2001:db8::2"); len(same) != 0 {
		t.Errorf("another address of the same /64 has %d", len(same))
	}
	for range 2 { // twice closed is once
		if err := first[0].Close(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Fatal(err)
		}
	}
	if again := accepted("10.244.1.2"); len(again) != 1 {
		t.Errorf("after one is closed the client has %d more", len(again))
	}
	if node := accepted("127.0.0.1"); len(node) != 2*nodeShare {
		t.Errorf("the node has %d, want %d", len(node), 2*nodeShare)
	}
	if last := append(accepted("10.1.1.1"), append(accepted("10.1.1.2"), accepted("10.1.1.3")...)...); len(last) != 40-4-2*nodeShare {
		t.Errorf("%d more, want as many as all may have together", len(last))
	}
}

// TestOnly: whoever a listener is not for is not let in.
func TestOnly(t *testing.T) {
	inner := &pipeListener{make(chan net.Conn, 2)}
	l := NewLimiter(Limits{}, own).Listener(inner, func(a netip.Addr) bool { return own(a) != nil })
	far := inner.dial("203.0.113.9")
	inner.dial("10.244.1.2")
	c, err := l.Accept()
	if err != nil || sourceOf(c.RemoteAddr()) != netip.MustParseAddr("10.244.1.2") {
		t.Errorf("let in: %v, %v", c, err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the stranger sees %v", err)
	}
}

// TestRate: a client may make so many requests, large answers count for more, and the table of clients is bounded.
func TestRate(t *testing.T) {
	limiter := NewLimiter(Limits{Rate: 1e-9, Burst: 10}, own)
	passed := 0
	h := limiter.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		passed++
		if r.URL.Path == "/large" {
			Charge(r.Context(), 100)
		}
	}), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }))
	ask := func(from, path string) int {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for n := range 15 {
		want := http.StatusOK
		if n >= 10 {
			want = http.StatusTooManyRequests
		}
		if got := ask("10.244.1.2:1", "/"); got != want {
			t.Errorf("request %d: %d, want %d", n, got, want)
		}
	}
	if got := ask("10.244.1.3:1", "/large"); got != http.StatusOK {
		t.Errorf("another client: %d", got)
	}
	if got := ask("10.244.1.3:1", "/"); got != http.StatusTooManyRequests {
		t.Errorf("after a large answer: %d", got)
	}
	if got := ask("@", "/"); got != http.StatusTooManyRequests {
		t.Errorf("from nowhere: %d", got)
	}
	before := passed
	for n := range 3 * maxClients {
		ask(fmt.Sprintf("10.%d.%d.%d:1", n>>16, n>>8&255, n&255), "/")
	}
	if passed-before != 3*maxClients {
		t.Errorf("%d of %d clients had a request", passed-before, 3*maxClients)
	}
	if n := len(limiter.clients); n > maxClients {
		t.Errorf("%d clients are remembered, want at most %d", n, maxClients)
	}
}
