package eureka

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// answerCharge is how many bytes of an answer about many instances count as a request more.
const answerCharge = 64 << 10

func (s *Server) getAll(q *request)   { q.send(q.listForm(), http.StatusForbidden, s.whole(false)) }
func (s *Server) getDelta(q *request) { q.send(q.listForm(), http.StatusForbidden, s.whole(true)) }

func (s *Server) whole(changes bool) func(form) *body {
	return func(f form) *body { return s.writer.all(changes, f) }
}

func (s *Server) getApp(q *request)       { s.getPart(q, askApp, q.key.app) }
func (s *Server) getVIP(q *request)       { s.getPart(q, askVIP, q.name) }
func (s *Server) getSecureVIP(q *request) { s.getPart(q, askSecureVIP, q.name) }

func (s *Server) getPart(q *request, kind queryKind, name string) {
	missing := http.StatusForbidden
	if s.view.snapshot() != nil {
		missing = http.StatusNotFound
	}
	q.send(q.listForm(), missing, func(f form) *body { return s.writer.part(question{kind, name, f}) })
}

// listForm is the form of answers about many instances: XML, unless JSON is named anywhere.
func (q *request) listForm() form {
	return formOf(wire.Format{
		XML:     !strings.Contains(strings.ToLower(q.Request.Header.Get("Accept")), "json"),
		Compact: strings.EqualFold(q.Request.Header.Get("X-Eureka-Accept"), "compact"),
	}, q.acceptsGzip())
}

// acceptsGzip reports whether the answer may be compressed. Some clients cannot read one, and do not ask for it.
func (q *request) acceptsGzip() bool {
	for _, line := range q.Request.Header.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(line, ",") {
			name, quality := weighed(item)
			if (name == "gzip" || name == "x-gzip") && quality > 0 {
				return true
			}
		}
	}
	return false
}

// weighed reads one item of a header that lists what is wanted, and how much (RFC 9110, 12.4.2).
func weighed(item string) (name string, quality float64) {
	name, params, err := mime.ParseMediaType(item)
	if err != nil {
		name, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(item)), ";")
	}
	if text, given := params["q"]; given {
		if quality, err = strconv.ParseFloat(text, 64); err != nil {
			return name, 0
		}
		return name, quality
	}
	return name, 1
}

// send answers with a body, or with a code when there is none.
func (q *request) send(f form, missing int, find func(form) *body) {
	b := find(f)
	if b == nil {
		q.empty(missing)
		return
	}
	h := q.Header()
	h.Set("Content-Type", f.format().ContentType())
	h.Set("Content-Length", strconv.Itoa(b.length()))
	if b.gzip {
		h.Set("Content-Encoding", "gzip")
	}
	access.Charge(q.Context(), b.length()/answerCharge)
	q.code = http.StatusOK
	q.WriteHeader(q.code)
	if q.Method != http.MethodHead {
		_, _ = b.WriteTo(q.ResponseWriter)
	}
}

func (s *Server) getInstance(q *request) {
	s.getOne(q, func() *entry { return s.view.instance(q.key) })
}

func (s *Server) getID(q *request) {
	s.getOne(q, func() *entry { return s.view.withID(q.name) })
}

func (s *Server) getOne(q *request, find func() *entry) {
	if !s.known(q.Context()) {
		q.empty(http.StatusServiceUnavailable)
		return
	}
	s.sendInstance(q, http.StatusOK, find())
}

// sendInstance answers with an instance, which is never compressed.
func (s *Server) sendInstance(q *request, code int, e *entry) {
	f, ok := q.instanceFormat()
	switch {
	case e == nil:
		q.empty(http.StatusNotFound)
	case !ok:
		q.empty(http.StatusNotAcceptable)
	default:
		q.text(code, f.ContentType(), string(f.AppendInstance(nil, e.now())))
	}
}

// instanceFormat is chosen by ordinary negotiation between XML, which comes first, and JSON (RFC 9110, 12.5.1).
func (q *request) instanceFormat() (f wire.Format, ok bool) {
	header := strings.Join(q.Request.Header.Values("Accept"), ",")
	if strings.TrimSpace(header) == "" {
		return wire.Format{XML: true}, true
	}
	type wanted struct {
		precision int // of what named it last: */*, application/*, or the type
		quality   float64
	}
	wants := map[string]wanted{}
	for item := range strings.SplitSeq(header, ",") {
		name, quality := weighed(item)
		for _, own := range []string{"application/xml", "application/json"} {
			precision := map[string]int{"*/*": 1, "application/*": 2, own: 3}[name]
			if old := wants[own]; precision > old.precision || precision > 0 && precision == old.precision && quality > old.quality {
				wants[own] = wanted{precision, quality}
			}
		}
	}
	xml, json := wants["application/xml"].quality, wants["application/json"].quality
	return wire.Format{XML: xml >= json}, xml > 0 || json > 0
}

// getServer tells of the server itself. Nobody depends on what exactly.
func (s *Server) getServer(q *request) {
	up := s.o.Now().Sub(s.started)
	host, _ := q.Context().Value(http.LocalAddrContextKey).(interface{ String() string })
	address := netip.IPv4Unspecified().String()
	if host != nil {
		if at, err := netip.ParseAddrPort(host.String()); err == nil {
			address = at.Addr().Unmap().WithZone("").String()
		}
	}
	f := wire.Format{XML: !strings.Contains(strings.ToLower(q.Request.Header.Get("Accept")), "json")}
	replicas, available, unavailable := s.replicas()
	q.text(http.StatusOK, f.ContentType(), string(f.AppendServer(nil, &wire.Server{
		Replicas: replicas, Available: available, Unavailable: unavailable,
		General: map[string]string{
			"environment": "sluice", "num-of-cpus": strconv.Itoa(runtime.NumCPU()),
			"server-uptime": fmt.Sprintf("%02d:%02d", int(up.Hours()), int(up.Minutes())%60),
		},
		Instance: &wire.Instance{
			InstanceID: s.o.Node, HostName: s.o.Node, App: "EUREKA", IPAddr: address, Status: wire.Up, Overridden: wire.Unknown,
			Port: wire.Port{Number: Port, Enabled: true}, SecurePort: wire.Port{Number: wire.DefaultSecurePort}, CountryID: 1,
			DataCenter: &wire.DataCenter{Name: wire.MyOwn},
			Lease:      wire.Lease{Renewal: wire.DefaultRenewal, Duration: wire.DefaultDuration, Up: s.started.UnixMilli()},
			VIP:        "eureka", LastUpdated: s.started.UnixMilli(), LastDirty: s.started.UnixMilli(), Action: wire.Added,
		},
	})))
}

func (s *Server) getOverrides(q *request) {
	q.text(http.StatusOK, wire.Format{}.ContentType(), string(wire.AppendOverrides(nil, s.view.overrides())))
}

// settle waits for what was written to be visible to all who ask here. If that takes long, it is so all the same.
func (s *Server) settle(ctx context.Context, revision int64) {
	if revision == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	begin := time.Now()
	if s.view.wait(ctx, revision) != nil {
		s.log.Warn("a change is not visible yet", "revision", revision, "after", time.Since(begin))
	}
}
