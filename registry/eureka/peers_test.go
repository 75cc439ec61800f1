package eureka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// joined is a server with peers, of which one is a double, in a bubble of time.
type joined struct {
	*Server
	t    *testing.T
	m    *memory
	stop func() // returns when the server has ended
}

// join runs a server that has transport's peers.
func join(t *testing.T, m *memory, transport http.RoundTripper, peers ...string) *joined {
	t.Helper()
	var urls []*url.URL
	for _, text := range peers {
		u, err := ParsePeer(text)
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, u)
	}
	own := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	s := New(Options{
		Source: m, Registrar: m, Node: "n", Peers: urls, Transport: transport,
		Guard: &access.Guard{Own: func(netip.Addr) []netip.Addr { return own }},
	})
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { s.Run(ctx) })
	end := func() {
		stop()
		group.Wait()
	}
	t.Cleanup(end)
	if err := s.Wait(ctx, 0); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return &joined{s, t, m, end}
}

// ask sends a request, with a header if it has a name, and wants a code.
func (j *joined) ask(code int, method, path, body, header string) {
	j.t.Helper()
	r := httptest.NewRequest(method, "/eureka"+path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("Content-Type", "application/json")
	if header != "" {
		r.Header.Set(header, "true")
	}
	w := httptest.NewRecorder()
	if j.ServeHTTP(w, r); w.Code != code {
		j.t.Errorf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, code)
	}
}

// pass lets time go by and has all done that is due then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func registration(id string, dirty int) string {
	return fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":"h","app":"SVC","ipAddr":"127.0.0.1","status":"UP","port":{"$":80,"@enabled":"true"},`+
		`"lastDirtyTimestamp":"%d","leaseInfo":{"renewalIntervalInSecs":5},`+
		`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"}}}`, id, dirty)
}

func check(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

const stockURL = "http://sluice:secret@stock.test:8761/eureka"

// TestReplication: whatever clients do here a stock server is told, once, in order and with who tells it; what a peer
// has told is told nobody.
func TestReplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := newStock(t)
		j := join(t, newMemory(), peer, stockURL)
		step := func(batches, state string) {
			t.Helper()
			check(t, "before it is time", peer.batches(), "")
			pass(500 * time.Millisecond)
			check(t, "batches", peer.batches(), batches)
			check(t, "state", peer.has("SVC/i"), state)
		}
		j.ask(204, "POST", "/apps/SVC", registration("i", 7), "")
		j.ask(200, "PUT", "/apps/SVC/i?status=UP&lastDirtyTimestamp=7", "", "")
		step("Register SVC/i, Heartbeat SVC/i", "UP ")
		j.ask(200, "PUT", "/apps/SVC/i/status?value=OUT_OF_SERVICE", "", "")
		j.ask(200, "PUT", "/apps/SVC/i", "", "")
		step("StatusUpdate SVC/i, Heartbeat SVC/i", "OUT_OF_SERVICE OUT_OF_SERVICE")
		j.ask(200, "PUT", "/apps/SVC/i/status?value=OUT_OF_SERVICE", "", "") // the peer may know otherwise
		step("StatusUpdate SVC/i", "OUT_OF_SERVICE OUT_OF_SERVICE")
		j.ask(200, "DELETE", "/apps/SVC/i/status?value=UP", "", "")
		step("DeleteStatusOverride SVC/i", "UP ")
		j.ask(200, "PUT", "/apps/SVC/i/metadata?k=v", "", "")
		step("Register SVC/i", "UP ")
		check(t, "metadata", peer.instances["SVC/i"].Metadata["k"], "v")
		j.ask(404, "PUT", "/apps/SVC/i?lastDirtyTimestamp=8", "", "") // it is to register again, and tells then
		j.ask(404, "PUT", "/apps/SVC/other", "", "")
		j.ask(400, "POST", "/apps/X", registration("i", 9), "")
		step("", "UP ")
		j.ask(200, "DELETE", "/apps/SVC/i", "", "")
		j.ask(404, "DELETE", "/apps/SVC/i", "", "")
		step("Cancel SVC/i", "nothing")

		const mark = "X-Netflix-Discovery-Replication"
		j.ask(204, "POST", "/apps/SVC", registration("i", 9), mark)
		j.ask(200, "PUT", "/apps/SVC/i?lastDirtyTimestamp=9", "", mark)
		j.ask(200, "PUT", "/apps/SVC/i/status?value=OUT_OF_SERVICE", "", mark)
		j.ask(200, "DELETE", "/apps/SVC/i/status?value=UP", "", mark)
		j.ask(200, "PUT", "/apps/SVC/i/metadata?k=v", "", mark)
		j.ask(200, "DELETE", "/apps/SVC/i", "", mark)
		tasks := `{"replicationList":[{"appName":"SVC","id":"i","instanceInfo":` +
			strings.TrimSuffix(strings.TrimPrefix(registration("i", 9), `{"instance":`), "}") + `,"action":"Register"}`
		for _, action := range []string{"Heartbeat", "StatusUpdate", "DeleteStatusOverride", "Cancel"} {
			tasks += `,{"appName":"SVC","id":"i","status":"DOWN","action":"` + action + `"}`
		}
		j.ask(200, "POST", "/peerreplication/batch/", tasks+"]}", "")
		step("", "nothing")
		if last := peer.requests[len(peer.requests)-1]; last.URL.User != nil {
			t.Errorf("the user is in the URL %s", last.URL)
		} else if user, password, _ := last.BasicAuth(); user != "sluice" || password != "secret" {
			t.Errorf("the peer is told by %s %s", user, password)
		}
	})
}

// TestCaptured writes the tasks of the captured batch of the reference as it does.
func TestCaptured(t *testing.T) {
	q := func(action wire.TaskAction, status wire.Status) wire.Task {
		p := &peer{queue: newTaskQueue(func(string, int) {}), now: time.Now}
		p.tell(action, &wire.Instance{
			App: "SVC", InstanceID: "h1:svc:8080", LastDirty: 1700000000000, Status: status, Overridden: wire.Unknown,
		})
		batch, _ := p.queue.take(time.Now().Add(time.Second))
		return batch[0].Task
	}
	got := string(wire.AppendBatch(nil, []wire.Task{
		q(wire.TaskHeartbeat, wire.Up), q(wire.TaskStatus, wire.OutOfService), q(wire.TaskDeleteStatus, wire.Unknown), q(wire.TaskCancel, wire.Up),
	}))
	check(t, "batch", got, `{"replicationList":[`+
		`{"appName":"SVC","id":"h1:svc:8080","lastDirtyTimestamp":1700000000000,"status":"UP","action":"Heartbeat"},`+
		`{"appName":"SVC","id":"h1:svc:8080","lastDirtyTimestamp":1700000000000,"status":"OUT_OF_SERVICE","action":"StatusUpdate"},`+
		`{"appName":"SVC","id":"h1:svc:8080","lastDirtyTimestamp":1700000000000,"status":"UNKNOWN","action":"DeleteStatusOverride"},`+
		`{"appName":"SVC","id":"h1:svc:8080","action":"Cancel"}]}`)
}

// TestRetries: what does not arrive is sent again soon and then later and later, what a peer has no time for later at
// once, and what it refuses never.
func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		fail    func(r *http.Request) (*http.Response, error)
		between time.Duration // the first two tries; 0: there is one
		why     string
	}{
		"network": {func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true, Err: "timeout"}}
		}, 100 * time.Millisecond, "dial: lookup : timeout"},
		"reset": {func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "read", Err: errors.New("reset")}
		}, 100 * time.Millisecond, "read: reset"},
		"busy":  {func(*http.Request) (*http.Response, error) { return coded(503), nil }, time.Second, "has no time: it answers 503 Service Unavailable"},
		"often": {func(*http.Request) (*http.Response, error) { return coded(429), nil }, time.Second, "has no time: it answers 429 Too Many Requests"},
		"away":  {func(*http.Request) (*http.Response, error) { return coded(502), nil }, time.Second, "has no time: it answers 502 Bad Gateway"},
		"silent": {func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, 6 * time.Second, "has no time: it has not answered in time"},
		"refused": {func(*http.Request) (*http.Response, error) { return coded(401), nil }, 0, "refuses: it answers 401 Unauthorized"},
		"moved": {func(*http.Request) (*http.Response, error) {
			moved := coded(307)
			moved.Header.Set("Location", "http://elsewhere.test/eureka/")
			return moved, nil
		}, 0, "refuses: it answers 307 Temporary Redirect"},
		"no peer":  {func(*http.Request) (*http.Response, error) { return coded(200), nil }, 0, "refuses: its answer cannot be parsed: EOF"},
		"internal": {func(*http.Request) (*http.Response, error) { return coded(500), nil }, 0, "refuses: it answers 500 Internal Server Error"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer := newStock(t)
				var times []time.Time
				j := join(t, newMemory(), peer, stockURL)
				peer.before = func(_ int, r *http.Request) (*http.Response, error) {
					if times = append(times, time.Now()); len(times) > 3 {
						return nil, nil
					}
					return c.fail(r)
				}
				j.ask(204, "POST", "/apps/SVC", registration("i", 7), "")
				j.ask(200, "PUT", "/apps/SVC/i/status?value=DOWN", "", "")
				pass(c.between + 500*time.Millisecond)
				if p := j.Peers()[0]; p.Name != "http://stock.test:8761/eureka/" || p.Err == nil || p.Err.Error() != c.why {
					t.Errorf("the peer is told of as %+v, want %q", p, c.why)
				}
				pass(20 * time.Second)
				if c.between == 0 {
					if len(times) != 1 || peer.has("SVC/i") != "nothing" {
						t.Errorf("%d tries, the peer has %s", len(times), peer.has("SVC/i"))
					}
					return
				}
				if len(times) != 4 {
					t.Fatalf("%d tries, want 4", len(times))
				}
				for i := range 3 {
					want := c.between
					if want == afterNetwork {
						want <<= i
					}
					if d := times[i+1].Sub(times[i]); d != want {
						t.Errorf("try %d came after %v, want %v", i+1, d, want)
					}
				}
				want := "Register SVC/i, StatusUpdate SVC/i"
				if c.between > time.Second {
					want = "StatusUpdate SVC/i" // the instance should have renewed within 5 s
				}
				check(t, "in the end", peer.batches(), want)
				if p := j.Peers()[0]; p.Err != nil || p.Waiting != 0 {
					t.Errorf("in the end the peer is told of as %+v", p)
				}
			})
		})
	}
}

// TestPeerAway: one that cannot be reached for long is tried every two seconds, and soon again once it was reached.
func TestPeerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := newStock(t)
		j := join(t, newMemory(), peer, stockURL)
		tries, away := 0, true
		peer.before = func(int, *http.Request) (*http.Response, error) {
			if tries++; away {
				return nil, errors.New("unreachable")
			}
			return nil, nil
		}
		heartbeats := func(d time.Duration) {
			for ; d > 0; d -= 5 * time.Second {
				j.ask(200, "PUT", "/apps/SVC/i", "", "")
				pass(5 * time.Second)
			}
		}
		j.ask(204, "POST", "/apps/SVC", registration("i", 7), "")
		heartbeats(time.Minute)
		if tries < 30 || tries > 36 {
			t.Errorf("tried %d times in a minute", tries)
		}
		away = false
		heartbeats(10 * time.Second)
		check(t, "there", peer.has("SVC/i"), "UP ")
		away, tries = true, 0
		j.ask(200, "PUT", "/apps/SVC/i", "", "")
		pass(1900 * time.Millisecond)
		if tries != 4 { // after 500, 600, 800 and 1200 ms
			t.Errorf("tried %d times in 1.9 s", tries)
		}
	})
}

// TestResults: a peer that does not know an instance is told it whole, and what it knows better is taken from it; not so
// when it is not clear which result is whose.
func TestResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := newStock(t)
		j := join(t, newMemory(), peer, stockURL)
		for _, id := range []string{"i", "k"} {
			j.ask(204, "POST", "/apps/SVC", registration(id, 7), "")
		}
		pass(time.Second)
		peer.batches()
		metadata := func() string {
			return fmt.Sprint(j.view.instance(key{"SVC", "i"}).wire.Metadata, j.view.instance(key{"SVC", "i"}).wire.LastDirty)
		}
		lose := func() {
			peer.known("SVC", "i", "9", "5") // another client of that id registered there
			delete(peer.instances, "SVC/k")
			j.ask(200, "PUT", "/apps/SVC/i", "", "")
			j.ask(200, "PUT", "/apps/SVC/k", "", "")
			pass(time.Second)
		}
		peer.short = true
		lose()
		check(t, "batches", peer.batches(), "Heartbeat SVC/i, Heartbeat SVC/k")
		check(t, "what is known better", metadata(), "map[] 7")
		check(t, "fault", fmt.Sprint(j.Peers()[0].Err), "does not answer task by task: 1 results of 2 tasks")
		peer.short = false
		lose()
		check(t, "batches", peer.batches(), "Heartbeat SVC/i, Heartbeat SVC/k\nRegister SVC/k")
		check(t, "what is known better", metadata(), "map[of:stock] 9")
		check(t, "what was not known", peer.has("SVC/k"), "UP ")

		peer.before = func(_ int, r *http.Request) (*http.Response, error) { // an answer about another instance
			w := httptest.NewRecorder()
			other := strings.TrimSuffix(strings.TrimPrefix(registration("i", 99), `{"instance":`), "}")
			fmt.Fprintf(w, `{"responseList":[{"statusCode":409,"responseEntity":%s}]}`, other)
			return w.Result(), nil
		}
		j.ask(200, "PUT", "/apps/SVC/k", "", "")
		pass(time.Second)
		check(t, "what an answer about another says", metadata(), "map[of:stock] 9")
		check(t, "batches", peer.batches(), "")
	})
}

// TestHealth: peers are told what an instance says, not what its checks say here: they would not hear when it is well.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := newStock(t)
		j := join(t, newMemory(), peer, stockURL)
		j.ask(204, "POST", "/apps/SVC", registration("i", 7), "")
		id := registry.InstanceID{Namespace: "default", Service: "svc", ID: "i"}
		j.m.batches <- registry.Batch{Revision: j.m.rev, Changes: []registry.Change{{Health: &registry.InstanceHealth{InstanceID: id}}}}
		pass(time.Second)
		delete(peer.instances, "SVC/i")
		j.ask(200, "PUT", "/apps/SVC/i", "", "")
		pass(time.Second)
		check(t, "here", string(j.view.instance(key{"SVC", "i"}).wire.Status), "DOWN")
		check(t, "there", peer.has("SVC/i"), "UP ")
	})
}
