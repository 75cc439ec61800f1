package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/api"
)

const (
	// maxPage is how many items a list returns at most, and unless it is asked for fewer.
	maxPage     = 1000
	maxContinue = 4096 // bytes of a place in a list
	maxSelector = 4096 // bytes of a label selector
)

// query is what a list or a watch is asked for.
type query struct {
	kind     kind
	values   url.Values
	selector labels.Selector // nil: every object
	limit    int
	from     *pageEnd // nil: the beginning
	// kubernetes shows the objects as Kubernetes does.
	kubernetes bool
	watch      bool
	revision   int64 // of a watch: where it goes on from; 0: it begins with all there is
}

// pageEnd is where a page ends, as its reader gets it.
type pageEnd struct {
	Revision int64  `json:"r"`
	Kind     kind   `json:"k"`
	After    string `json:"a"` // order of the last item
}

// listKeys are those that every list takes.
func listKeys() []string {
	return []string{"labelSelector", "limit", "continue", "watch", "revision"}
}

// parseQuery reads the query of a list. keys are those that it takes beside listKeys.
func parseQuery(k kind, v url.Values, keys ...string) (*query, error) {
	for key, given := range v {
		if !slices.Contains(keys, key) && !slices.Contains(listKeys(), key) {
			known := slices.Sorted(slices.Values(append(listKeys(), keys...)))
			return nil, badRequest("query: unknown key %.64q: want any of %s", key, strings.Join(known, ", "))
		}
		if len(given) != 1 {
			return nil, badRequest("query: %s is given %d times", key, len(given))
		}
	}
	q := &query{kind: k, values: v, limit: maxPage}
	if text := v.Get("labelSelector"); text != "" {
		if len(text) > maxSelector {
			return nil, badRequest("labelSelector: %d bytes: want at most %d", len(text), maxSelector)
		}
		s, err := labels.Parse(text)
		if err != nil {
			return nil, badRequest("labelSelector: %s", err)
		}
		q.selector = s
	}
	if text := v.Get("limit"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n == 0 {
			return nil, badRequest("limit=%.64q: want 1 to %d", text, maxPage)
		}
		q.limit = int(min(n, maxPage))
	}
	if err := q.parseWatch(); err != nil {
		return nil, err
	}
	if text := v.Get("continue"); text != "" {
		from, err := parsePageEnd(text)
		if err != nil || from.Kind != k {
			return nil, badRequest("continue: want what the page before gave, or nothing")
		}
		q.from = &from
	}
	return q, nil
}

// parseWatch reads what says what kind of answer is wanted.
func (q *query) parseWatch() (err error) {
	switch as := q.values.Get("as"); as {
	case "":
	case "kubernetes":
		q.kubernetes = true
	default:
		return badRequest("as=%.64q: want kubernetes, or nothing", as)
	}
	if text := q.values.Get("watch"); text != "" {
		if q.watch, err = strconv.ParseBool(text); err != nil {
			return badRequest("watch=%.64q: want 1 or nothing", text)
		}
	}
	if text := q.values.Get("revision"); text != "" {
		if q.revision, err = strconv.ParseInt(text, 10, 64); err != nil || q.revision < 0 || !q.watch {
			return badRequest("revision=%.64q: want that of a list or an event, and watch=1", text)
		}
	}
	if q.watch && (q.values.Has("limit") || q.values.Has("continue")) {
		return badRequest("limit and continue are not for a watch")
	}
	return nil
}

func badRequest(format string, args ...any) error {
	return &api.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

func parsePageEnd(text string) (p pageEnd, err error) {
	if len(text) > maxContinue {
		return p, fmt.Errorf("%d bytes", len(text))
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	return p, err
}

func (p pageEnd) String() string {
	b, err := json.Marshal(p)
	if err != nil {
		return "" // of three plain values
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// handleList registers the list and the watch of a resource.
func (s *Server) handleList(res *resource) {
	list := s.answer(func(r *http.Request) (any, error) {
		q, err := parseQuery(res.kind, r.URL.Query(), res.keys...)
		if err != nil {
			return nil, err
		}
		return s.list(r, res, q)
	})
	s.on("GET "+res.path, func(w http.ResponseWriter, r *http.Request) {
		q, err := parseQuery(res.kind, r.URL.Query(), res.keys...)
		if err == nil && q.watch {
			s.watch(w, r, res, q)
			return
		}
		list(w, r)
	})
}

const (
	pageCharge = 10   // items of an answer count for a request
	scanCharge = 1000 // and so do those that were looked at
)

// list answers with a page of what there was when the first page was asked for.
func (s *Server) list(r *http.Request, res *resource, q *query) (any, error) {
	if err := s.View.told(r.Context()); err != nil {
		return nil, err
	}
	snap, start := s.View.snapshot(), 0
	if q.from != nil && q.kind != kindNamespace {
		if snap = s.View.at(q.from.Revision); snap == nil {
			return nil, &api.Error{Status: http.StatusGone, Message: "continue: the list has changed, and the pages of that time are not kept any more: begin again"}
		}
	}
	items := snap.kinds[q.kind]
	if q.kind == kindNamespace {
		items = s.namespaceItems() // of which most have no object, and no revision
	}
	if q.from != nil {
		start, _ = slices.BinarySearchFunc(items, q.from.After, func(it *item, after string) int {
			if it.order <= after {
				return -1
			}
			return 1
		})
	}
	page := api.List[any]{Items: []any{}, Revision: snap.revision}
	last, show := "", res.show(s, q)
	seen := 0
	for _, it := range items[start:] {
		if seen++; !q.wants(res, it.object) {
			continue
		}
		if len(page.Items) == q.limit {
			page.Continue = pageEnd{Revision: snap.revision, Kind: q.kind, After: last}.String()
			s.View.keep(snap)
			break
		}
		page.Items, last = append(page.Items, show(it.object)), it.order
	}
	access.Charge(r.Context(), len(page.Items)/pageCharge+seen/scanCharge)
	return page, nil
}

// namespaceItems are the namespaces that have an object or that something lies in.
func (s *Server) namespaceItems() []*item {
	var items []*item
	for _, n := range s.Catalog.Namespaces() {
		items = append(items, &item{id: n.Name, order: n.Name, object: &n})
	}
	return items
}

// lyingIn returns a namespace that has no object if something lies in it; nil: nothing does.
func (s *Server) lyingIn(name string) any {
	for _, it := range s.namespaceItems() {
		if it.id == name {
			return it.object
		}
	}
	return nil
}

// wants reports whether an object is one of those that are asked for.
func (q *query) wants(res *resource, object any) bool {
	if !known(object) || res.wants != nil && !res.wants(q, object) {
		return false
	}
	return q.selector == nil || q.selector.Matches(labels.Set(labelsOf(object)))
}

// labelsOf returns what label selectors are about. Of an instance it is the metadata.
func labelsOf(object any) map[string]string {
	switch o := object.(type) {
	case *registry.Service:
		return o.Labels
	case *registry.Endpoint:
		return registry.PolicyLabels(o)
	case *registry.Namespace:
		return registry.NamespaceLabels(o)
	case *registry.Policy:
		return o.Labels
	case *instance:
		return o.Metadata
	case *node:
		return map[string]string{"topology.kubernetes.io/zone": o.Zone, "kubernetes.io/hostname": o.Name}
	}
	return nil
}
