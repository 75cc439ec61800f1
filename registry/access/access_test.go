package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

const (
	secretAll       = "0123456789abcdef-all"
	secretInstances = "0123456789abcdef-instances"
)

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// own is a node 192.0.2.1 with one container.
func own(a netip.Addr) []netip.Addr {
	container, node := addrs("10.244.1.2", "fd00::2"), addrs("192.0.2.1", "127.0.0.1", "::1")
	for _, set := range [][]netip.Addr{container, node} {
		for _, one := range set {
			if one == a {
				return set
			}
		}
	}
	return nil
}

func newGuard(t *testing.T) *Guard {
	t.Helper()
	return &Guard{Tokens: openTokens(t, "ops "+secretAll+"\nci "+secretInstances+" instances\n"), Own: own}
}

type request struct {
	from   string
	header http.Header
	basic  [2]string
	cert   bool // verified
}

func (q request) make() *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/v1/instances", nil)
	r.RemoteAddr = q.from
	for k, v := range q.header {
		r.Header[k] = v
	}
	if q.basic != [2]string{} {
		r.SetBasicAuth(q.basic[0], q.basic[1])
	}
	if q.cert {
		leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "deployer"}}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
	}
	return r
}

func bearer(secret string) http.Header { return http.Header{"Authorization": {"Bearer " + secret}} }

// verdict names an answer: "" is yes.
func verdict(err error) string {
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, ErrUnauthenticated):
		return "401"
	case errors.Is(err, ErrForbidden):
		return "403"
	}
	return err.Error()
}

// TestMayRegister: who may register what, and who may write everything.
func TestMayRegister(t *testing.T) {
	g := newGuard(t)
	const container = "10.244.1.2:40000"
	for name, test := range map[string]struct {
		request
		at    []netip.Addr
		want  string
		write string // MayWrite
	}{
		"its own":               {request{from: container}, addrs("10.244.1.2"), "yes", "401"},
		"its own, both":         {request{from: container}, addrs("10.244.1.2", "fd00::2"), "yes", "401"},
		"by IPv6":               {request{from: "[fd00::2]:1"}, addrs("10.244.1.2"), "yes", "401"},
		"one is another's":      {request{from: container}, addrs("10.244.1.2", "fd00::3"), "403", "401"},
		"another's":             {request{from: container}, addrs("10.244.1.3"), "403", "401"},
		"the node's":            {request{from: container}, addrs("192.0.2.1"), "403", "401"},
		"loopback":              {request{from: container}, addrs("127.0.0.1"), "403", "401"},
		"none":                  {request{from: container}, nil, "403", "401"},
		"invalid":               {request{from: container}, []netip.Addr{{}}, "403", "401"},
		"mapped source":         {request{from: "[::ffff:10.244.1.2]:1"}, addrs("10.244.1.2"), "yes", "401"},
		"mapped address":        {request{from: container}, addrs("::ffff:10.244.1.2"), "yes", "401"},
		"mapped, another's":     {request{from: container}, addrs("::ffff:10.244.1.3"), "403", "401"},
		"address with a zone":   {request{from: "[fd00::2]:1"}, addrs("fd00::2%eth0"), "403", "401"},
		"source with a zone":    {request{from: "[fd00::2%eth0]:1"}, addrs("fd00::2"), "403", "401"},
		"a stranger":            {request{from: "203.0.113.9:1"}, addrs("203.0.113.9"), "403", "401"},
		"no source":             {request{from: "@"}, addrs("10.244.1.2"), "403", "401"},
		"the node":              {request{from: "192.0.2.1:1"}, addrs("192.0.2.1"), "yes", "401"},
		"the node for loopback": {request{from: "[::1]:1"}, addrs("127.0.0.9"), "yes", "401"},
		"the node for others":   {request{from: "127.0.0.1:1"}, addrs("10.244.1.2"), "403", "401"},
		"forwarded": {request{from: "203.0.113.9:1", header: http.Header{
			"X-Forwarded-For": {"10.244.1.2"}, "Forwarded": {"for=10.244.1.2"}, "X-Real-Ip": {"10.244.1.2"},
		}}, addrs("10.244.1.2"), "403", "401"},
		"a page of another site": {request{from: "127.0.0.1:1", header: http.Header{"Sec-Fetch-Site": {"cross-site"}}}, addrs("127.0.0.1"), "403", "401"},
		"from another origin":    {request{from: container, header: http.Header{"Origin": {"http://evil.example"}}}, addrs("10.244.1.2"), "403", "401"},
		"a browser's own user":   {request{from: "127.0.0.1:1", header: http.Header{"Sec-Fetch-Site": {"none"}}}, addrs("127.0.0.1"), "yes", "401"},
		"token":                  {request{from: "203.0.113.9:1", header: bearer(secretAll)}, addrs("10.9.9.9"), "yes", "yes"},
		"token, no address":      {request{from: "203.0.113.9:1", header: bearer(secretAll)}, nil, "yes", "yes"},
		"token in lower case":    {request{from: "@", header: http.Header{"Authorization": {"bearer " + secretAll}}}, addrs("10.9.9.9"), "yes", "yes"},
		"token for instances":    {request{from: "203.0.113.9:1", header: bearer(secretInstances)}, addrs("10.9.9.9"), "yes", "403"},
		"password":               {request{from: "203.0.113.9:1", basic: [2]string{"eureka", secretAll}}, addrs("10.9.9.9"), "yes", "yes"},
		"user name":              {request{from: "203.0.113.9:1", basic: [2]string{secretAll, "x"}}, addrs("10.9.9.9"), "401", "401"},
		"wrong token":            {request{from: "203.0.113.9:1", header: bearer(secretAll + "x")}, addrs("10.9.9.9"), "401", "401"},
		"half a token":           {request{from: "203.0.113.9:1", header: bearer(secretAll[:16])}, addrs("10.9.9.9"), "401", "401"},
		"empty token":            {request{from: "203.0.113.9:1", header: bearer("")}, addrs("10.9.9.9"), "401", "401"},
		"wrong token, its own":   {request{from: container, header: bearer("0123456789abcdef-no")}, addrs("10.244.1.2"), "yes", "401"},
		"another scheme":         {request{from: "203.0.113.9:1", header: http.Header{"Authorization": {"Digest " + secretAll}}}, addrs("10.9.9.9"), "403", "401"},
		"certificate":            {request{from: "203.0.113.9:1", cert: true}, addrs("10.9.9.9"), "yes", "yes"},
		"certificate and token":  {request{from: "203.0.113.9:1", cert: true, header: bearer("x")}, addrs("10.9.9.9"), "yes", "yes"},
	} {
		c := g.Caller(test.make())
		if got := verdict(c.MayRegister(test.at)); got != test.want {
			t.Errorf("%s: may register: %s, want %s", name, got, test.want)
		}
		if got := verdict(c.MayAlter(&registry.Instance{Addresses: test.at})); got != test.want {
			t.Errorf("%s: may alter: %s, want %s", name, got, test.want)
		}
		if got := verdict(c.MayWrite()); got != test.write {
			t.Errorf("%s: may write: %s, want %s", name, got, test.write)
		}
	}
}

// TestCertificateNotVerified: one that the server has not verified is worth nothing.
func TestCertificateNotVerified(t *testing.T) {
	r := request{from: "203.0.113.9:1", cert: true}.make()
	r.TLS.VerifiedChains = nil
	if got := verdict(newGuard(t).Caller(r).MayWrite()); got != "401" {
		t.Errorf("may write: %s", got)
	}
}

// TestSocket: whoever came in by a unix socket may do everything, and only it: no header can claim that.
func TestSocket(t *testing.T) {
	g := &Guard{}
	r := request{from: "@"}.make()
	if got := verdict(g.Caller(r).MayWrite()); got != "401" {
		t.Errorf("from nowhere: %s", got)
	}
	local := func(a net.Addr) *http.Request {
		return r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, a))
	}
	if got := verdict(g.Caller(local(&net.TCPAddr{IP: net.IPv6loopback})).MayWrite()); got != "401" {
		t.Errorf("by TCP: %s", got)
	}
	c := g.Caller(local(&net.UnixAddr{Name: "/s", Net: "unix"}))
	if err := errors.Join(c.MayWrite(), c.MayRegister(nil), c.MayAlter(&registry.Instance{})); err != nil || c.Name != "root" {
		t.Errorf("by socket: %s, %v", c.Name, err)
	}
}

// TestZeroGuard: without tokens and addresses nobody may write by TCP.
func TestZeroGuard(t *testing.T) {
	c := (&Guard{}).Caller(request{from: "127.0.0.1:1", header: bearer(secretAll)}.make())
	if verdict(c.MayWrite()) != "401" || verdict(c.MayRegister(addrs("127.0.0.1"))) != "401" {
		t.Errorf("%v, %v", c.MayWrite(), c.MayRegister(addrs("127.0.0.1")))
	}
}

// TestTrusted: whom the configuration names may write instances everywhere, and nothing else.
func TestTrusted(t *testing.T) {
	c := Trusted("peer")
	if err := errors.Join(c.MayRegister(nil), c.MayRegister(addrs("10.9.9.9")), c.MayAlter(&registry.Instance{})); err != nil || c.Name != "peer" {
		t.Errorf("%s may not write instances: %v", c.Name, err)
	}
	exec := []registry.HealthCheck{{Type: registry.CheckExec}}
	if verdict(c.MayWrite()) != "403" || verdict(c.MayCheck(exec, nil)) != "403" {
		t.Errorf("%v, %v", c.MayWrite(), c.MayCheck(exec, nil))
	}
}

// TestMayCheck: whoever may register an instance may have it asked over the network, but not name a command for the node.
func TestMayCheck(t *testing.T) {
	command := registry.HealthCheck{Type: registry.CheckExec, Command: []string{"/bin/check"}}
	other := registry.HealthCheck{Type: registry.CheckExec, Command: []string{"/bin/sh", "-c", "id"}}
	tcp := registry.HealthCheck{Type: registry.CheckTCP}
	bearer := func(secret string) request {
		return request{from: "10.244.1.2:1", header: http.Header{"Authorization": {"Bearer " + secret}}}
	}
	for name, c := range map[string]struct {
		by          request
		now, before []registry.HealthCheck
		want        error
	}{
		"a container over TCP":           {request{from: "10.244.1.2:1"}, []registry.HealthCheck{tcp}, nil, nil},
		"a container by a command":       {request{from: "10.244.1.2:1"}, []registry.HealthCheck{tcp, command}, nil, ErrUnauthenticated},
		"a container by a known command": {request{from: "10.244.1.2:1"}, []registry.HealthCheck{tcp, command}, []registry.HealthCheck{command}, nil},
		"a container by another command": {request{from: "10.244.1.2:1"}, []registry.HealthCheck{other}, []registry.HealthCheck{command}, ErrUnauthenticated},
		"the node itself by a command":   {request{from: "127.0.0.1:1"}, []registry.HealthCheck{command}, nil, ErrUnauthenticated},
		"a token for instances":          {bearer(secretInstances), []registry.HealthCheck{command}, nil, ErrForbidden},
		"a token for all":                {bearer(secretAll), []registry.HealthCheck{command}, nil, nil},
	} {
		if err := newGuard(t).Caller(c.by.make()).MayCheck(c.now, c.before); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
