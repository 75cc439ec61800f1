package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

const (
	maxBody    = 64 << 10 // bytes that a body is looked for a match in
	maxHeaders = 16 << 10
)

// httpQuestion is a GET and what it is to be answered with.
type httpQuestion struct {
	url    url.URL // but for the host
	host   string  // of the header; "": the address
	tls    bool
	status []int
	body   *regexp.Regexp // nil: any
}

func newHTTPQuestion(c *registry.HealthCheck) (*httpQuestion, error) {
	q := &httpQuestion{host: c.Host, tls: c.TLS, status: c.Status}
	path := c.Path
	if path == "" {
		path = "/"
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, fmt.Errorf("path %.64q: %w", path, err)
	}
	q.url = url.URL{Scheme: "http", Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	if c.TLS {
		q.url.Scheme = "https"
	}
	if c.Body != "" {
		if q.body, err = regexp.Compile(c.Body); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
	}
	return q, nil
}

// ask sends the request to one address. A redirection is an answer like any other, and is not followed. The
// certificate is not looked at, as with a kubelet's probes: an instance's address is in few of them.
func (q *httpQuestion) ask(ctx context.Context, a netip.AddrPort) error {
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, a) },
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true, ServerName: serverName(q.host)},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaders,
	}
	defer transport.CloseIdleConnections()
	u := q.url
	u.Host = a.String()
	r := (&http.Request{Method: http.MethodGet, URL: &u, Host: q.host, Header: http.Header{
		"User-Agent": {userAgent}, "Accept": {"*/*"},
	}}).WithContext(ctx)
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case len(q.status) > 0 && !slices.Contains(q.status, resp.StatusCode):
		return fmt.Errorf("status %d, want one of %v", resp.StatusCode, q.status)
	case len(q.status) == 0 && resp.StatusCode/100 != 2:
		return fmt.Errorf("status %d, want 200 to 299", resp.StatusCode)
	case q.body == nil:
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	if !q.body.Match(body) {
		return errors.New("the body does not match")
	}
	return nil
}

// serverName is what TLS asks for (RFC 6066, 3): a name without port; no address.
func serverName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	return host
}
