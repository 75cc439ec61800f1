package eureka

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// Peers are servers of other registries, such as those of a cluster that is being left, that are told what this one's
// clients do: every registration, heartbeat, cancellation and override that is accepted here and was not passed on by a
// peer itself. That they hold the same follows from each instance's time of its last change: who is told of a heartbeat
// of an instance that it does not know, or knows an older state of, asks for a registration (404); who knows a newer one
// answers with it (409).

// newPeers returns those that are to be told of changes.
func (s *Server) newPeers(urls []*url.URL, transport http.RoundTripper) []*peer {
	if transport == nil {
		transport, _ = NewTransport("") // which reads no file
	}
	client := &http.Client{
		Transport: transport,
		// Elsewhere nobody is meant to get what is told, least of all the password.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.self = rand.Text()
	var list []*peer
	for _, u := range urls {
		name := PeerName(u)
		count := func(result string, n int) { s.metrics.peerTasks.WithLabelValues(name, result).Add(float64(n)) }
		plain := *u
		plain.User = nil
		list = append(list, &peer{
			name: name, url: &plain, user: u.User, self: s.self, client: client, queue: newTaskQueue(count),
			now: s.o.Now, log: s.log, count: count, took: s.took, registry: s.registryID,
		})
	}
	return list
}

// Peers returns how those do that are told of changes.
func (s *Server) Peers() []Peer {
	list := make([]Peer, len(s.peers))
	for i, p := range s.peers {
		list[i] = p.state()
	}
	return list
}

// tell has all peers told what was done to an instance, which is w now.
func (s *Server) tell(action wire.TaskAction, w *wire.Instance) {
	for _, p := range s.peers {
		p.tell(action, w)
	}
}

// tellOf is tell of an instance as the registry has it.
func (s *Server) tellOf(action wire.TaskAction, i *registry.Instance) {
	if len(s.peers) > 0 {
		s.tell(action, wireOf(i, recordOf(i)))
	}
}

// tellStatus has peers told of an override that was set or taken back, if it was and no peer has told of it.
func (s *Server) tellStatus(action wire.TaskAction, e *entry, o outcome, replicated bool) {
	switch {
	case replicated || o.code != http.StatusOK || len(s.peers) == 0:
	case o.written != nil:
		s.tellOf(action, o.written)
	default:
		s.tell(action, e.told())
	}
}

// told is an entry's instance as peers are told of it: without what health checks say, because they would not hear
// when it is well again.
func (e *entry) told() *wire.Instance {
	w := *e.now()
	w.Status = e.stored
	return &w
}

func (p *peer) tell(action wire.TaskAction, w *wire.Instance) {
	now := p.now()
	t := wire.Task{App: w.App, ID: w.ID(), Action: action}
	if action != wire.TaskCancel {
		t.LastDirty, t.Status = w.LastDirty, string(w.Status)
	}
	if action == wire.TaskHeartbeat && w.Overridden != wire.Unknown {
		t.Overridden = string(w.Overridden)
	}
	if action == wire.TaskRegister {
		t.Instance = w
	}
	p.queue.put(newQueued(t, w.Lease.Renewal, now), now)
}

// took does what a peer's results ask for: what it does not know it is told, and what it knows better is taken from it.
func (s *Server) took(ctx context.Context, p *peer, batch []*queued, results []wire.Result) {
	away := false // the store is: what is known better comes again with a heartbeat
	for i, r := range results {
		t := batch[i]
		if t.Action != wire.TaskHeartbeat {
			continue
		}
		switch {
		case r.Code == http.StatusNotFound:
			if e := s.view.instance(key{t.App, t.ID}); e != nil && e.instance != nil {
				p.tell(wire.TaskRegister, e.told())
			}
		case r.Code == http.StatusConflict && !away && r.Instance != nil && r.Instance.App == t.App && r.Instance.ID() == t.ID:
			o := s.register(ctx, access.Trusted("peer "+p.name), t.App, r.Instance, true)
			away = o.code == http.StatusServiceUnavailable
			if o.code != http.StatusNoContent {
				s.log.Warn("what a peer knows better cannot be taken over", "peer", p.name, "app", t.App, "id", t.ID, "reason", o.reason)
			}
		}
	}
}

// registryID returns what tells the registry from others, "" while the store cannot say it. It is asked only where
// peers are Sluice's own servers, or think so.
func (s *Server) registryID(ctx context.Context) string {
	s.identity.Lock()
	defer s.identity.Unlock()
	if s.id == "" && s.o.Registry != nil {
		ctx, cancel := context.WithTimeout(ctx, settleTime)
		defer cancel()
		id, err := s.o.Registry(ctx)
		if err != nil {
			s.log.Debug("the registry cannot be told from others", "error", err)
		}
		s.id = id
	}
	return s.id
}

// fromHere reports whether a request comes from this server itself or from one that shares its registry, and refuses
// it then.
func (s *Server) fromHere(q *request) bool {
	header, sent := senderHeader, q.Request.Header.Get(senderHeader)
	if s.self == "" || sent != s.self {
		header, sent = registryHeader, q.Request.Header.Get(registryHeader)
		if sent == "" || sent != s.registryID(q.Context()) {
			return false
		}
	}
	q.Header().Set(header, sent)
	q.empty(http.StatusLoopDetected)
	return true
}

// replicas lists the peers as the status of the server has them: all of them, those that answer, and those that do not.
func (s *Server) replicas() (all, available, unavailable string) {
	var lists [3]strings.Builder
	for _, p := range s.Peers() {
		to := 1
		if p.Err != nil {
			to = 2
		}
		lists[0].WriteString(p.Name + ",")
		lists[to].WriteString(p.Name + ",")
	}
	return lists[0].String(), lists[1].String(), lists[2].String()
}
