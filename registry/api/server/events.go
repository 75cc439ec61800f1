package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// defaultStreamWrite bounds how long a client may leave a stream unread; what happens meanwhile it misses.
const defaultStreamWrite = 30 * time.Second

// Observer looks at what this node's dataplane does.
type Observer interface {
	// Events begins a stream. While it lives, the verdicts on new flows of the containers in watch are told.
	Events(filter registry.EventFilter, watch []registry.EndpointID) (EventStream, error)
	// Why answers what would become of a flow's first packet.
	Why(registry.Probe) (registry.TraceFlow, error)
}

// EventStream is a stream of events.
type EventStream interface {
	// Next waits for the next one; an error ends the stream.
	Next(context.Context) (*registry.Event, error)
	Close()
}

// observe registers the handlers that need an Observer.
func (s *Server) observe() {
	if s.Observer == nil {
		return
	}
	s.on("GET /v1/events", s.events)
	s.handleWrite("GET /v1/why", s.why)
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	// They tell of everybody's traffic: that is for who may do everything.
	if err := s.caller(r).MayWrite(); err != nil {
		s.fail(w, r, asError(err))
		return
	}
	q, err := api.ParseEventQuery(r.URL.Query())
	if err != nil {
		s.fail(w, r, &api.Error{Status: http.StatusBadRequest, Message: "events: " + err.Error()})
		return
	}
	stream, err := s.beginEvents(q)
	if err != nil {
		s.fail(w, r, asError(err))
		return
	}
	defer stream.Close()
	ctx, cancel := s.streamContext(r.Context())
	defer cancel()
	s.sendEvents(ctx, w, stream, q.Limit)
}

func (s *Server) beginEvents(q api.EventQuery) (EventStream, error) {
	filter, err := q.Filter()
	if err != nil {
		return nil, &api.Error{Status: http.StatusUnprocessableEntity, Message: "events: " + err.Error()}
	}
	var watch []registry.EndpointID
	for _, container := range q.Watch {
		list, err := find(s.Catalog.Endpoints(), container)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if e.Node != s.Version.Node {
				return nil, &api.Error{Status: http.StatusUnprocessableEntity, Message: fmt.Sprintf(
					"container %s runs on node %s: watch it there", e.Name, e.Node)}
			}
			watch = append(watch, e.EndpointID)
		}
	}
	return s.Observer.Events(filter, watch)
}

// sendEvents writes events until the client goes, does not read, or has as many as it wants.
func (s *Server) sendEvents(ctx context.Context, w http.ResponseWriter, stream EventStream, limit uint64) {
	c := http.NewResponseController(w)
	// The server's bound on reading is for the request, which has come. Where there can be none, there
	// was none.
	_ = c.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("Connection", "close") // its deadlines are the stream's
	if c.Flush() != nil {
		return
	}
	out := json.NewEncoder(w)
	for sent := uint64(0); limit == 0 || sent < limit; {
		e, err := stream.Next(ctx)
		if err != nil {
			return // nobody is left to be told
		}
		if e.Type != registry.EventLost {
			sent++
		}
		_ = c.SetWriteDeadline(time.Now().Add(s.streamWrite))
		if out.Encode(e) != nil || c.Flush() != nil {
			return
		}
	}
}
