package access

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what the clients of a network listener can cost. The zero value of a field is its default.
type Limits struct {
	Connections int     // of all clients at once; 4096
	PerClient   int     // of one client at once; 64
	Rate        float64 // requests that one client may make a second, in the long run; 500
	Burst       int     // and at once; 1000
}

const (
	// nodeShare is how many times more than a container the node itself may do: it is all of its processes.
	nodeShare = 16
	// maxClients is how many clients' rates are remembered. One that is forgotten begins with a full burst.
	maxClients = 4096
)

func (l Limits) filled() Limits {
	if l.Connections == 0 {
		l.Connections = 4096
	}
	if l.PerClient == 0 {
		l.PerClient = 64
	}
	if l.Rate == 0 {
		l.Rate = 500
	}
	if l.Burst == 0 {
		l.Burst = 1000
	}
	return l
}

// Limiter applies Limits to any number of listeners together. A client is an address; addresses of IPv6 that are
// nobody's of this node count by their /64, of which a host may have all.
type Limiter struct {
	limits Limits
	own    func(netip.Addr) []netip.Addr

	mu      sync.Mutex
	open    int // connections
	clients map[netip.Prefix]*guest
	recent  list.List // of *guest without a connection, the one that was heard of last in front
}

// guest is what one client may do, and has open.
type guest struct {
	key   netip.Prefix
	share int
	open  int
	rate  *rate.Limiter
	place *list.Element // in Limiter.recent; nil: it has a connection
}

// NewLimiter returns one that knows no client yet. own is that of a Guard.
func NewLimiter(l Limits, own func(netip.Addr) []netip.Addr) *Limiter {
	if own == nil {
		own = func(netip.Addr) []netip.Addr { return nil }
	}
	return &Limiter{limits: l.filled(), own: own, clients: map[netip.Prefix]*guest{}}
}

// key returns whom an address counts for.
func (l *Limiter) key(a netip.Addr) (key netip.Prefix, share int) {
	a = a.Unmap().WithZone("")
	own := l.own(a)
	if slices.ContainsFunc(own, netip.Addr.IsLoopback) {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 128), nodeShare // all of the node's addresses are one
	}
	bits := a.BitLen()
	if a.Is6() && own == nil {
		bits = 64
	}
	key, err := a.Prefix(bits)
	if err != nil {
		key = netip.Prefix{}
	}
	return key, 1
}

// guest returns what is known of a client. The caller holds mu.
func (l *Limiter) guest(a netip.Addr) *guest {
	key, share := l.key(a)
	c := l.clients[key]
	if c == nil {
		c = &guest{key: key, share: share, rate: rate.NewLimiter(rate.Limit(l.limits.Rate*float64(share)), l.limits.Burst*share)}
		l.clients[key] = c
		c.place = l.recent.PushFront(c)
		l.forget()
	} else if c.place != nil {
		l.recent.MoveToFront(c.place)
	}
	return c
}

// forget drops the client that was not heard of for longest while there are too many. Those that have connections are
// no more than these.
func (l *Limiter) forget() {
	for l.recent.Len() > maxClients {
		old := l.recent.Remove(l.recent.Back()).(*guest)
		delete(l.clients, old.key)
	}
}

// Listener returns one that closes the connections of clients that have enough, and of those that only does not
// want; nil wants everybody.
func (l *Limiter) Listener(inner net.Listener, only func(netip.Addr) bool) net.Listener {
	return &limitedListener{Listener: inner, limiter: l, only: only}
}

type limitedListener struct {
	net.Listener
	limiter *Limiter
	only    func(netip.Addr) bool
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := sourceOf(conn.RemoteAddr())
		if l.only != nil && !l.only(from) {
			conn.Close()
			continue
		}
		if c := l.limiter.admit(from); c != nil {
			return &limitedConn{Conn: conn, limiter: l.limiter, client: c}, nil
		}
		conn.Close()
	}
}

func sourceOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

// admit counts a connection; nil: there are enough.
func (l *Limiter) admit(from netip.Addr) *guest {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.guest(from)
	if l.open >= l.limits.Connections || c.open >= l.limits.PerClient*c.share {
		return nil
	}
	l.open++
	if c.open++; c.place != nil {
		l.recent.Remove(c.place)
		c.place = nil
	}
	return c
}

func (l *Limiter) release(c *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if c.open--; c.open == 0 {
		c.place = l.recent.PushFront(c)
		l.forget()
	}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	limiter *Limiter
	client  *guest
	once    sync.Once
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.once.Do(func() { c.limiter.release(c.client) })
	return c.Conn.Close()
}

type chargeKey struct{}

// Handler passes on the requests of clients that have not made too many; the others refuse answers.
func (l *Limiter) Handler(next, refuse http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			refuse.ServeHTTP(w, r)
			return
		}
		l.mu.Lock()
		limit := l.guest(from.Addr()).rate
		l.mu.Unlock()
		if !limit.Allow() {
			refuse.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), chargeKey{}, limit)))
	})
}

// Charge has a request count for n more of its client's, as one whose answer was large does: those after it wait. A
// request that no Limiter has passed costs nothing.
func Charge(ctx context.Context, n int) {
	if limit, ok := ctx.Value(chargeKey{}).(*rate.Limiter); ok {
		limit.ReserveN(time.Now(), min(n, limit.Burst()))
	}
}
