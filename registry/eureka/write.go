package eureka

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"strconv"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

const (
	// maxInstance bounds the body of a registration, in bytes, also after it was uncompressed.
	maxInstance = 256 << 10
	// replicationHeader marks what a peer passes on.
	replicationHeader = "X-Netflix-Discovery-Replication"
)

// replicated reports whether a peer passes the request on.
func (q *request) replicated() bool { return q.Request.Header.Get(replicationHeader) == "true" }

// outcome is what became of a change.
type outcome struct {
	code     int
	reason   string             // for people; may be empty
	revision int64              // from which on it is visible; 0: nothing is to wait for
	conflict *entry             // with 409: what is known here, which is newer
	written  *registry.Instance // what the change made of the instance; nil: nothing was written
}

// failed makes an outcome of a store's or a guard's error.
func failed(err error) outcome {
	switch {
	case errors.Is(err, access.ErrUnauthenticated):
		return outcome{code: http.StatusUnauthorized, reason: err.Error()}
	case errors.Is(err, access.ErrForbidden):
		return outcome{code: http.StatusForbidden, reason: err.Error()}
	case errors.Is(err, registry.ErrNotFound):
		return outcome{code: http.StatusNotFound}
	case errors.Is(err, registry.ErrFull), errors.Is(err, registry.ErrVIPsExhausted):
		return outcome{code: http.StatusInsufficientStorage, reason: err.Error()}
	case errors.Is(err, registry.ErrInvalid):
		return outcome{code: http.StatusBadRequest, reason: err.Error()}
	}
	return outcome{code: http.StatusServiceUnavailable, reason: err.Error()}
}

// answer waits until the change is visible and answers. Only where it is said may there be a text: those who renew
// cannot read any.
func (s *Server) answer(q *request, o outcome, mayTell bool) {
	s.settle(q.Context(), o.revision)
	switch {
	case o.code == http.StatusConflict && o.conflict != nil:
		s.sendInstance(q, o.code, o.conflict)
		return
	case o.code == http.StatusUnauthorized:
		q.Header().Set("WWW-Authenticate", `Basic realm="sluice"`)
	}
	if mayTell && o.reason != "" {
		q.text(o.code, "text/plain; charset=utf-8", o.reason)
		return
	}
	q.empty(o.code)
}

// postInstance registers.
func (s *Server) postInstance(q *request) {
	xml := false
	switch kind, _, _ := mime.ParseMediaType(q.Request.Header.Get("Content-Type")); kind {
	case "application/json":
	case "application/xml":
		xml = true
	default:
		q.empty(http.StatusUnsupportedMediaType)
		return
	}
	data, code := q.body(maxInstance)
	if code != 0 {
		q.empty(code)
		return
	}
	w, err := wire.ParseInstance(data, xml)
	if err != nil {
		s.log.Debug("a registration cannot be read", "from", q.caller.Name, "app", q.key.app, "error", err)
		if xml {
			q.text(http.StatusBadRequest, "application/xml", "<error><message>cannot parse request body</message></error>")
		} else {
			q.text(http.StatusBadRequest, "application/json", `{"error": "cannot parse request body"}`)
		}
		return
	}
	s.answer(q, s.register(q.Context(), q.caller, q.key.app, w, q.replicated()), true)
}

// register adds an instance or replaces one.
func (s *Server) register(ctx context.Context, c access.Caller, app string, w *wire.Instance, replicated bool) outcome {
	if err := w.Check(app); err != nil {
		return outcome{code: http.StatusBadRequest, reason: err.Error()}
	}
	if err := c.MayRegister(addressesOf(w.IPAddr)); err != nil {
		return failed(err)
	}
	if !s.known(ctx) {
		return outcome{code: http.StatusServiceUnavailable, reason: "the registry is not known yet"}
	}
	id := registry.InstanceID{Namespace: s.o.Namespace, Service: serviceName(w.App), ID: w.ID()}
	defer s.alone(id)()
	var old *registry.Instance
	if e := s.view.registered(id); e != nil {
		if e.app != w.App {
			return outcome{code: http.StatusBadRequest, reason: "the service " + id.Service + " has an instance of this id already, of the application " + e.app}
		}
		if err := c.MayAlter(e.instance); err != nil {
			return failed(err)
		}
		old = e.instance
	}
	next, err := register(s.o.Namespace, w, old, replicated, s.o.Now())
	if err == nil {
		err = next.Validate()
		if err != nil {
			return outcome{code: http.StatusBadRequest, reason: err.Error()}
		}
	}
	if err == nil && old == nil {
		err = c.MayAdd(&next)
	}
	if err == nil && old != nil && old.Override != "" && next.Override == "" {
		// To register would keep it.
		_, _, err = s.o.Registrar.Update(ctx, id, func(i *registry.Instance) error {
			if err := c.MayAlter(i); err != nil {
				return err
			}
			i.Override, i.Status, i.Eureka = "", next.Status, next.Eureka
			return nil
		})
	}
	var revision int64
	if err == nil {
		next, revision, err = s.o.Registrar.Register(registry.WithMayAlter(ctx, c.MayAlter), next)
	}
	if err != nil {
		return failed(err)
	}
	if !replicated {
		s.tellOf(wire.TaskRegister, &next)
	}
	s.renewed(ctx, id, revision)
	return outcome{code: http.StatusNoContent, revision: revision}
}

// known waits at the start until the registry's contents are known, and reports whether they are.
func (s *Server) known(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	return s.view.wait(ctx, 0) == nil
}

// renewed notes when an instance was renewed last, once it is visible as of a revision.
func (s *Server) renewed(ctx context.Context, id registry.InstanceID, revision int64) {
	s.settle(ctx, revision)
	if e := s.view.registered(id); e != nil {
		e.renewed.Store(s.o.Now().UnixMilli())
	}
}

// alterable returns an instance that the caller may change, or why not.
func (s *Server) alterable(ctx context.Context, c access.Caller, k key) (*entry, outcome) {
	if !s.known(ctx) {
		return nil, outcome{code: http.StatusServiceUnavailable}
	}
	e := s.view.instance(k)
	if e == nil || e.instance == nil {
		return nil, outcome{code: http.StatusNotFound}
	}
	if err := c.MayAlter(e.instance); err != nil {
		return nil, failed(err)
	}
	return e, outcome{}
}

// dirtyTime reads the parameter by which clients say when they last changed what they registered. It is 0 when it is not given.
func (q *request) dirtyTime() (int64, bool) {
	text := q.URL.Query().Get("lastDirtyTimestamp")
	if text == "" {
		return 0, true
	}
	dirty, err := strconv.ParseInt(text, 10, 64)
	return dirty, err == nil
}

// putInstance renews.
func (s *Server) putInstance(q *request) {
	dirty, ok := q.dirtyTime()
	if !ok {
		q.empty(http.StatusInternalServerError)
		return
	}
	over := q.URL.Query().Get("overriddenstatus")
	s.answer(q, s.renew(q.Context(), q.caller, q.key, dirty, over, q.replicated()), false)
}

// renew starts an instance's lease afresh. dirty is the client's time of its last change; 0: it does not say. over is
// the override that a peer knows.
func (s *Server) renew(ctx context.Context, c access.Caller, k key, dirty int64, over string, replicated bool) outcome {
	e, no := s.alterable(ctx, c, k)
	if e == nil {
		return no
	}
	if e.stored == wire.Unknown {
		return outcome{code: http.StatusNotFound}
	}
	if o := s.keepAlive(ctx, e); o.code != http.StatusOK {
		return o
	}
	switch last := e.wire.LastDirty; {
	case dirty == 0 || dirty == last || dirty < last && !replicated:
		if !replicated && len(s.peers) > 0 {
			s.tell(wire.TaskHeartbeat, e.told())
		}
		return outcome{code: http.StatusOK}
	case dirty < last:
		return outcome{code: http.StatusConflict, conflict: e}
	}
	if status, known := wire.ParseStatus(over); replicated && known && status != wire.Unknown {
		o := s.update(ctx, c, e, func(i *registry.Instance) error { return setStatus(i, status, 0, s.o.Now()) })
		return outcome{code: http.StatusNotFound, revision: o.revision}
	}
	return outcome{code: http.StatusNotFound} // register again, please
}

// keepAlive starts the lease afresh. While the store is away, what it would do about leases waits too.
func (s *Server) keepAlive(ctx context.Context, e *entry) outcome {
	err := s.o.Registrar.Renew(ctx, e.instance.InstanceID)
	switch {
	case err == nil:
		s.metrics.heartbeats.Inc()
	case errors.Is(err, registry.ErrUnavailable):
		s.metrics.remembered.Inc()
	default:
		return failed(err)
	}
	e.renewed.Store(s.o.Now().UnixMilli())
	return outcome{code: http.StatusOK}
}

// update changes an instance, if it is still one that the caller may change.
func (s *Server) update(ctx context.Context, c access.Caller, e *entry, edit func(*registry.Instance) error) outcome {
	next, revision, err := s.o.Registrar.Update(ctx, e.instance.InstanceID, func(i *registry.Instance) error {
		if err := c.MayAlter(i); err != nil {
			return err
		}
		return edit(i)
	})
	if err != nil {
		return failed(err)
	}
	return outcome{code: http.StatusOK, revision: revision, written: &next}
}

// deleteInstance cancels.
func (s *Server) deleteInstance(q *request) {
	s.answer(q, s.cancel(q.Context(), q.caller, q.key, q.replicated()), false)
}

func (s *Server) cancel(ctx context.Context, c access.Caller, k key, replicated bool) outcome {
	e, no := s.alterable(ctx, c, k)
	if e == nil {
		return no
	}
	defer s.alone(e.instance.InstanceID)()
	revision, err := s.o.Registrar.Deregister(registry.WithMayAlter(ctx, c.MayAlter), e.instance.InstanceID)
	if err != nil {
		return failed(err)
	}
	if !replicated && len(s.peers) > 0 {
		s.tell(wire.TaskCancel, e.told())
	}
	return outcome{code: http.StatusOK, revision: revision}
}

// putStatus sets an override.
func (s *Server) putStatus(q *request) { s.changeStatus(q, wire.TaskStatus) }

// deleteStatus takes an override back. It need not say what the instance is then.
func (s *Server) deleteStatus(q *request) { s.changeStatus(q, wire.TaskDeleteStatus) }

func (s *Server) changeStatus(q *request, action wire.TaskAction) {
	dirty, ok := q.dirtyTime()
	text := q.URL.Query().Get("value")
	status, known := wire.ParseStatus(text)
	if !ok || !known && (text != "" || action == wire.TaskStatus) {
		q.empty(http.StatusInternalServerError)
		return
	}
	s.answer(q, s.overrule(q.Context(), q.caller, q.key, action, status, dirty, q.replicated()), false)
}

// overrule sets an override, or takes it back, as the action says.
func (s *Server) overrule(ctx context.Context, c access.Caller, k key, action wire.TaskAction, status wire.Status, dirty int64, replicated bool) outcome {
	e, no := s.alterable(ctx, c, k)
	if e == nil {
		return no
	}
	defer s.alone(e.instance.InstanceID)()
	o := s.keepAlive(ctx, e)
	switch {
	case o.code != http.StatusOK:
	case action == wire.TaskDeleteStatus:
		o = s.update(ctx, c, e, func(i *registry.Instance) error { return dropStatus(i, status, dirty) })
	case e.stored != status:
		o = s.update(ctx, c, e, func(i *registry.Instance) error { return setStatus(i, status, dirty, s.o.Now()) })
	}
	s.tellStatus(action, e, o, replicated)
	return o
}

// putMetadata adds to an instance's metadata, of each key the first value.
func (s *Server) putMetadata(q *request) {
	add := map[string]string{}
	for key, values := range q.URL.Query() {
		add[key] = values[0]
	}
	e, no := s.alterable(q.Context(), q.caller, q.key)
	if e == nil {
		s.answer(q, no, false)
		return
	}
	defer s.alone(e.instance.InstanceID)()
	o := s.keepAlive(q.Context(), e)
	if o.code == http.StatusOK {
		o = s.update(q.Context(), q.caller, e, func(i *registry.Instance) error { return mergeMetadata(i, add) })
	}
	if o.code == http.StatusOK && !q.replicated() {
		s.tellOf(wire.TaskRegister, o.written) // peers know no other way
	}
	s.answer(q, o, true)
}

// putASG would switch an auto scaling group of Amazon's, of which this server has none.
func (s *Server) putASG(q *request) { q.empty(http.StatusBadRequest) }
