package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/api"
)

// Register, Renew, Update and Deregister make fakeStore a registry.Registrar.
func (s *fakeStore) Register(ctx context.Context, i registry.Instance) (registry.Instance, int64, error) {
	if err := errors.Join(s.fail, i.Validate()); err != nil {
		return i, 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	if err := s.asked(ctx, i.InstanceID); err != nil {
		return i, 0, fmt.Errorf("register %s: %w", i.InstanceID, err)
	}
	changes := []registry.Change{{Instance: &i}}
	if i.Lease > 0 {
		changes = append(changes, registry.Change{Lease: &registry.InstanceLease{InstanceID: i.InstanceID}})
	}
	return i, s.write(changes...), nil
}

func (s *fakeStore) Renew(_ context.Context, id registry.InstanceID) error {
	s.renewed = append(s.renewed, id)
	return s.fail
}

func (s *fakeStore) Update(_ context.Context, id registry.InstanceID, edit func(*registry.Instance) error) (registry.Instance, int64, error) {
	old, ok := s.catalog.Instance(id)
	if !ok {
		return registry.Instance{}, 0, fmt.Errorf("update %s: %w", id, registry.ErrNotFound)
	}
	next := *old.Instance
	if err := edit(&next); err != nil {
		return next, 0, fmt.Errorf("update %s: %w", id, err)
	}
	if err := next.Validate(); err != nil {
		return next, 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	return next, s.write(registry.Change{Instance: &next}), nil
}

// asked is what the request's owner says of a stored instance, whatever the API's own copy has.
func (s *fakeStore) asked(ctx context.Context, id registry.InstanceID) error {
	old, ok := s.catalog.Instance(id)
	may, asks := registry.MayAlter(ctx)
	if !ok || !asks {
		return nil
	}
	return may(old.Instance)
}

func (s *fakeStore) Deregister(ctx context.Context, id registry.InstanceID) (int64, error) {
	if err := s.asked(ctx, id); err != nil {
		return 0, fmt.Errorf("deregister %s: %w", id, err)
	}
	return s.write(registry.Change{Instance: &registry.Instance{InstanceID: id}, Deleted: true},
		registry.Change{Lease: &registry.InstanceLease{InstanceID: id}, Deleted: true}), nil
}

// ask sends a request by the socket, and returns status and body.
func (f *fixture) ask(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	f.server.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, unixAddr{})))
	f.described.check(t, f.server, r, w.Code, w.Header().Get("Content-Type"), w.Body.Bytes())
	return w.Code, w.Body.String()
}

// from is the same by TCP, from an address.
func (f *fixture) from(t *testing.T, source, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr = source + ":40000"
	if strings.HasPrefix(source, "token ") {
		r.RemoteAddr = "203.0.113.9:1"
		r.Header.Set("Authorization", "Bearer "+strings.TrimPrefix(source, "token "))
	}
	f.server.ServeHTTP(w, r)
	f.described.check(t, f.server, r, w.Code, w.Header().Get("Content-Type"), w.Body.Bytes())
	return w.Code, w.Body.String()
}

type unixAddr struct{}

func (unixAddr) Network() string { return "unix" }
func (unixAddr) String() string  { return "@" }

const web1 = `{"service":"web","id":"w1","addresses":["10.244.1.2"],"ports":[{"name":"http","protocol":"TCP","port":8080}],"lease":30,"metadata":{"tier":"front","zone":"a"}}`

// TestInstanceLife: an instance is registered, seen, renewed, changed and gone.
func TestInstanceLife(t *testing.T) {
	f := serve(t)
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string // is in the answer
	}{
		{"POST", "/v1/instances", web1, 200, `"action":"registered","instance":{"namespace":"default","service":"web","id":"w1"`},
		{"GET", "/v1/instances/default/web/w1", "", 200, `"status":"UP","lease":30,"effective":"UP","ready":true}`},
		{"POST", "/v1/instances/default/web/w1/heartbeat", "", 204, ``},
		{"PATCH", "/v1/instances/default/web/w1", `{"metadata":{"tier":null,"x":"y"},"version":"v2","weight":0}`, 200, `"weight":0,"version":"v2","metadata":{"x":"y","zone":"a"}`},
		{"PATCH", "/v1/instances/default/web/w1", `{"metadata":null,"version":null,"weight":null}`, 200, `"status":"UP","lease":30}`},
		{"PUT", "/v1/instances/default/web/w1/override", `{"status":"OUT_OF_SERVICE"}`, 200, `"override":"OUT_OF_SERVICE"`},
		{"GET", "/v1/instances?status=OUT_OF_SERVICE", "", 200, `"effective":"OUT_OF_SERVICE","ready":false}`},
		{"DELETE", "/v1/instances/default/web/w1/override", "", 200, `"status":"UP","lease":30}`},
		{"PUT", "/v1/instances/shop/web/host:web:8080", `{"addresses":["10.244.1.3"],"status":"STARTING"}`, 200, `"namespace":"shop","service":"web","id":"host:web:8080"`},
		{"GET", "/v1/instances?namespace=shop", "", 200, `"id":"host:web:8080"`},
		{"DELETE", "/v1/instances/default/web/w1", "", 200, `"action":"deregistered"`},
		{"GET", "/v1/instances/default/web/w1", "", 404, `"type":"https://sluice.net/problems/not-found"`},
		{"POST", "/v1/instances/default/web/w1/heartbeat", "", 404, `"detail":"instance default/web/w1: not found"`},
		{"DELETE", "/v1/instances/default/web/w1", "", 404, ``},

		{"POST", "/v1/instances", `{"service":"web"}`, 422, "addresses: want at least one"},
		{"POST", "/v1/instances", `{"service":"web","id":"x","addresses":["10.1.1.1"],"bogus":1}`, 400, `unknown field \"bogus\"`},
		{"POST", "/v1/instances", `{"service":"web","id":"x","addresses":["10.1.1.1"]}{}`, 400, `more than one JSON document`},
		{"POST", "/v1/instances", `{"service":"web","id":"x","addresses":["10.1.1.1"],"eureka":{}}`, 422, `cannot be set here`},
		{"POST", "/v1/instances", `{"service":"Web","id":"x","addresses":["10.1.1.1"]}`, 422, `want a DNS label`},
		{"PUT", "/v1/instances/shop/web/a", `{"id":"b","addresses":["10.1.1.1"]}`, 422, `id: \"b\", and the path says \"a\"`},
		{"PATCH", "/v1/instances/shop/web/host:web:8080", `{"lease":3}`, 422, `lease: cannot be changed`},
		{"PATCH", "/v1/instances/shop/web/host:web:8080", `{"id":"other"}`, 422, `id: cannot be changed`},
		{"PATCH", "/v1/instances/shop/web/host:web:8080", `{"Id":"other"}`, 422, `id: cannot be changed`},
		{"PATCH", "/v1/instances/shop/web/host:web:8080", "{\"eure\u212aa\":{}}", 422, `eureka: cannot be changed`},
		{"PATCH", "/v1/instances/shop/web/host:web:8080", `null`, 400, `want a JSON object`},
		{"PATCH", "/v1/instances/shop/web/host:web:8080", `{"metadata":{"a":{}}}`, 422, `want an object of texts`},
		{"PATCH", "/v1/instances/shop/web/host:web:8080", `{"status":"SLEEPING"}`, 422, `status`},
		{"PATCH", "/v1/instances/shop/web/none", `{}`, 404, ``},
		{"PUT", "/v1/instances/shop/web/host:web:8080/override", `{}`, 422, `want one of`},
		{"POST", "/v1/instances", strings.Repeat(" ", maxSmallBody+1), 413, `too-large`},
		{"GET", "/v1/instances?nonsense=1", "", 400, `unknown key`},
		{"GET", "/v1/instances?labelSelector=a%3D%3D%3Db", "", 400, `labelSelector`},
		{"GET", "/v1/instances?limit=0", "", 400, `limit`},
		{"GET", "/v1/instances?limit=1&limit=2", "", 400, `given 2 times`},
		{"GET", "/v1/instances?continue=x", "", 400, `continue`},
	} {
		status, body := f.ask(t, step.method, step.path, step.body)
		if status != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s %s %.80s: %d %s, want %d %s", step.method, step.path, step.body, status, body, step.status, step.want)
		}
	}
	if len(f.store.renewed) != 1 {
		t.Errorf("renewed %v", f.store.renewed)
	}
}

// TestInstanceAccess: without a token nobody touches what is not at its own address.
func TestInstanceAccess(t *testing.T) {
	f := serve(t)
	const container, other = "10.244.1.2", "10.244.1.3"
	theirs := strings.ReplaceAll(web1, container, other)
	for _, step := range []struct {
		source, method, path, body string
		status                     int
	}{
		{container, "POST", "/v1/instances", theirs, 403},
		{container, "POST", "/v1/instances", web1, 200},
		{container, "PUT", "/v1/instances/default/web/w0", `{}`, 200}, // at the address that it comes from
		{other, "POST", "/v1/instances", theirs, 403},                 // the id is another's
		{other, "POST", "/v1/instances/default/web/w1/heartbeat", "", 403},
		{other, "PATCH", "/v1/instances/default/web/w1", `{"weight":0}`, 403},
		{other, "PUT", "/v1/instances/default/web/w1/override", `{"status":"DOWN"}`, 403},
		{other, "DELETE", "/v1/instances/default/web/w1/override", "", 403},
		{other, "DELETE", "/v1/instances/default/web/w1", "", 403},
		{other, "GET", "/v1/instances/default/web/w1", "", 200},
		{container, "PATCH", "/v1/instances/default/web/w1", `{"addresses":["10.244.1.3"]}`, 403},
		{container, "PATCH", "/v1/instances/default/web/w1", `{"addresses":["10.244.1.2"],"weight":2}`, 200},
		{"203.0.113.9", "POST", "/v1/instances", strings.ReplaceAll(web1, container, "203.0.113.9"), 403},
		{"203.0.113.9", "PUT", "/v1/instances/default/web/w2", `{}`, 422},
		{"127.0.0.1", "PUT", "/v1/instances/default/web/w2", `{}`, 422}, // loopback is nobody's address to others
		{"token wrong-wrong-wrong-wrong", "POST", "/v1/instances", theirs, 401},
		{"token " + testToken, "POST", "/v1/instances", theirs, 200},
		{container, "DELETE", "/v1/instances/default/web/w1", "", 403}, // now another's
		{container, "POST", "/v1/instances/default/web/w0/heartbeat", "", 204},
		{container, "DELETE", "/v1/instances/default/web/w0", "", 200},
		{"token " + testToken, "DELETE", "/v1/instances/default/web/w1", "", 200},
	} {
		status, body := f.from(t, step.source, step.method, step.path, step.body)
		if status != step.status {
			t.Errorf("%s: %s %s %.60s: %d %s, want %d", step.source, step.method, step.path, step.body, status, body, step.status)
		}
	}
	i, err := f.store.view.instance(registry.InstanceID{Namespace: "default", Service: "web", ID: "w1"})
	if !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("left: %+v, %v", i, err)
	}
}

// TestInstanceRace: what became another's a moment ago, so that the API's copy does not know it yet, is not touched.
func TestInstanceRace(t *testing.T) {
	f := serve(t)
	const container = "10.244.1.2"
	if status, body := f.from(t, container, "POST", "/v1/instances", web1); status != 200 {
		t.Fatal(status, body)
	}
	theirs := registry.Instance{
		InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: "w1"}, Status: registry.InstanceUp,
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.3")},
	}
	f.store.catalog.Apply(registry.Batch{Revision: 100, Changes: []registry.Change{{Instance: &theirs}}})
	for _, method := range []string{"PUT", "DELETE", "PATCH"} {
		if status, body := f.from(t, container, method, "/v1/instances/default/web/w1", `{}`); status != http.StatusForbidden {
			t.Errorf("%s: %d %s", method, status, body)
		}
	}
}

// TestScanCharged: a list counts for what it looks at, however little of that it shows.
func TestScanCharged(t *testing.T) {
	store := &fakeStore{catalog: registry.NewCatalog(""), view: NewView()}
	var all []registry.Change
	for n := range 3 * scanCharge {
		id := registry.InstanceID{Namespace: "default", Service: "web", ID: fmt.Sprint(n)}
		all = append(all, registry.Change{Instance: &registry.Instance{InstanceID: id, Status: registry.InstanceUp}})
	}
	store.view.Apply(registry.Batch{Revision: 1, Snapshot: true, Changes: all})
	s := New(Options{Store: store, Catalog: store.catalog, View: store.view, Registrar: store, Agent: &fakeAgent{}})
	limited := access.NewLimiter(access.Limits{Rate: 1e-6, Burst: 5}, nil).Handler(s, http.HandlerFunc(s.TooMany))
	for n, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} { // 4 of 5, and all the rest
		w := httptest.NewRecorder()
		limited.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/instances?labelSelector=none%3Dhere", nil))
		if w.Code != want || want == http.StatusOK && !strings.Contains(w.Body.String(), `"items":[]`) {
			t.Errorf("list %d: %d %s", n, w.Code, w.Body)
		}
	}
}

// TestNothingKnown: until the registry has told what there is, nothing is said not to be there.
func TestNothingKnown(t *testing.T) {
	store := &fakeStore{catalog: registry.NewCatalog(""), view: NewView()}
	s := New(Options{Store: store, Catalog: store.catalog, View: store.view, Registrar: store, Agent: &fakeAgent{}})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	ask := func(method, path string) int {
		r := httptest.NewRequest(method, path, nil)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r.WithContext(over))
		return w.Code
	}
	paths := [][2]string{
		{"GET", "/v1/services"}, {"GET", "/v1/namespaces"}, {"GET", "/v1/services/default/web"}, {"GET", "/v1/instances/default/web/w1"},
		{"POST", "/v1/instances/default/web/w1/heartbeat"}, {"DELETE", "/v1/instances/default/web/w1"},
	}
	for _, p := range paths {
		if got := ask(p[0], p[1]); got != http.StatusServiceUnavailable {
			t.Errorf("%v: %d", p, got)
		}
	}
	store.view.Apply(registry.Batch{Snapshot: true})
	for _, p := range paths {
		if got := ask(p[0], p[1]); got != http.StatusOK && got != http.StatusNotFound {
			t.Errorf("%v: %d once it is known", p, got)
		}
	}
}

// TestInstanceSeen: health, lapsed leases and the rest of what is known are shown.
func TestInstanceSeen(t *testing.T) {
	f := serve(t)
	id := registry.InstanceID{Namespace: "default", Service: "web", ID: "w1"}
	since := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	// In whatever order they become known.
	f.store.write(registry.Change{Health: &registry.InstanceHealth{InstanceID: id, Node: "n1", Since: since, Reason: "refused"}})
	f.store.write(registry.Change{Lease: &registry.InstanceLease{InstanceID: id}})
	if _, err := f.client.Instance(t.Context(), id); err == nil {
		t.Error("an instance of which only the health is known is shown")
	}
	if list, err := f.client.Instances(t.Context(), api.InstanceQuery{}); err != nil || len(list) > 0 {
		t.Errorf("listed: %v, %v", list, err)
	}
	f.ask(t, "POST", "/v1/instances", web1)
	i, err := f.client.Instance(t.Context(), id)
	if err != nil || i.Ready || i.Lapsed || i.Health == nil || *i.Health != (api.Health{Node: "n1", Since: since, Reason: "refused"}) {
		t.Errorf("failing: %+v, %v", i, err)
	}
	f.store.write(registry.Change{Health: &registry.InstanceHealth{InstanceID: id}, Deleted: true},
		registry.Change{Lease: &registry.InstanceLease{InstanceID: id}, Deleted: true})
	if i, err = f.client.Instance(t.Context(), id); err != nil || !i.Ready || !i.Lapsed || i.Health != nil {
		t.Errorf("lapsed: %+v, %v", i, err)
	}
}

// TestPages: all pages of a list are of one revision, whatever changes meanwhile.
func TestPages(t *testing.T) {
	f := serve(t)
	for n := range 25 {
		f.store.write(registry.Change{Instance: &registry.Instance{
			InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: fmt.Sprintf("w%02d", n)},
			Status:     registry.InstanceUp, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2")}, Metadata: map[string]string{"odd": fmt.Sprint(n%2 == 1)},
		}})
	}
	page := func(query string) (l api.List[api.Instance], status int) {
		status, body := f.ask(t, "GET", "/v1/instances?"+query, "")
		if status == 200 {
			if err := json.Unmarshal([]byte(body), &l); err != nil {
				t.Fatal(err)
			}
		}
		return l, status
	}
	var ids []string
	next := ""
	first, pages := int64(0), 0
	for {
		l, status := page("labelSelector=odd%3Dtrue&limit=5&continue=" + next)
		if status != 200 {
			t.Fatalf("page %d: status %d", pages, status)
		}
		for _, i := range l.Items {
			ids = append(ids, i.ID)
		}
		if first == 0 {
			first = l.Revision
		}
		if l.Revision != first {
			t.Errorf("page %d is of revision %d, the first of %d", pages, l.Revision, first)
		}
		pages++
		if next = l.Continue; next == "" {
			break
		}
		// One that is still to come goes, another comes, a third is written again.
		f.store.write(
			registry.Change{Instance: &registry.Instance{InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: "w23"}}, Deleted: true},
			registry.Change{Instance: &registry.Instance{InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: "w22x"}, Status: registry.InstanceUp, Metadata: map[string]string{"odd": "true"}}},
			registry.Change{Instance: &registry.Instance{InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: "w21"}, Status: registry.InstanceUp, Metadata: map[string]string{"odd": "no"}}})
	}
	want := "w01 w03 w05 w07 w09 w11 w13 w15 w17 w19 w21 w23"
	if got := strings.Join(ids, " "); got != want || pages != 3 {
		t.Errorf("%d pages: %s, want 3: %s", pages, got, want)
	}
	if l, _ := page("labelSelector=odd%3Dtrue"); len(l.Items) != 11 || l.Items[10].ID != "w22x" {
		t.Errorf("now: %+v", l.Items)
	}
	// A place of which nothing is kept any more.
	l, _ := page("limit=1")
	for range maxKept {
		f.store.write(registry.Change{Namespace: &registry.Namespace{Name: "x"}})
		page("limit=1")
	}
	if _, status := page("limit=1&continue=" + l.Continue); status != http.StatusGone {
		t.Errorf("an old page: status %d", status)
	}
}

// TestViewAgainstSimple: after any sequence of batches a snapshot is what a map of the objects sorts to, and those that
// were handed out before have not changed.
func TestViewAgainstSimple(t *testing.T) {
	v := NewView()
	simple := map[string]int64{}
	type taken struct {
		s    *snapshot
		want string
	}
	var before []taken
	text := func(s *snapshot) string {
		var b bytes.Buffer
		for _, it := range s.kinds[kindNode] {
			fmt.Fprint(&b, it.id, it.object.(*node).Zone, " ")
		}
		return b.String()
	}
	for rev := range int64(400) {
		batch := registry.Batch{Revision: rev + 1, Snapshot: rev%97 == 0}
		if batch.Snapshot {
			clear(simple)
		}
		for n := range rev % 7 {
			name := fmt.Sprintf("n%02d", (rev*31+n*17)%40)
			deleted := (rev+n)%3 == 0
			batch.Changes = append(batch.Changes, registry.Change{Node: &registry.Node{Name: name, Zone: fmt.Sprint(rev)}, Deleted: deleted})
			if simple[name] = rev; deleted {
				delete(simple, name)
			}
		}
		v.Apply(batch)
		if rev%3 > 0 {
			continue // several batches between two snapshots
		}
		want := ""
		for n := range 40 {
			if rev, ok := simple[fmt.Sprintf("n%02d", n)]; ok {
				want += fmt.Sprintf("n%02d%d ", n, rev)
			}
		}
		before = append(before, taken{v.snapshot(), want})
	}
	for i, b := range before {
		if got := text(b.s); got != b.want {
			t.Fatalf("snapshot %d: %s, want %s", i, got, b.want)
		}
	}
}

// FuzzInstance: whatever is sent as an instance or a patch, what comes of it is valid, and at the sender's own address.
func FuzzInstance(f *testing.F) {
	f.Add(true, []byte(web1))
	f.Add(true, []byte(`{"addresses":["::ffff:10.244.1.2"],"checks":[{"type":"http","path":"/x"}]}`))
	f.Add(false, []byte(`{"metadata":{"a":null,"b":"c"},"ports":null,"addresses":["10.244.1.3"]}`))
	f.Add(false, []byte(`{"metadata":null,"eureka":1}`))
	f.Fuzz(func(t *testing.T, whole bool, body []byte) {
		store := &fakeStore{catalog: registry.NewCatalog(""), view: NewView()}
		store.write(registry.Change{Instance: &registry.Instance{
			InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: "w1"}, Status: registry.InstanceUp,
			Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2")}, Metadata: map[string]string{"a": "b"},
		}})
		s := New(Options{Store: store, Catalog: store.catalog, View: store.view, Registrar: store, Agent: &fakeAgent{}, Guard: &access.Guard{Own: testOwn}})
		method := http.MethodPatch
		if whole {
			method = http.MethodPut
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "/v1/instances/default/web/w1", io.NopCloser(bytes.NewReader(body)))
		r.RemoteAddr = "10.244.1.2:1"
		s.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		for _, i := range store.catalog.Instances() {
			if err := i.Validate(); err != nil {
				t.Errorf("stored: %v", err)
			}
			if len(i.Addresses) != 1 || i.Addresses[0].Unmap() != netip.MustParseAddr("10.244.1.2") || len(i.Eureka) > 0 {
				t.Errorf("stored: %+v", i)
			}
		}
	})
}

// FuzzQuery: no query of a list makes trouble, and pages are no longer than asked for.
func FuzzQuery(f *testing.F) {
	f.Add("labelSelector=a%3Db,c!%3Dd,e+in+(f,g)&limit=3&continue=eyJyIjoxLCJrIjo2LCJhIjoieCJ9")
	f.Add("namespace=default&status=UP&node=n1&service=web&limit=99999")
	f.Fuzz(func(t *testing.T, raw string) {
		store := &fakeStore{catalog: registry.NewCatalog(""), view: NewView()}
		for n := range 5 {
			store.write(registry.Change{Instance: &registry.Instance{InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: fmt.Sprint(n)}}})
		}
		s := New(Options{Store: store, Catalog: store.catalog, View: store.view, Registrar: store, Agent: &fakeAgent{}})
		r := httptest.NewRequest(http.MethodGet, "/v1/instances", nil)
		r.URL.RawQuery = raw
		r.URL.RawQuery = r.URL.Query().Encode()
		if r.URL.Query().Has("watch") {
			return // a stream has its own test
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 400 && w.Code != 410 {
			t.Errorf("%q: status %d: %s", raw, w.Code, w.Body)
		}
	})
}
