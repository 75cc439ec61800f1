package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/etcd"
)

// live is the API over a real store, by TCP.
type live struct {
	store  *etcd.Store
	url    string
	server *Server
	stop   chan struct{}

	described *description
}

// following is an agent whose maps are the catalog.
type following struct {
	fakeAgent
	view *View
}

func (f *following) WaitSynced(ctx context.Context, revision int64) error {
	return f.view.wait(ctx, revision)
}

func newLive(t *testing.T, o registry.HubOptions) *live {
	t.Helper()
	dir := t.TempDir()
	store, err := etcd.Open(t.Context(), etcd.Options{Dir: dir, Run: shortDir(t), ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	hub := registry.NewHub(store, o)
	view, catalog := NewView(), registry.NewCatalog("")
	done := make(chan struct{}, 2)
	go func() { _ = hub.Run(ctx); done <- struct{}{} }()
	go func() {
		for b := range hub.Watch(ctx) {
			catalog.Apply(b) // first: who has waited for the view reads it too
			view.Apply(b)
		}
		done <- struct{}{}
	}()
	l := &live{store: store, stop: make(chan struct{})}
	l.server = New(Options{
		Store: store, Catalog: catalog, Agent: &following{view: view}, View: view, Watch: hub, Registrar: store, Stopping: l.stop,
		Guard: testGuard(t, dir), Version: api.Version{Version: "v1", Node: "n1"},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "sluice_build_info 1") }),
	})
	l.server.bookmark = 20 * time.Millisecond
	l.described = describe(t, l.server)
	s := httptest.NewServer(l.server)
	l.url = s.URL
	t.Cleanup(func() {
		close(l.stop)
		s.Close()
		cancel()
		for range 2 {
			<-done
		}
		store.Close()
	})
	if err := view.wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	return l
}

// ask sends a request with a token.
func (l *live) ask(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	res := l.open(t, method, path, body)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	l.described.check(t, l.server, res.Request, res.StatusCode, res.Header.Get("Content-Type"), b)
	return res.StatusCode, string(b)
}

func (l *live) open(t *testing.T, method, path, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, l.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testToken)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// stream reads a watch.
type stream struct {
	t     *testing.T
	lines *bufio.Scanner
	close func() error

	described *description
	server    *Server
	request   *http.Request
}

type event struct {
	Type     string          `json:"type"`
	Revision int64           `json:"revision"`
	Object   json.RawMessage `json:"object"`
	Problem  *api.Error      `json:"problem"`
}

func (l *live) watch(t *testing.T, path string) *stream {
	t.Helper()
	res := l.open(t, http.MethodGet, path, "")
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/jsonl" {
		b, _ := io.ReadAll(res.Body)
		t.Fatalf("GET %s: %s %s", path, res.Status, b)
	}
	t.Cleanup(func() { res.Body.Close() })
	return &stream{
		t: t, lines: bufio.NewScanner(res.Body), close: res.Body.Close, described: l.described, server: l.server, request: res.Request,
	}
}

// next returns the next event that is no bookmark, or with bookmarks any.
func (s *stream) next(bookmarks bool) event {
	s.t.Helper()
	for s.lines.Scan() {
		if s.described != nil {
			s.described.check(s.t, s.server, s.request, http.StatusOK, "application/jsonl", s.lines.Bytes())
		}
		var e event
		if err := json.Unmarshal(s.lines.Bytes(), &e); err != nil {
			s.t.Fatalf("%v in %s", err, s.lines.Bytes())
		}
		if bookmarks || e.Type != api.WatchBookmark {
			return e
		}
	}
	s.t.Fatalf("the stream ended: %v", s.lines.Err())
	return event{}
}

// expect compares the next event that is no bookmark.
func (s *stream) expect(kind string, holds ...string) event {
	s.t.Helper()
	e := s.next(false)
	for _, text := range holds {
		if e.Type != kind || !strings.Contains(string(e.Object), text) {
			s.t.Fatalf("got %s %s, want %s %s", e.Type, e.Object, kind, text)
		}
	}
	return e
}

func instanceJSON(id, more string) string {
	return fmt.Sprintf(`{"service":"web","id":"%s","addresses":["10.9.0.1"],"ports":[{"port":80,"protocol":"TCP"}]%s}`, id, more)
}

// TestWatch: a watch begins with all there is, tells every change, and goes on where another one ended.
func TestWatch(t *testing.T) {
	l := newLive(t, registry.HubOptions{})
	for _, id := range []string{"a", "b"} {
		if status, body := l.ask(t, "POST", "/v1/instances", instanceJSON(id, "")); status != 200 {
			t.Fatal(status, body)
		}
	}
	w := l.watch(t, "/v1/instances?watch=1&service=web")
	if e := w.expect(api.WatchSet, `"id":"a"`); e.Revision != 0 {
		t.Errorf("one of the first has revision %d: a watch that goes on from there would miss the others", e.Revision)
	}
	w.expect(api.WatchSet, `"id":"b"`)
	mark := w.next(true)
	if mark.Type != api.WatchBookmark || mark.Revision == 0 {
		t.Fatalf("after what there was: %+v", mark)
	}
	l.ask(t, "PUT", "/v1/instances/default/web/a/override", `{"status":"DOWN"}`)
	changed := w.expect(api.WatchSet, `"id":"a"`, `"effective":"DOWN"`)
	if changed.Revision <= mark.Revision {
		t.Errorf("revision %d after %d", changed.Revision, mark.Revision)
	}
	l.ask(t, "PUT", "/v1/instances/default/db/x", instanceJSON("x", "")) // the path disagrees: nothing happens
	l.ask(t, "PUT", "/v1/instances/default/other/x", `{"addresses":["10.9.0.2"]}`)
	l.ask(t, "DELETE", "/v1/instances/default/web/b", "")
	w.expect(api.WatchDeleted, `{"namespace":"default","service":"web","id":"b"}`)
	if err := w.close(); err != nil {
		t.Error(err)
	}

	again := l.watch(t, fmt.Sprintf("/v1/instances?watch=true&service=web&revision=%d", mark.Revision))
	again.expect(api.WatchSet, `"id":"a"`, `"effective":"DOWN"`)
	gone := again.expect(api.WatchDeleted, `"id":"b"`)
	l.ask(t, "PUT", "/v1/instances/default/other/y", `{"addresses":["10.9.0.2"]}`)
	for again.next(true).Revision <= gone.Revision { // a bookmark passes what does not concern it
	}

	// A selector: what does not meet it any more is deleted for this reader.
	chosen := l.watch(t, "/v1/instances?watch=1&labelSelector=tier%3Dfront")
	if e := chosen.next(true); e.Type != api.WatchBookmark {
		t.Fatalf("nothing is chosen: %+v", e)
	}
	l.ask(t, "PATCH", "/v1/instances/default/web/a", `{"metadata":{"tier":"front"}}`)
	chosen.expect(api.WatchSet, `"id":"a"`)
	l.ask(t, "PATCH", "/v1/instances/default/web/a", `{"metadata":{"tier":"back"}}`)
	chosen.expect(api.WatchDeleted, `"id":"a"`)

	services := l.watch(t, "/v1/services?watch=1&as=kubernetes")
	services.expect(api.WatchSet, `"kind":"Service"`, `"name":"other"`)
}

// TestWatchExpired: whoever asks for what is not at hand any more is told to begin again, before or while it reads.
func TestWatchExpired(t *testing.T) {
	l := newLive(t, registry.HubOptions{Batches: 3})
	for n := range 10 {
		l.ask(t, "PUT", fmt.Sprintf("/v1/instances/default/web/i%d", n), instanceJSON(fmt.Sprint("i", n), ""))
	}
	if status, body := l.ask(t, "GET", "/v1/instances?watch=1&revision=2", ""); status != http.StatusGone || !strings.Contains(body, `"type":"https://sluice.net/problems/expired"`) {
		t.Errorf("long ago: %d %s", status, body)
	}
	for _, query := range []string{"watch=1&revision=x", "watch=1&revision=-1", "revision=1", "watch=maybe", "watch=1&limit=3"} {
		if status, body := l.ask(t, "GET", "/v1/instances?"+query, ""); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
}

// endless is a Watcher that sends what a test gives it.
type endless struct{ batches chan registry.Batch }

func (e endless) WatchFrom(context.Context, int64) (<-chan registry.Batch, error) {
	return e.batches, nil
}

// TestWatchSnapshot: a reader that gets a snapshot because it was too slow has to begin again.
func TestWatchSnapshot(t *testing.T) {
	view := NewView()
	view.Apply(registry.Batch{Revision: 5, Snapshot: true})
	source := endless{make(chan registry.Batch, 1)}
	s := httptest.NewServer(New(Options{Catalog: registry.NewCatalog(""), Agent: &fakeAgent{}, View: view, Watch: source}))
	defer s.Close()
	l := &live{url: s.URL}
	w := l.watch(t, "/v1/nodes?watch=1&revision=5")
	source.batches <- registry.Batch{Revision: 9, Snapshot: true}
	if e := w.next(false); e.Type != api.WatchError || e.Problem == nil || e.Problem.Status != http.StatusGone {
		t.Errorf("event %+v", e)
	}
	if w.lines.Scan() {
		t.Errorf("after that: %s", w.lines.Bytes())
	}
}

// TestWatchSlowReader: a client that does not read is let go, and holds nothing up.
func TestWatchSlowReader(t *testing.T) {
	view := NewView()
	view.Apply(registry.Batch{Revision: 1, Snapshot: true})
	source := endless{make(chan registry.Batch)}
	server := New(Options{Catalog: registry.NewCatalog(""), Agent: &fakeAgent{}, View: view, Watch: source})
	server.streamWrite = 50 * time.Millisecond
	over := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(over)
		server.ServeHTTP(w, r)
	}))
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /v1/nodes?watch=1&revision=1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	zone := strings.Repeat("z", 1<<20)
	for rev := int64(2); ; rev++ {
		b := registry.Batch{Revision: rev, Changes: []registry.Change{{Node: &registry.Node{Name: "n", Zone: zone}}}}
		view.Apply(b)
		select {
		case source.batches <- b:
		case <-over:
			return
		case <-time.After(time.Minute):
			t.Fatal("the handler goes on")
		}
	}
}

// TestWatchStops: streams end when the agent does.
func TestWatchStops(t *testing.T) {
	view := NewView()
	view.Apply(registry.Batch{Revision: 1, Snapshot: true})
	stop := make(chan struct{})
	hub := registry.NewHub(idle{}, registry.HubOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = hub.Run(ctx) }()
	s := httptest.NewServer(New(Options{Catalog: registry.NewCatalog(""), Agent: &fakeAgent{}, View: view, Watch: hub, Stopping: stop}))
	defer s.Close()
	w := (&live{url: s.URL}).watch(t, "/v1/nodes?watch=1")
	if e := w.next(true); e.Type != api.WatchBookmark {
		t.Fatalf("event %+v", e)
	}
	close(stop)
	for w.lines.Scan() {
	}
	if err := w.lines.Err(); err != nil {
		t.Errorf("the end: %v", err)
	}
}

// idle is a source without changes.
type idle struct{}

func (idle) Watch(ctx context.Context) <-chan registry.Batch {
	out := make(chan registry.Batch, 1)
	out <- registry.Batch{Revision: 1, Snapshot: true}
	go func() {
		<-ctx.Done()
		close(out)
	}()
	return out
}
