package eureka

import (
	"compress/gzip"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	defaultRate = 2000 // requests a second of one address
	// maxSources bounds the addresses that are told apart. Those beyond them share what one has.
	maxSources = 1 << 14

	maxConnections         = 8192
	maxConnectionsOfSource = 2048 // of one address
)

// body reads the request's, of so many bytes at most, also after it was uncompressed. A code that is not 0 says why it cannot.
func (q *request) body(most int64) ([]byte, int) {
	var in io.Reader = http.MaxBytesReader(q.ResponseWriter, q.Body, most)
	switch strings.ToLower(q.Request.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip", "x-gzip":
		unzip, err := gzip.NewReader(in)
		if err != nil {
			return nil, http.StatusBadRequest
		}
		in = io.LimitReader(unzip, most+1)
	default:
		return nil, http.StatusUnsupportedMediaType
	}
	data, err := io.ReadAll(in)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), int64(len(data)) > most:
		return nil, http.StatusRequestEntityTooLarge
	case err != nil:
		return nil, http.StatusBadRequest
	}
	return data, 0
}

// rates bounds how many requests come from an address, each by a bucket that fills again with time.
type rates struct {
	rate  float64 // a second
	burst float64
	now   func() time.Time

	mu      sync.Mutex // guards what follows
	buckets map[netip.Addr]*bucket
	others  bucket
}

type bucket struct {
	tokens float64
	at     time.Time // when there were so many
}

func newRates(rate int, now func() time.Time) *rates {
	r := &rates{rate: float64(rate), burst: 2 * float64(rate), now: now, buckets: map[netip.Addr]*bucket{}}
	r.others = bucket{r.burst, now()}
	return r
}

// allow reports whether an address may ask once more.
func (r *rates) allow(from netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	b := r.buckets[from]
	switch {
	case b != nil:
	case len(r.buckets) < maxSources:
		b = &bucket{r.burst, now}
		r.buckets[from] = b
	default:
		b = &r.others
	}
	b.tokens = min(r.burst, b.tokens+r.rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// sweep forgets addresses whose buckets are full.
func (r *rates) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for from, b := range r.buckets {
		if b.tokens+r.rate*now.Sub(b.at).Seconds() >= r.burst {
			delete(r.buckets, from)
		}
	}
}

// connections counts those of all listeners.
type connections struct {
	mu  sync.Mutex // guards what follows
	all int
	of  map[netip.Addr]int
}

func newConnections() *connections { return &connections{of: map[netip.Addr]int{}} }

// limit returns a listener that closes at once what is too much.
func (c *connections) limit(l net.Listener) net.Listener { return &limited{l, c} }

type limited struct {
	net.Listener
	counts *connections
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := netip.Addr{}
		if at, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
			from = at.Addr().Unmap()
		}
		if l.counts.enter(from) {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.counts.leave(from) })}, nil
		}
		conn.Close()
	}
}

func (c *connections) enter(from netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxConnections || c.of[from] >= maxConnectionsOfSource {
		return false
	}
	c.all++
	c.of[from]++
	return true
}

func (c *connections) leave(from netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.of[from]--; c.of[from] == 0 {
		delete(c.of, from)
	}
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
