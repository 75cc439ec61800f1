package eureka

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// always answers everything with the same text.
type always string

func (a always) RoundTrip(*http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.WriteString(string(a))
	return w.Result(), nil
}

// FuzzAnswers: whatever a peer answers to a batch makes no trouble, and changes what the batch was about only; nor does
// what it tells of its registry.
func FuzzAnswers(f *testing.F) {
	one := strings.TrimSuffix(strings.TrimPrefix(registration("i", 9), `{"instance":`), "}")
	for _, text := range []string{
		`{"responseList":[{"statusCode":404}]}`, `{"responseList":[{"statusCode":409,"responseEntity":` + one + `}]}`, `{"responseList":[]}`,
		`{"applications":{"versions__delta":"1","application":[{"name":"SVC","instance":[` + strings.Replace(one, `"i"`, `"k"`, 1) + `]}]}}`,
	} {
		f.Add(text)
	}
	u, err := ParsePeer(stockURL)
	if err != nil {
		f.Fatal(err)
	}
	mine, err := wire.ParseInstance([]byte(registration("i", 7)), false)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		m := newMemory()
		s := New(Options{Source: m, Registrar: m, Peers: []*url.URL{u}, Transport: always(answer)})
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { s.view.follow(ctx, m) })
		defer func() {
			stop()
			group.Wait()
		}()
		if o := s.register(ctx, access.Trusted("a test"), "SVC", mine, true); o.code != http.StatusNoContent {
			t.Fatal(o)
		}
		p := s.peers[0]
		p.send(ctx, []*queued{newQueued(wire.Task{App: "SVC", ID: "i", Action: wire.TaskHeartbeat}, 30, time.Now())})
		if n := p.queue.length(); n > 1 || len(m.items) != 1 {
			t.Errorf("%d tasks, %d instances", n, len(m.items))
		}
		n, err := s.copyFrom(ctx, p)
		if got := int64(len(m.items)) - 1; got > n.taken { // one may be told of twice
			t.Errorf("%d instances more, of %d that were taken; %v", got, n.taken, err)
		}
	})
}

// FuzzParsePeer: what is taken is a URL that requests can be made of and that comes back as it is; no error tells the text.
func FuzzParsePeer(f *testing.F) {
	for _, text := range []string{
		"http://h:8761/eureka/", "https://u:p@[::1]:1/a//", "http://h", "http://u:p%40@H/eureka/v2", "http://h:0/", "http://h:", "http://h/%2f",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParsePeer(text)
		if err != nil {
			if !slices.Contains([]string{
				"want a URL such as http://eureka.example:8761/eureka/", "want a port of 1 to 65535", "want a path without escapes, such as /eureka/",
			}, err.Error()) {
				t.Errorf("the error of %q may tell its password: %v", text, err)
			}
			return
		}
		again, err := ParsePeer(u.String())
		if err != nil || again.String() != u.String() {
			t.Fatalf("%q became %q, and that %v, %v", text, u, again, err)
		}
		p := &peer{url: u, user: u.User, registry: func(context.Context) string { return "" }}
		r, err := p.request(t.Context(), http.MethodGet, "apps/", nil)
		if err != nil || !strings.HasSuffix(r.URL.Path, "/apps/") || r.URL.RawQuery != "" {
			t.Errorf("%q makes the request %v, %v", text, r, err)
		}
	})
}
