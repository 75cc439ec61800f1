package eureka_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/registry/eureka/eurekatest"
)

// TestJoin has two servers with stores of their own tell each other over the network, the second of which copied the
// first when it started: by a password that is a token, and compressed.
func TestJoin(t *testing.T) {
	first, c1 := start(t, nil)
	c1.want(http.StatusNoContent, http.MethodPost, "/apps/OLD", body("OLD", "old", ""))
	peer, err := eureka.ParsePeer(strings.Replace(first.URL, "//", "//sluice:"+eurekatest.Token+"@", 1) + "/eureka")
	if err != nil {
		t.Fatal(err)
	}
	second := eurekatest.Start(t, &eureka.Options{Peers: []*url.URL{peer}})
	c2 := &client{t, second.URL + "/eureka", http.Header{"Accept": {"application/json"}}}
	until(t, second, "OLD/old UP")

	c2.want(http.StatusNoContent, http.MethodPost, "/apps/NEW", body("NEW", "new", ""))
	until(t, first, "NEW/new UP")
	c2.want(http.StatusOK, http.MethodPut, "/apps/NEW/new/status?value=OUT_OF_SERVICE", "")
	until(t, first, "NEW/new OUT_OF_SERVICE")
	c2.want(http.StatusOK, http.MethodDelete, "/apps/NEW/new/status?value=UP", "")
	until(t, first, "NEW/new UP")
	c2.want(http.StatusOK, http.MethodDelete, "/apps/OLD/old", "")
	until(t, first, "")
	for _, p := range second.Peers() {
		if p.Err != nil || strings.Contains(p.Name, eurekatest.Token) {
			t.Errorf("the peer is told of as %+v", p)
		}
	}
}

// TestSharedRegistry: of two servers with one registry neither takes what the other tells, which says so.
func TestSharedRegistry(t *testing.T) {
	first, _ := start(t, nil)
	peer, err := eureka.ParsePeer(strings.Replace(first.URL, "//", "//sluice:"+eurekatest.Token+"@", 1) + "/eureka")
	if err != nil {
		t.Fatal(err)
	}
	second := eurekatest.Start(t, &eureka.Options{
		Source: first.Hub, Registrar: first.Store, Registry: first.Store.ID, Peers: []*url.URL{peer},
	})
	c := &client{t, second.URL + "/eureka", http.Header{"Accept": {"application/json"}}}
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", ""))
	for deadline := time.Now().Add(20 * time.Second); second.Peers()[0].Err == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is said of the shared registry")
		}
	}
	const want = "refuses: it shares its registry with this server: take it out of eureka.peers"
	if got := second.Peers()[0].Err.Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// until returns when a server tells of an instance, in its status; "": when it does not tell of OLD/old any more.
func until(t *testing.T, s *eurekatest.Server, what string) {
	t.Helper()
	for b := range s.Hub.Watch(t.Context()) {
		if err := s.Wait(t.Context(), b.Revision); err != nil {
			t.Fatal(err)
		}
		c := &client{t, s.URL + "/eureka", http.Header{"Accept": {"application/json"}}}
		_, list := c.all("/apps")
		var all []string
		for _, i := range list {
			all = append(all, fmt.Sprintf("%s/%s %s", i.App, i.ID(), i.Status))
		}
		text := strings.Join(all, ", ")
		if what != "" && strings.Contains(text, what) || what == "" && !strings.Contains(text, "OLD/old") {
			return
		}
	}
	t.Fatalf("no %q", what)
}
