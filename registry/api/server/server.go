// Package server answers the agent's HTTP API.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/api"
)

// Limits on requests.
const (
	MaxBody        = 8 << 20          // bytes of documents
	maxSmallBody   = 64 << 10         // bytes of anything else
	handleTimeout  = 45 * time.Second // the client waits a little longer
	defaultSync    = 10 * time.Second
	bodyReadPeriod = 10 * time.Second
)

// Store is where objects are written.
type Store interface {
	// CheckServices says of each request why PutServices would not take it, nil if it would, and returns the services
	// as they are now, nil where there is none.
	CheckServices(context.Context, []registry.ServiceRequest) (old []*registry.Service, refused []error, err error)
	// PutServices writes services in this order. It returns those that were written, from the first on, and the
	// revision from which on they are known; the error is about the one after them.
	PutServices(context.Context, []registry.ServiceRequest) ([]registry.Service, int64, error)
	DeleteService(ctx context.Context, n registry.Name, slices ...registry.Name) (int64, error)
	// Check says whether Commit would take a change by itself.
	Check(registry.Change) error
	// Commit writes and deletes slices, namespaces and policies, all or none, and says what became of each.
	Commit(context.Context, []registry.Change) ([]registry.Outcome, int64, error)
	LabelEndpoint(ctx context.Context, id registry.EndpointID, set map[string]string, remove []string) (int64, error)
	// MarkEndpoint returns the endpoint as it is then.
	MarkEndpoint(context.Context, registry.EndpointID, registry.Marks) (registry.Endpoint, int64, error)
}

// Agent is the node that the API stands for.
type Agent interface {
	Status(context.Context) api.Status
	Check(context.Context) (api.CheckResult, error)
	// WaitSynced returns once this node's maps reflect the revision.
	WaitSynced(ctx context.Context, revision int64) error
}

// Watcher follows the registry from a revision on: a registry.Hub.
type Watcher interface {
	WatchFrom(ctx context.Context, rev int64) (<-chan registry.Batch, error)
}

// Options says what stands behind the API.
type Options struct {
	Store   Store
	Catalog *registry.Catalog
	Agent   Agent
	Version api.Version
	// Keeper answers what concerns the store as a whole; nil: nobody does.
	Keeper Keeper
	// View is what lists, and all about instances, are answered from; nil: one is made that its owner feeds.
	View *View
	// Watch is what watches follow; nil: there are none.
	Watch Watcher
	// Metrics answers GET /v1/metrics; nil: nobody does.
	Metrics http.Handler
	// Registrar is where instances register; nil: there are none.
	Registrar registry.Registrar
	// Guard says who may write; nil: root's processes by a unix socket, and holders of client certificates.
	Guard *access.Guard
	// Observer answers /v1/events and /v1/why; nil: there are none.
	Observer Observer
	// Stopping is closed when streams are to end; nil: never.
	Stopping <-chan struct{}
	// SyncTimeout bounds how long an answer waits for this node's maps; 0 is 10 s.
	SyncTimeout time.Duration
	Logger      *slog.Logger // nil discards
}

// Server is the API's http.Handler, for all paths below /v1/.
type Server struct {
	Options
	mux         *http.ServeMux
	patterns    []string      // of the mux, but for the last resort
	streamWrite time.Duration // for each event of a stream
	bookmark    time.Duration // between two bookmarks of a watch
	ready       readiness
}

// New returns a server.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SyncTimeout == 0 {
		o.SyncTimeout = defaultSync
	}
	if o.View == nil {
		o.View = NewView()
	}
	if o.Guard == nil {
		o.Guard = &access.Guard{}
	}
	s := &Server{Options: o, mux: http.NewServeMux(), streamWrite: defaultStreamWrite, bookmark: defaultBookmark}
	s.handle("GET /v1/version", s.version)
	s.handleFor(access.Caller.MayInspect, "GET /v1/status", s.status)
	s.handleWrite("GET /v1/check", s.check) // it costs more than any other question
	s.handleWrite("POST /v1/apply", s.apply)
	s.handleWrite("POST /v1/delete", s.deleteDocuments)
	s.handleWrite("POST /v1/endpoints/label", s.label)
	s.handleWrite("POST /v1/endpoints/mark", s.mark)
	s.route()
	s.routeOpenAPI()
	s.routeHealth()
	s.routeKeeping()
	s.routeInstances()
	s.observe()
	s.mux.HandleFunc(lastResort, s.nothing)
	return s
}

const lastResort = "/" // pattern of what nothing else answers

// nothing answers what no handler does. A path that is there under other methods says which (RFC 9110, 15.5.6).
func (s *Server) nothing(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodPatch, http.MethodPost, http.MethodPut} {
		other := *r
		other.Method = method
		if _, pattern := s.mux.Handler(&other); pattern != lastResort {
			allow = append(allow, method)
		}
	}
	e := &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no such path or method: %s %s", r.Method, r.URL.Path)}
	if len(allow) > 0 {
		e.Status = http.StatusMethodNotAllowed
		w.Header().Set("Allow", strings.Join(allow, ", "))
	}
	s.fail(w, r, e)
}

// TooMany refuses a request of a client that makes too many.
func (s *Server) TooMany(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, &api.Error{Status: http.StatusTooManyRequests, Message: "this client makes too many requests: wait a little"})
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// handle registers a handler that returns what to answer, or an error; nil is an empty answer.
func (s *Server) handle(pattern string, h func(*http.Request) (any, error)) {
	s.on(pattern, s.answer(h))
}

// handleWrite is the same for those who may write everything.
func (s *Server) handleWrite(pattern string, h func(*http.Request) (any, error)) {
	s.handleFor(access.Caller.MayWrite, pattern, h)
}

func (s *Server) handleFor(may func(access.Caller) error, pattern string, h func(*http.Request) (any, error)) {
	s.handle(pattern, func(r *http.Request) (any, error) {
		if err := may(s.caller(r)); err != nil {
			return nil, err
		}
		return h(r)
	})
}

func (s *Server) answer(h func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
		defer cancel()
		boundBody(w, r)
		answer, err := h(r.WithContext(ctx))
		if err != nil {
			s.fail(w, r, asError(err))
			return
		}
		if answer == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		write(w, http.StatusOK, answer)
	}
}

// caller tells who sent a request.
func (s *Server) caller(r *http.Request) access.Caller { return s.Guard.Caller(r) }

// boundBody keeps a client that sends its body drop by drop from holding us up. Not every connection
// can do it, and then the handler's own time bounds it. The deadline ends with the body: net/http goes on
// reading behind it, and would take a deadline that passes there for a client that has gone.
func boundBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		return
	}
	c := http.NewResponseController(w)
	if c.SetReadDeadline(time.Now().Add(bodyReadPeriod)) == nil {
		r.Body = &boundedBody{r.Body, func() { _ = c.SetReadDeadline(time.Time{}) }}
	}
}

type boundedBody struct {
	io.ReadCloser
	over func()
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.over()
	}
	return n, err
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, e *api.Error) {
	if e.Status >= 500 {
		s.Logger.Warn("request failed", "method", r.Method, "path", r.URL.Path, "err", e.Message)
	}
	h := w.Header()
	h.Set("Content-Type", api.ProblemType)
	switch e.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="sluice"`) // RFC 9110, 11.6.1
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", "1")
	}
	write(w, e.Status, e.Problem())
}

func write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status = http.StatusInternalServerError
		b = []byte(`{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"the answer cannot be encoded"}`)
		w.Header().Set("Content-Type", api.ProblemType)
	}
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client has gone: nobody to tell
}

// asError gives an error its status.
func asError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	e = &api.Error{Status: http.StatusInternalServerError, Message: err.Error()}
	switch {
	case errors.Is(err, registry.ErrNotFound):
		e.Status = http.StatusNotFound
	case errors.Is(err, access.ErrUnauthenticated):
		e.Status = http.StatusUnauthorized
	case errors.Is(err, access.ErrForbidden):
		e.Status = http.StatusForbidden
	case errors.Is(err, registry.ErrCompacted):
		e.Status = http.StatusGone
	case errors.Is(err, registry.ErrVIPTaken), errors.Is(err, registry.ErrVIPImmutable), errors.Is(err, registry.ErrNodePortTaken):
		e.Status = http.StatusConflict
	case errors.Is(err, registry.ErrVIPOutOfRange), errors.Is(err, registry.ErrNodePortOutOfRange), errors.Is(err, registry.ErrFamily),
		errors.Is(err, registry.ErrInvalid):
		e.Status = http.StatusUnprocessableEntity
	case errors.Is(err, registry.ErrVIPsExhausted), errors.Is(err, registry.ErrNodePortsExhausted), errors.Is(err, registry.ErrFull):
		e.Status = http.StatusInsufficientStorage
	case errors.Is(err, registry.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e.Status = http.StatusServiceUnavailable
	}
	return e
}

// readBody reads a request's body, which may be no larger than limit.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, &api.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("read request: %s", err)}
	}
	if int64(len(b)) > limit {
		return nil, &api.Error{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("request has more than the %d bytes allowed", limit)}
	}
	return b, nil
}

// synced waits until this node's maps reflect a revision and notes in the answer if they do not.
func (s *Server) synced(ctx context.Context, revision int64, out *api.Results) {
	ctx, cancel := context.WithTimeout(ctx, s.SyncTimeout)
	defer cancel()
	err := s.View.wait(ctx, revision) // so that who wrote reads it
	if err == nil {
		err = s.Agent.WaitSynced(ctx, revision)
	}
	if out.Synced = err == nil; err != nil {
		out.Warning = fmt.Sprintf("written to the registry, but this node's maps do not reflect it yet: %s (see \"sluice status\")", err)
	}
}

func (s *Server) status(r *http.Request) (any, error) { return s.Agent.Status(r.Context()), nil }

func (s *Server) version(*http.Request) (any, error) { return s.Version, nil }

func (s *Server) check(r *http.Request) (any, error) {
	c, err := s.Agent.Check(r.Context())
	if c.Differences == nil {
		c.Differences = []api.Difference{}
	}
	return c, err
}
