package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// fakeObserver tells of the events that a test sends, and allows every flow but those to port 81.
type fakeObserver struct {
	events  chan *registry.Event
	filters chan registry.EventFilter
	watched []registry.EndpointID
	open    atomic.Int32 // streams
	fail    error
	probes  []registry.Probe
}

type fakeStream struct{ o *fakeObserver }

func (o *fakeObserver) Events(f registry.EventFilter, watch []registry.EndpointID) (EventStream, error) {
	if o.fail != nil {
		return nil, o.fail
	}
	o.watched = watch
	o.open.Add(1)
	o.filters <- f
	return fakeStream{o}, nil
}

func (s fakeStream) Next(ctx context.Context) (*registry.Event, error) {
	select {
	case e := <-s.o.events:
		if e == nil {
			return nil, io.EOF
		}
		return e, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s fakeStream) Close() { s.o.open.Add(-1) }

func (o *fakeObserver) Why(p registry.Probe) (registry.TraceFlow, error) {
	o.probes = append(o.probes, p)
	f := registry.TraceFlow{Verdict: registry.VerdictAllowed}
	if p.Port == 81 && p.Destination.Address.Is4() {
		f.Verdict = registry.VerdictDenied
	}
	return f, o.fail
}

// observed is an API with an observer, and two containers: shop/client of this node and shop/far of another.
type observed struct {
	*fakeObserver
	server   *Server
	client   *api.Client
	socket   string
	stopping chan struct{}
}

func serveObserver(t *testing.T) *observed {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o := &observed{
		fakeObserver: &fakeObserver{events: make(chan *registry.Event), filters: make(chan registry.EventFilter, 1)},
		socket:       filepath.Join(dir, "sock"), stopping: make(chan struct{}),
	}
	catalog := registry.NewCatalog("")
	endpoint := func(node, name string, addrs ...string) registry.Change {
		e := registry.Endpoint{
			EndpointID: registry.EndpointID{Node: node, ContainerID: name + "-0123456789", Interface: "eth0"},
			Name:       registry.Name{Namespace: "shop", Name: name},
		}
		for _, a := range addrs {
			e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
		}
		return registry.Change{Endpoint: &e}
	}
	service := func(name string, vips ...string) registry.Change {
		s := registry.Service{Name: registry.Name{Namespace: "shop", Name: name}, Headless: len(vips) == 0}
		for _, a := range vips {
			s.VIPs = append(s.VIPs, netip.MustParseAddr(a))
		}
		return registry.Change{Service: &s}
	}
	catalog.Apply(registry.Batch{Revision: 1, Snapshot: true, Changes: []registry.Change{
		endpoint("n1", "client", "10.244.1.5", "fd00::5"), endpoint("n2", "far", "10.244.2.5"), endpoint("n1", "both", "10.244.1.6"),
		service("web", "10.96.0.5", "fd00:96::5"), service("both", "10.96.0.6"), service("headless"),
		{Service: &registry.Service{Name: registry.Name{Namespace: "shop", Name: "db"}, Type: registry.TypeExternalName, ExternalName: "db.example.com"}},
	}})
	l, err := net.Listen("unix", o.socket)
	if err != nil {
		t.Fatal(err)
	}
	o.server = New(Options{
		Store: &fakeStore{catalog: catalog}, Catalog: catalog, Agent: &fakeAgent{}, Version: api.Version{Version: "v1", Node: "n1"},
		Observer: o.fakeObserver, Stopping: o.stopping,
	})
	s := httptest.NewUnstartedServer(o.server)
	s.Listener.Close()
	s.Listener = l
	s.Config.ReadTimeout = 50 * time.Millisecond // of a request; streams go on
	s.Start()
	t.Cleanup(s.Close)
	o.client = api.NewClient(o.socket)
	t.Cleanup(o.client.Close)
	return o
}

func (o *observed) send(t *testing.T, e *registry.Event) {
	t.Helper()
	select {
	case o.events <- e:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody takes the event")
	}
}

func (o *observed) awaitClosed(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); o.open.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the stream is still open")
		}
	}
}

// TestEventsStream: events come as they happen, long after the bound on reading a request, and the query
// arrives as it was asked.
func TestEventsStream(t *testing.T) {
	o := serveObserver(t)
	query := api.EventQuery{
		Types: []string{"drop", "audit"}, Reasons: []string{"ingress"}, Namespace: "shop", Container: "shop/client",
		From: "world", To: "10.0.0.0/8", Policy: "p", Protocol: "tcp", Port: 80, Watch: []string{"shop/client"}, Limit: 3,
	}
	want, err := query.Filter()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for i := range 4 {
			if i == 2 { // by then the request's time is over
				time.Sleep(200 * time.Millisecond)
			}
			e := &registry.Event{Type: registry.EventDrop, Destination: registry.Party{Port: uint16(i)}}
			if i == 1 {
				e = &registry.Event{Type: registry.EventLost, Missed: 9}
			}
			o.events <- e
		}
	}()
	var got []string
	for e, err := range o.client.Events(t.Context(), query) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(e.Type))
	}
	if text := strings.Join(got, " "); text != "drop lost drop drop" {
		t.Errorf("got %s", text)
	}
	f := <-o.filters
	a, _ := json.Marshal(f)
	b, _ := json.Marshal(want)
	if string(a) != string(b) || f.From != want.From || f.To != want.To || f.Container != want.Container {
		t.Errorf("filter %+v, want %+v", f, want)
	}
	if len(o.watched) != 1 || o.watched[0].ContainerID != "client-0123456789" {
		t.Errorf("watched %v", o.watched)
	}
	o.awaitClosed(t)
}

// TestEventsEnd: a stream ends when its client goes, and when the agent stops.
func TestEventsEnd(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		o := serveObserver(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			<-o.filters
			o.events <- &registry.Event{Type: registry.EventDrop}
		}()
		var last error
		for _, err := range o.client.Events(ctx, api.EventQuery{}) {
			last = err
			cancel()
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("the client's stream ended with %v", last)
		}
		o.awaitClosed(t)
	})
	t.Run("client breaks off", func(t *testing.T) {
		o := serveObserver(t)
		go func() { o.events <- &registry.Event{Type: registry.EventDrop} }()
		for range o.client.Events(t.Context(), api.EventQuery{}) {
			break
		}
		o.awaitClosed(t)
	})
	for name, end := range map[string]func(*observed){
		"agent":  func(o *observed) { close(o.stopping) },
		"events": func(o *observed) { o.events <- nil },
	} {
		t.Run(name, func(t *testing.T) {
			o := serveObserver(t)
			go func() {
				<-o.filters
				end(o)
			}()
			var last error
			for _, err := range o.client.Events(t.Context(), api.EventQuery{}) {
				last = err
			}
			if last == nil || !strings.Contains(last.Error(), "ended the stream") {
				t.Errorf("the client's stream ended with %v", last)
			}
			o.awaitClosed(t)
		})
	}
}

// TestEventsDeafClient: a stream that nobody reads ends, with its client or when its time is over.
func TestEventsDeafClient(t *testing.T) {
	for name, x := range map[string]struct {
		patience time.Duration
		end      func(net.Conn)
	}{
		"gone":   {time.Hour, func(conn net.Conn) { conn.Close() }},
		"asleep": {time.Second, func(net.Conn) {}},
	} {
		t.Run(name, func(t *testing.T) {
			o := serveObserver(t)
			o.server.streamWrite = x.patience
			conn, err := net.Dial("unix", o.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			// More than a socket holds.
			o.send(t, &registry.Event{Type: registry.EventDrop, Source: registry.Party{Group: strings.Repeat("x", 4<<20)}})
			if o.open.Load() != 1 {
				t.Error("the stream has ended at once")
			}
			x.end(conn)
			o.awaitClosed(t)
		})
	}
}

func TestEventsRefuses(t *testing.T) {
	o := serveObserver(t)
	for path, want := range map[string]int{
		"?type=drp": 422, "?protocol=x": 422, "?port=99999": 400, "?bogus=1": 400, "?limit=-1": 400, "?from=a/b/c": 422,
		"?watch=nobody": 404, "?watch=shop/far": 422, "?" + strings.Repeat("type=drop&", 65): 400,
	} {
		res, err := (&http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", o.socket)
			},
		}}).Get("http://sluiced/v1/events" + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, res.Status, want)
		}
	}
	o.fail = &api.Error{Status: 503, Message: "too many"}
	for _, err := range o.client.Events(t.Context(), api.EventQuery{}) {
		if err == nil || err.Error() != "too many" {
			t.Errorf("got %v", err)
		}
	}
	if o.open.Load() != 0 {
		t.Error("a stream is open")
	}
}

// TestWhy: names become addresses, those of one family are joined, and the verdicts add up.
func TestWhy(t *testing.T) {
	o := serveObserver(t)
	for _, x := range []struct {
		from, to, protocol string
		port               uint16
		want               string // verdict, probes
	}{
		{"shop/client", "shop/web", "", 80, "allowed 10.244.1.5>10.96.0.5:80/TCP fd00::5>fd00:96::5:80/TCP"},
		{"client-01", "shop/web", "udp", 81, "mixed 10.244.1.5>10.96.0.5:81/UDP fd00::5>fd00:96::5:81/UDP"},
		{"client", "shop/far", "", 81, "denied 10.244.1.5>10.244.2.5:81/TCP"},
		{"world", "client", "sctp", 7, "allowed world>10.244.1.5:7/SCTP world>fd00::5:7/SCTP"},
		{"203.0.113.9", "client", "tcp", 7, "allowed 203.0.113.9>10.244.1.5:7/TCP"},
		{"client", "node", "icmp", 0, "allowed 10.244.1.5>node:0/ICMP fd00::5>node:0/ICMPv6"},
		{"client", "::ffff:10.1.1.1", "tcp", 1, "allowed 10.244.1.5>10.1.1.1:1/TCP"},
		{"client", "service/shop/both", "tcp", 1, "allowed 10.244.1.5>10.96.0.6:1/TCP"},
		{"client", "container/shop/both", "tcp", 1, "allowed 10.244.1.5>10.244.1.6:1/TCP"},
		{"client", "shop/both", "tcp", 1, `409 "shop/both" is a service and a container: say service/shop/both or container/shop/both`},
		{"client", "svc/shop/db", "tcp", 1, "422 service shop/db is a name in DNS for db.example.com, and has no address"},
		{"client", "svc/shop/headless", "tcp", 1, "422 service shop/headless is headless: ask for one of its containers"},
		{"client", "shop/nothing", "tcp", 1, `404 "shop/nothing" is neither a service nor a container (see "sluice get services -A", "sluice get endpoints -A")`},
		{"client", "service/shop/nothing", "tcp", 1, `404 service "shop/nothing": not found`},
		{"client", "shop/web", "tcp", 0, "422 why: no port: TCP has ports"},
		{"client", "shop/web", "icmp", 1, "422 why: port 1: ICMP has no ports"},
		{"client", "", "tcp", 1, `422 why: from "client", to "": want two ends`},
		{"shop/far", "fd00::9", "tcp", 1, "422 why: shop/far and fd00::9 have no address of one family"},
		{"world", "node", "tcp", 1, "422 why: world and node have no address of one family"},
	} {
		o.probes = nil
		trace, err := o.client.Why(t.Context(), api.WhyQuery{From: x.from, To: x.to, Port: x.port, Protocol: x.protocol})
		got := string(trace.Verdict)
		var e *api.Error
		if errors.As(err, &e) {
			got = http.StatusText(e.Status) + " " + e.Message
			x.want = strings.NewReplacer("409 ", "Conflict ", "404 ", "Not Found ", "422 ", "Unprocessable Entity ").Replace(x.want)
		} else if err != nil {
			t.Fatal(err)
		}
		for _, p := range o.probes {
			got += " " + place(p.Source) + ">" + place(p.Destination) + ":" + jsonText(p.Port) + "/" + registry.ProtocolName(p.Protocol)
		}
		if got != x.want {
			t.Errorf("%s to %s: %s\nwant %s", x.from, x.to, got, x.want)
		}
	}
}

func place(p registry.Place) string {
	if p.Address.IsValid() {
		return p.Address.String()
	}
	return string(p.Kind)
}

func jsonText(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
