// Package dns answers DNS for the registry: the names of Kubernetes' DNS-based service discovery, from memory. All
// other names go to other servers by CoreDNS' plugins forward and cache.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
)

// The limits of the options.
const (
	MaxTTL   = 3600    // seconds
	MaxCache = 1 << 20 // answers
)

// Options say what to answer, and where.
type Options struct {
	Source registry.Source
	// Domain is what all names end with, such as "cluster.local"; TTL is that of answers, in seconds.
	Domain string
	TTL    uint32
	// Servers are the addresses that ns.dns.DOMAIN has.
	Servers []netip.Addr
	// Local are the ranges whose reverse names are nowhere but in the registry: those of services and containers.
	Local  []netip.Prefix
	Listen []Listener
	// Upstreams are asked for all other names, the first first: ADDRESS, ADDRESS:PORT, or the path of a resolv.conf, which is
	// read again when it changes. A server of Listen is passed by, and so is what leads back here. None: other names are refused.
	Upstreams []string
	// Cache is how many answers of theirs are remembered, and how many denials; 0: none.
	Cache  int
	Logger *slog.Logger // nil discards
}

// Listener is an address to answer at, by UDP and TCP.
type Listener struct {
	Addr netip.AddrPort
	// Allow tells who may ask; nil: everybody. What others send is dropped.
	Allow func(netip.Addr) bool
}

// Server answers DNS. Its index belongs to whatever the registry last told.
type Server struct {
	opts  Options
	zone  zone
	log   *slog.Logger
	index atomic.Pointer[index] // nil: the registry has told nothing yet

	upstreams *upstreams
	gate      *gate
	metrics   *metrics

	mu       sync.Mutex
	deaf     map[netip.AddrPort]error // where it cannot listen
	bound    map[netip.AddrPort]netip.AddrPort
	lastSaid map[string]time.Time
}

// New returns a server that does not listen yet.
func New(o Options) (*Server, error) {
	domain := dns.CanonicalName(o.Domain)
	if _, ok := dns.IsDomainName(domain); !ok || domain == "." {
		return nil, fmt.Errorf("DNS domain %q: want one such as cluster.local", o.Domain)
	}
	if o.TTL > MaxTTL || o.Cache < 0 || o.Cache > MaxCache {
		return nil, fmt.Errorf("DNS: TTL %d, cache %d: want at most %d seconds and %d answers", o.TTL, o.Cache, MaxTTL, MaxCache)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		opts: o, log: o.Logger, metrics: newMetrics(), gate: newGate(),
		zone: zone{domain: domain, ttl: o.TTL, ns: o.Servers, local: o.Local},
		deaf: map[netip.AddrPort]error{}, bound: map[netip.AddrPort]netip.AddrPort{}, lastSaid: map[string]time.Time{},
	}
	s.upstreams = newUpstreams(s)
	return s, nil
}

// Run answers until ctx ends, and then returns nil. Where it cannot listen, it tries again: see Health.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.follow(ctx)
		return nil
	})
	group.Go(func() error {
		s.upstreams.run(ctx)
		return nil
	})
	for _, l := range s.opts.Listen {
		group.Go(func() error {
			s.listen(ctx, l)
			return nil
		})
	}
	return group.Wait()
}

// follow keeps the index equal to the registry.
func (s *Server) follow(ctx context.Context) {
	for b := range s.opts.Source.Watch(ctx) {
		if !b.Snapshot {
			if x := s.index.Load(); x != nil {
				x.apply(b)
			}
			continue
		}
		x := newIndex() // readers go on with the old one meanwhile
		x.apply(b)
		s.index.Store(x)
	}
}

// Revision is that of the registry which answers are from; 0: it has told nothing yet.
func (s *Server) Revision() int64 {
	x := s.index.Load()
	if x == nil {
		return 0
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.revision
}

// Health says what keeps the server from answering, or nil.
func (s *Server) Health() error {
	var errs []error
	if s.index.Load() == nil {
		errs = append(errs, errors.New("the registry has not told its contents yet"))
	}
	s.mu.Lock()
	for _, l := range s.opts.Listen {
		if err := s.deaf[l.Addr]; err != nil {
			errs = append(errs, err)
		}
	}
	s.mu.Unlock()
	return errors.Join(append(errs, s.upstreams.health())...)
}

// sayPause is how often one kind of trouble is logged at most.
const sayPause = 10 * time.Second

// say logs trouble that clients or other servers cause, which could come with every query.
func (s *Server) say(what string, err error) {
	s.mu.Lock()
	now := time.Now()
	often := now.Sub(s.lastSaid[what]) < sayPause
	if !often {
		s.lastSaid[what] = now
	}
	s.mu.Unlock()
	if !often {
		s.log.Warn(what, "error", err)
	}
}
