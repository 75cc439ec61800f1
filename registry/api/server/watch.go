package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/api"
)

const (
	// defaultBookmark is how often a watch tells how far it has come when it has nothing else to tell.
	defaultBookmark = 10 * time.Second
	// aheadPatience is how long a watch waits for a revision that this node has not come to.
	aheadPatience = 5 * time.Second
	// watchChunk is how many events of the beginning are sent between two looks at the client.
	watchChunk = 500
)

// watcher is one watch under way.
type watcher struct {
	server   *Server
	res      *resource
	query    *query
	show     func(any) any
	control  *http.ResponseController
	out      *json.Encoder
	revision int64 // that the client has been told of
}

// watch answers with a stream of events.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, res *resource, q *query) {
	ctx, cancel := s.streamContext(r.Context())
	defer cancel()
	x := &watcher{server: s, res: res, query: q, show: res.show(s, q), control: http.NewResponseController(w), out: json.NewEncoder(w)}
	var first *snapshot
	from := q.revision
	if from == 0 {
		if err := s.View.wait(ctx, 1); err != nil {
			s.fail(w, r, asError(err))
			return
		}
		first = s.View.snapshot()
		from = first.revision
	}
	batches, err := s.follow(ctx, from)
	if err != nil {
		s.fail(w, r, asError(err))
		return
	}
	// The server's bound on reading is for the request, which has come.
	_ = x.control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("Connection", "close") // its deadlines are the stream's
	x.revision = from
	if x.begin(r.Context(), first) == nil {
		x.run(ctx, batches)
	}
}

// streamContext ends with a request, or when streams are to end.
func (s *Server) streamContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if s.Stopping != nil {
		go func() {
			select {
			case <-s.Stopping:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return ctx, cancel
}

// follow returns what comes after a revision.
func (s *Server) follow(ctx context.Context, from int64) (<-chan registry.Batch, error) {
	if s.Watch == nil {
		return nil, fmt.Errorf("watch: %w", registry.ErrUnavailable)
	}
	patience, cancel := context.WithTimeout(ctx, aheadPatience)
	defer cancel()
	if err := s.View.wait(patience, from); err != nil && ctx.Err() == nil {
		// It may have gone back in time: an old copy of the store was restored.
		return nil, fmt.Errorf("watch from revision %d: %w: this node has not come to it: list again", from, registry.ErrCompacted)
	}
	return s.Watch.WatchFrom(ctx, from)
}

// begin sends all there is, if the client asked for that, and where it goes on from.
func (x *watcher) begin(ctx context.Context, first *snapshot) error {
	if first == nil {
		return x.flush()
	}
	sent := 0
	access.Charge(ctx, len(first.kinds[x.res.kind])/scanCharge)
	for _, it := range first.kinds[x.res.kind] {
		if !x.query.wants(x.res, it.object) {
			continue
		}
		if err := x.send(api.WatchEvent[any]{Type: api.WatchSet, Object: x.show(it.object)}); err != nil {
			return err
		}
		if sent++; sent%watchChunk == 0 {
			access.Charge(ctx, watchChunk/pageCharge)
			if err := x.flush(); err != nil {
				return err
			}
		}
	}
	return x.bookmark(first.revision)
}

// run sends what comes, until the client has gone, does not read, or is to begin again.
func (x *watcher) run(ctx context.Context, batches <-chan registry.Batch) {
	tick := time.NewTicker(x.server.bookmark)
	defer tick.Stop()
	latest := x.revision
	for {
		select {
		case b, open := <-batches:
			switch {
			case !open:
				return
			case b.Snapshot:
				x.expired()
				return
			case x.batch(ctx, b) != nil:
				return
			}
			latest = b.Revision
		case <-tick.C:
			if latest > x.revision && x.bookmark(latest) != nil {
				return
			}
		}
	}
}

// batch sends what of a batch is asked for: each object as it is by now, which may be a little later.
func (x *watcher) batch(ctx context.Context, b registry.Batch) error {
	if err := x.server.View.wait(ctx, b.Revision); err != nil {
		return err
	}
	told := map[string]bool{}
	var events []api.WatchEvent[any]
	for i := range b.Changes {
		k, id, ok := keyOf(&b.Changes[i])
		if !ok || k != x.res.kind || told[id] {
			continue
		}
		told[id] = true
		// Whoever has seen only a part of a batch has to go on from before it.
		event := api.WatchEvent[any]{Type: api.WatchDeleted, Revision: b.Revision - 1}
		object := x.server.View.get(k, id)
		switch {
		case object != nil && x.query.wants(x.res, object):
			event.Type, event.Object = api.WatchSet, x.show(object)
		case !x.query.mayConcern(&b.Changes[i]):
			continue
		default:
			event.Object = nameOf(&b.Changes[i])
		}
		events = append(events, event)
	}
	if len(events) == 0 {
		return nil
	}
	events[len(events)-1].Revision = b.Revision
	for _, event := range events {
		if err := x.send(event); err != nil {
			return err
		}
	}
	return x.flush()
}

// mayConcern reports whether the client may have been told of an object that it now does not want.
func (q *query) mayConcern(ch *registry.Change) bool {
	namespace, service := "", ""
	switch {
	case ch.Service != nil:
		namespace = ch.Service.Namespace
	case ch.Slice != nil:
		namespace = ch.Slice.Namespace
	case ch.Policy != nil:
		namespace = ch.Policy.Namespace
	default:
		if id, ok := instanceOf(ch); ok {
			namespace, service = id.Namespace, id.Service
		}
	}
	wantNamespace, wantService := q.values.Get("namespace"), q.values.Get("service")
	return (wantNamespace == "" || namespace == "" || namespace == wantNamespace) &&
		(wantService == "" || service == wantService)
}

func instanceOf(ch *registry.Change) (id registry.InstanceID, ok bool) {
	switch {
	case ch.Instance != nil:
		return ch.Instance.InstanceID, true
	case ch.Lease != nil:
		return ch.Lease.InstanceID, true
	case ch.Health != nil:
		return ch.Health.InstanceID, true
	}
	return id, false
}

// nameOf is what identifies an object, in the words that the object itself has for it.
func nameOf(ch *registry.Change) any {
	switch {
	case ch.Service != nil:
		return ch.Service.Name
	case ch.Slice != nil:
		return ch.Slice.Name
	case ch.Endpoint != nil:
		return ch.Endpoint.EndpointID
	case ch.Node != nil:
		return plainName{ch.Node.Name}
	case ch.NodeLease != nil:
		return plainName{ch.NodeLease.Node}
	case ch.Namespace != nil:
		return plainName{ch.Namespace.Name}
	case ch.Policy != nil:
		return ch.Policy.PolicyID
	}
	id, _ := instanceOf(ch)
	return id
}

type plainName struct {
	Name string `json:"name"`
}

// expired ends the stream of a client that has to begin again.
func (x *watcher) expired() {
	problem := asError(fmt.Errorf("watch: %w: the changes since revision %d are not at hand any more: list again, or watch without a revision",
		registry.ErrCompacted, x.revision)).Problem()
	if x.send(api.WatchEvent[any]{Type: api.WatchError, Revision: x.revision, Problem: problem}) == nil {
		_ = x.flush() // it is over either way
	}
}

func (x *watcher) bookmark(revision int64) error {
	if err := x.send(api.WatchEvent[any]{Type: api.WatchBookmark, Revision: revision}); err != nil {
		return err
	}
	return x.flush()
}

// send writes one event; the client has some time to take it.
func (x *watcher) send(e api.WatchEvent[any]) error {
	_ = x.control.SetWriteDeadline(time.Now().Add(x.server.streamWrite)) // not every connection can
	x.revision = e.Revision
	return x.out.Encode(e)
}

func (x *watcher) flush() error {
	_ = x.control.SetWriteDeadline(time.Now().Add(x.server.streamWrite))
	if err := x.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
