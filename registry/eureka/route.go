package eureka

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/registry/access"
)

// request is one under way.
type request struct {
	http.ResponseWriter
	*http.Request
	key    key    // of the path; app in upper case
	name   string // of the path: a VIP
	caller access.Caller
	code   int // that was answered
}

// route is a path with what can be done there.
type route struct {
	name    string // for metrics
	methods map[string]func(*Server, *request)
}

// The routes, by the shape of their paths below the prefix.
var (
	routeAll       = route{"apps", map[string]func(*Server, *request){http.MethodGet: (*Server).getAll}}
	routeDelta     = route{"delta", map[string]func(*Server, *request){http.MethodGet: (*Server).getDelta}}
	routeApp       = route{"app", map[string]func(*Server, *request){http.MethodGet: (*Server).getApp, http.MethodPost: (*Server).postInstance}}
	routeInstance  = route{"instance", map[string]func(*Server, *request){http.MethodGet: (*Server).getInstance, http.MethodPut: (*Server).putInstance, http.MethodDelete: (*Server).deleteInstance}}
	routeStatus    = route{"status", map[string]func(*Server, *request){http.MethodPut: (*Server).putStatus, http.MethodDelete: (*Server).deleteStatus}}
	routeMetadata  = route{"metadata", map[string]func(*Server, *request){http.MethodPut: (*Server).putMetadata}}
	routeID        = route{"id", map[string]func(*Server, *request){http.MethodGet: (*Server).getID}}
	routeVIP       = route{"vip", map[string]func(*Server, *request){http.MethodGet: (*Server).getVIP}}
	routeSecureVIP = route{"svip", map[string]func(*Server, *request){http.MethodGet: (*Server).getSecureVIP}}
	routeBatch     = route{"batch", map[string]func(*Server, *request){http.MethodPost: (*Server).postBatch}}
	routeASG       = route{"asg", map[string]func(*Server, *request){http.MethodPut: (*Server).putASG}}
	routeServer    = route{"server", map[string]func(*Server, *request){http.MethodGet: (*Server).getServer}}
	routeOverrides = route{"overrides", map[string]func(*Server, *request){http.MethodGet: (*Server).getOverrides}}
	routeNone      = route{name: "none"}
)

// find returns the route of a path. Slashes may be doubled, and there may be one at the end; nobody is sent elsewhere,
// because most clients do not go there.
func (q *request) find() route {
	var parts []string
	for part := range strings.SplitSeq(q.URL.EscapedPath(), "/") {
		if part == "" {
			continue
		}
		text, err := url.PathUnescape(part) // a plus sign is one
		if err != nil {
			return routeNone
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 || parts[0] != "eureka" {
		return routeNone
	}
	parts = parts[1:]
	if len(parts) > 0 && parts[0] == "v2" {
		parts = parts[1:]
	}
	if len(parts) == 0 {
		return routeNone
	}
	head, rest := parts[0], parts[1:]
	if head == "apps" {
		return q.findApp(rest)
	}
	return q.findOther(head, rest)
}

func (q *request) findApp(rest []string) route {
	if len(rest) > 0 {
		q.key.app = strings.ToUpper(rest[0])
	}
	if len(rest) > 1 {
		q.key.id = rest[1]
	}
	switch {
	case len(rest) == 0:
		return routeAll
	case len(rest) == 1 && rest[0] == "delta":
		return routeDelta
	case len(rest) == 1:
		return routeApp
	case len(rest) == 2:
		return routeInstance
	case len(rest) == 3 && rest[2] == "status":
		return routeStatus
	case len(rest) == 3 && rest[2] == "metadata":
		return routeMetadata
	}
	return routeNone
}

func (q *request) findOther(head string, rest []string) route {
	if len(rest) > 0 {
		q.name = rest[0]
	}
	switch {
	case head == "instances" && len(rest) == 1:
		return routeID
	case head == "vips" && len(rest) == 1:
		return routeVIP
	case head == "svips" && len(rest) == 1:
		return routeSecureVIP
	case head == "peerreplication" && len(rest) == 1 && q.name == "batch":
		return routeBatch
	case head == "asg" && len(rest) == 2 && rest[1] == "status":
		return routeASG
	case head == "status" && len(rest) == 0:
		return routeServer
	case head == "serverinfo" && len(rest) == 1 && q.name == "statusoverrides":
		return routeOverrides
	}
	return routeNone
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{ResponseWriter: w, Request: r, caller: s.o.Guard.Caller(r)}
	to := q.find()
	defer func() { s.metrics.request(to.name, q.code) }()
	if s.fromHere(q) {
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	handle := to.methods[method]
	switch {
	case to.methods == nil:
		q.empty(http.StatusNotFound)
	case handle == nil:
		q.Header().Set("Allow", to.allowed())
		if method == http.MethodOptions {
			q.empty(http.StatusOK)
		} else {
			q.empty(http.StatusMethodNotAllowed)
		}
	default:
		handle(s, q)
	}
}

// TooMany answers a client that has asked too often, as the reference does.
func (s *Server) TooMany(w http.ResponseWriter, r *http.Request) {
	q := &request{ResponseWriter: w, Request: r}
	q.empty(http.StatusServiceUnavailable)
	s.metrics.request("refused", q.code)
}

// allowed lists the methods of a route.
func (r route) allowed() string {
	list := []string{http.MethodOptions}
	for m := range r.methods {
		if list = append(list, m); m == http.MethodGet {
			list = append(list, http.MethodHead)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// Header is that of the answer.
func (q *request) Header() http.Header { return q.ResponseWriter.Header() }

// empty answers without a body, and says so: clients take a body of unknown length, or any text, for an instance that
// they cannot read, and never register again.
func (q *request) empty(code int) {
	q.code = code
	if code != http.StatusNoContent { // which may have no length (RFC 9110, 8.6)
		q.Header().Set("Content-Length", "0")
	}
	q.WriteHeader(code)
}

// text answers with a reason, which only those who register and operators read.
func (q *request) text(code int, contentType, text string) {
	q.code = code
	q.Header().Set("Content-Type", contentType)
	q.Header().Set("Content-Length", strconv.Itoa(len(text)))
	q.WriteHeader(code)
	if q.Method != http.MethodHead {
		_, _ = q.ResponseWriter.Write([]byte(text))
	}
}
