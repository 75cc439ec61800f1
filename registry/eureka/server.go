// Package eureka serves the REST protocol of Netflix's Eureka, so that its clients register with, and read from, the
// registry without being changed.
//
// What registers is an ordinary instance of the service of its application's name: it is a backend, has a DNS name and
// is subject to policies. Instances that came in another way show here too. Reads are answered from memory, of one
// consistent state: nothing is older than the registry's last change, and a delta's hash is that of the moment of its
// content. A heartbeat writes nothing.
//
// Servers of other registries may be peers: each is told what the other's clients do, so that a cluster of the
// reference's servers can be left step by step.
//
// What differs from the reference server on purpose: a change is visible at once (its cache: up to 30 s), a lease lasts
// once its duration (twice), and nothing freezes the registry when many leases lapse: how they are let go is the store's
// matter.
package eureka

import (
	"cmp"
	"context"
	"hash/maphash"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
)

const (
	// Port is where Eureka's clients look for a server.
	Port = 8761

	defaultNamespace = "default"
	defaultRetention = 3 * time.Minute // of changes in the delta: what the reference has
	sweepEvery       = time.Minute

	// settleTime is how long a request waits for what it wrote to be visible, and for the registry at the start.
	settleTime = 2 * time.Second
)

// Options says what to serve.
type Options struct {
	Source    registry.Source
	Registrar registry.Registrar
	// Guard decides who may register and change what.
	Guard *access.Guard
	// Namespace is that of all applications; "": default.
	Namespace string
	// Node is the name that the server goes by.
	Node string
	// Retention is how long a change stays in the delta; 0: 3 min.
	Retention time.Duration
	// Peers are servers of other registries that are told what clients do here, and whose instances are taken over at
	// the start; see ParsePeer. None has the same PeerName as another.
	Peers []*url.URL
	// Registry returns what tells the registry from others; servers that share one are no peers of each other. nil: it
	// is this server's alone.
	Registry func(context.Context) (string, error)
	// Transport reaches the peers; nil: directly.
	Transport http.RoundTripper
	// Now is the time, for tests; nil: the machine's.
	Now func() time.Time
	// Logger: nil discards.
	Logger *slog.Logger
}

// Server answers Eureka's clients. It is an http.Handler; what serves it bounds headers, connections, rates and how
// long a request or an answer may take.
type Server struct {
	o       Options
	log     *slog.Logger
	view    *view
	writer  *writer
	metrics *metrics
	started time.Time
	peers   []*peer
	self    string // see senderHeader

	identity sync.Mutex // guards id
	id       string     // of the registry; "": not known yet

	seed  maphash.Seed
	order [64]sync.Mutex // of changes to one instance; by hash of its id
}

// New returns a server that knows nothing before Run.
func New(o Options) *Server {
	o.Namespace = cmp.Or(o.Namespace, defaultNamespace)
	o.Retention = cmp.Or(o.Retention, defaultRetention)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Guard == nil {
		o.Guard = &access.Guard{}
	}
	v := newView(o.Namespace, o.Retention, o.Now)
	s := &Server{
		o: o, log: o.Logger, view: v, writer: &writer{view: v},
		started: o.Now(), seed: maphash.MakeSeed(),
	}
	s.peers = s.newPeers(o.Peers, o.Transport)
	s.metrics = newMetrics(s)
	return s
}

// Run follows the registry until ctx ends.
func (s *Server) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.writer.sweep()
			case <-ctx.Done():
				return
			}
		}
	})
	for _, p := range s.peers {
		group.Go(func() { p.run(ctx) })
	}
	group.Go(func() { s.copyPeers(ctx) })
	s.view.follow(ctx, s.o.Source)
}

// Wait returns when the registry is known as of a revision, or ctx ends.
func (s *Server) Wait(ctx context.Context, revision int64) error { return s.view.wait(ctx, revision) }

// alone makes changes to one instance wait for each other. The caller calls what it returns when it is done.
func (s *Server) alone(id registry.InstanceID) func() {
	m := &s.order[maphash.String(s.seed, id.ID)%uint64(len(s.order))]
	m.Lock()
	return m.Unlock
}
