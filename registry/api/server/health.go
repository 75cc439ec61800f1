package server

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry/api"
)

// readyFor is how long what is known of the node's readiness is good: anybody may ask, and asking is not free.
const readyFor = time.Second

// readiness remembers whether the node is ready.
type readiness struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

func (s *Server) routeHealth() {
	s.handle("GET /v1/healthz", func(*http.Request) (any, error) { return api.Alive{OK: true}, nil })
	s.handle("GET /v1/readyz", s.readyz)
	if s.Metrics == nil {
		return
	}
	s.on("GET /v1/metrics", func(w http.ResponseWriter, r *http.Request) {
		if err := s.caller(r).MayInspect(); err != nil {
			s.fail(w, r, asError(err))
			return
		}
		s.Metrics.ServeHTTP(w, r)
	})
}

// readyz says whether the node is ready. Why it is not stands in its status, which is not for everybody.
func (s *Server) readyz(r *http.Request) (any, error) {
	s.ready.mu.Lock()
	defer s.ready.mu.Unlock()
	if time.Since(s.ready.at) > readyFor {
		var missing []string
		status := s.Agent.Status(r.Context())
		for _, c := range status.Conditions {
			if !c.OK {
				missing = append(missing, c.Name)
			}
		}
		s.ready.at, s.ready.err = time.Now(), nil
		if !status.Ready {
			s.ready.err = &api.Error{Status: http.StatusServiceUnavailable, Message: "the node is not ready: " + strings.Join(missing, ", ")}
		}
	}
	if s.ready.err != nil {
		return nil, s.ready.err
	}
	return api.Alive{OK: true}, nil
}
