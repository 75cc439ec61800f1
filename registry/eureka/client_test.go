package eureka_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/registry/eureka/eurekatest"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// client talks to a server as Eureka's clients do, without following anywhere.
type client struct {
	t   testing.TB
	url string
	http.Header
}

func start(t *testing.T, o *eureka.Options, own ...netip.Addr) (*eurekatest.Server, *client) {
	t.Helper()
	t.Parallel()
	s := eurekatest.Start(t, o, own...)
	return s, &client{t, s.URL + "/eureka", http.Header{"Accept": {"application/json"}}}
}

// with returns a client that sends another header.
func (c client) with(name, value string) *client {
	c.Header = c.Header.Clone()
	c.Header.Set(name, value)
	return &c
}

type answer struct {
	*http.Response
	body string
}

// do sends a request and checks how the answer is framed: an empty one says so, and no client is told of gzip that it
// did not ask for.
func (c *client) do(method, path, body string) answer {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header = c.Header.Clone()
	if body != "" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json;charset=UTF-8")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	length := res.Header.Get("Content-Length")
	switch {
	case res.StatusCode == http.StatusNoContent && length == "":
	case method == http.MethodHead:
	case length != strconv.Itoa(len(data)) || len(res.TransferEncoding) > 0:
		c.t.Errorf("%s %s: Content-Length %q of %d bytes, transfer encoding %v", method, path, length, len(data), res.TransferEncoding)
	case len(data) == 0 && (res.Header.Get("Content-Type") != "" || res.Header.Get("Content-Encoding") != ""):
		c.t.Errorf("%s %s: an empty answer has the header %v", method, path, res.Header)
	}
	if got := res.Header.Get("Content-Encoding"); (got == "gzip") != (strings.Contains(c.Header.Get("Accept-Encoding"), "gzip") && len(data) > 0) && got != "" {
		c.t.Errorf("%s %s: Content-Encoding %q", method, path, got)
	}
	return answer{res, string(data)}
}

// want sends a request and wants a code and no body.
func (c *client) want(code int, method, path, body string) {
	c.t.Helper()
	if a := c.do(method, path, body); a.StatusCode != code || a.body != "" {
		c.t.Errorf("%s %s: got %d %q, want %d and nothing", method, path, a.StatusCode, a.body, code)
	}
}

// get wants a document and returns it.
func (c *client) get(path string) string {
	c.t.Helper()
	a := c.do(http.MethodGet, path, "")
	if a.StatusCode != http.StatusOK {
		c.t.Fatalf("GET %s: %d %s", path, a.StatusCode, a.body)
	}
	return a.body
}

// all returns what a GET of many instances answers.
func (c *client) all(path string) (wire.Applications, []*wire.Instance) {
	c.t.Helper()
	a := c.do(http.MethodGet, path, "")
	in := io.Reader(strings.NewReader(a.body))
	if a.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if in, err = gzip.NewReader(in); err != nil {
			c.t.Fatal(err)
		}
	}
	var list []*wire.Instance
	head, skipped, err := wire.ReadApplications(in, strings.Contains(a.Header.Get("Content-Type"), "xml"), func(i *wire.Instance) error {
		list = append(list, i)
		return nil
	})
	if a.StatusCode != http.StatusOK || err != nil || skipped != 0 {
		c.t.Fatalf("GET %s: %d, %v, %d skipped: %s", path, a.StatusCode, err, skipped, a.body)
	}
	return head, list
}

// one returns what a GET of one instance answers.
func (c *client) one(path string) *wire.Instance {
	c.t.Helper()
	i, err := wire.ParseInstance([]byte(c.get(path)), false)
	if err != nil {
		c.t.Fatalf("GET %s: %v", path, err)
	}
	return i
}

// body is a registration; more are members with a comma behind each.
func body(app, id, more string) string {
	return fmt.Sprintf(`{"instance":{%s"instanceId":%q,"app":%q,"hostName":"h","ipAddr":"127.0.0.1","vipAddress":"v1,v2","port":{"$":8080,"@enabled":"true"},`+
		`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"}}}`, more, id, app)
}

func words(list []*wire.Instance) string {
	var text []string
	for _, i := range list {
		text = append(text, fmt.Sprintf("%s/%s=%s,%s", i.App, i.ID(), i.Status, i.Action))
	}
	return strings.Join(text, " ")
}

func equal(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}
