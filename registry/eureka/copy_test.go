package eureka

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// hosts has a transport for each.
type hosts map[string]http.RoundTripper

func (h hosts) RoundTrip(r *http.Request) (*http.Response, error) { return h[r.URL.Host].RoundTrip(r) }

// TestStartCopy: the first peer that answers is copied, without what is known here, and nobody waits for it.
func TestStartCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newStock(t), newStock(t)
		second.known("SERVICE-0", "host-0.example:service-0:8080", "99", "30")
		for i := range 100 {
			second.known("SVC", fmt.Sprint("s", i), "5", "30")
		}
		first.before = func(int, *http.Request) (*http.Response, error) { return coded(403), nil } // it is not ready
		var tries []time.Time
		begin := time.Now()
		second.before = func(_ int, r *http.Request) (*http.Response, error) {
			if tries = append(tries, time.Now()); len(tries) < 3 {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return nil, nil
		}
		m := newMemory(instances(1, 1)...)
		j := join(t, m, hosts{"one.test": first, "two.test": second}, "http://one.test/eureka/", "http://two.test/eureka/")
		pass(2*time.Minute + time.Second)
		if len(tries) != 3 || tries[0] != begin || tries[1].Sub(begin) != 35*time.Second || tries[2].Sub(begin) != 70*time.Second {
			t.Errorf("tries %v from %v on", tries, begin)
		}
		if len(m.items) != 101 {
			t.Errorf("%d instances, want 101", len(m.items))
		}
		if i := j.view.instance(key{"SERVICE-0", "host-0.example:service-0:8080"}); i.wire.LastDirty == 99 {
			t.Errorf("what was known is changed: %+v", i.wire)
		}
		if i := j.view.instance(key{"SVC", "s7"}); i.wire.LastDirty != 5 || i.wire.Metadata["of"] != "stock" {
			t.Errorf("what was not is %+v", i.wire)
		}
		check(t, "told", first.batches()+second.batches(), "")
	})
}

// TestNoCopy: after five tries nobody is asked any more.
func TestNoCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := newStock(t)
		peer.before = func(int, *http.Request) (*http.Response, error) { return nil, errors.New("unreachable") }
		j := join(t, newMemory(), peer, stockURL)
		j.ask(204, "POST", "/apps/SVC", registration("i", 7), "") // it works all the same
		j.ask(200, "DELETE", "/apps/SVC/i", "", "")
		pass(time.Hour)
		asked := slices.DeleteFunc(slices.Clone(peer.requests), func(r *http.Request) bool { return r.Method != "GET" })
		if len(asked) != copyTries {
			t.Errorf("asked %d times", len(asked))
		}
		if n := j.Peers()[0].Waiting; n != 0 {
			t.Errorf("%d tasks wait for ever", n)
		}
	})
}

// loop sends a server's requests to itself.
type loop struct{ to http.Handler }

func (l *loop) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	r.RemoteAddr = "127.0.0.1:1"
	l.to.ServeHTTP(w, r)
	return w.Result(), nil
}

// TestItself: a server that is its own peer says so, and does nothing twice.
func TestItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &loop{to: http.NotFoundHandler()}
		j := join(t, newMemory(), l, stockURL)
		l.to = j.Server
		j.ask(204, "POST", "/apps/SVC", registration("i", 7), "")
		written := j.m.rev
		pass(time.Second)
		if err := j.Peers()[0].Err; !errors.Is(err, errSelf) || j.m.rev != written {
			t.Errorf("%v, %d writes", err, j.m.rev-written)
		}
	})
}

// TestLastWords: what waits when the server ends is told.
func TestLastWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := newStock(t)
		j := join(t, newMemory(), peer, stockURL)
		j.ask(204, "POST", "/apps/SVC", registration("i", 7), "")
		j.stop()
		check(t, "batches", peer.batches(), "Register SVC/i")
	})
}

// TestPeerMetrics: they and the server's status say what became of tasks, and no password.
func TestPeerMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		well, ill := newStock(t), newStock(t)
		well.known("SVC", "other", "5", "30")
		ill.before = func(int, *http.Request) (*http.Response, error) { return coded(401), nil }
		j := join(t, newMemory(), hosts{"well.test": well, "ill.test": ill}, "http://u:secret@well.test/eureka/", "https://u:secret@ill.test/")
		for range 2 {
			j.ask(204, "POST", "/apps/SVC", registration("i", 7), "")
		}
		pass(time.Second)
		j.ask(200, "PUT", "/apps/SVC/i", "", "")
		r := prometheus.NewRegistry()
		r.MustRegister(j.Server)
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, f := range families {
			for _, m := range f.Metric {
				value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
				if name := strings.TrimPrefix(f.GetName(), "sluice_eureka_"); strings.HasPrefix(name, "peer") || strings.HasPrefix(name, "copied") {
					for _, l := range m.Label {
						name += " " + l.GetValue()
					}
					lines = append(lines, fmt.Sprint(name, " ", value))
				}
			}
		}
		check(t, "metrics", strings.Join(lines, "\n"), `copied_instances_total 1
peer_reached http://well.test/eureka/ 1
peer_reached https://ill.test/ 0
peer_tasks_total http://well.test/eureka/ replaced 1
peer_tasks_total http://well.test/eureka/ sent 1
peer_tasks_total https://ill.test/ refused 1
peer_tasks_total https://ill.test/ replaced 1
peer_waiting_tasks http://well.test/eureka/ 1
peer_waiting_tasks https://ill.test/ 1`)
		q := httptest.NewRequest("GET", "/eureka/status", nil)
		w := httptest.NewRecorder()
		j.ServeHTTP(w, q)
		for _, want := range []string{
			"<registered-replicas>http://well.test/eureka/,https://ill.test/,</registered-replicas>",
			"<available-replicas>http://well.test/eureka/,</available-replicas>", "<unavailable-replicas>https://ill.test/,</unavailable-replicas>",
		} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("no %s in %s", want, w.Body)
			}
		}
		if strings.Contains(w.Body.String()+fmt.Sprint(j.Peers()), "secret") {
			t.Error("the password is told")
		}
	})
}
