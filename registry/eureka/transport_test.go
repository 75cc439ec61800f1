package eureka

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// secure is an https server, and the file of the CA that its certificate comes from, which is itself.
func secure(t *testing.T) (url, ca string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return s.URL, ca
}

// get asks through a transport.
func get(ctx context.Context, t *http.Transport, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	p := &peer{client: &http.Client{Transport: t}}
	answer, err := p.do(r)
	if err == nil {
		answer.Body.Close()
	}
	return err
}

// TestPeerCA: an https peer is told of changes if its certificate comes from the CA that is named, and without one
// from a CA of the system.
func TestPeerCA(t *testing.T) {
	url, ca := secure(t)
	for file, want := range map[string]string{"": "certificate signed by unknown authority: name the CA that it comes from in eureka.peerCA", ca: ""} {
		transport, err := NewTransport(file)
		if err != nil {
			t.Fatal(err)
		}
		defer transport.CloseIdleConnections()
		if err := get(t.Context(), transport, url); (err == nil) != (want == "") || err != nil && !strings.HasSuffix(err.Error(), want) {
			t.Errorf("with the CA %q: %v, want %q", file, err, want)
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	if _, err := NewTransport(none); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(none, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewTransport(none); err == nil || err.Error() != "read CA of peers "+none+": holds no PEM certificate" {
		t.Errorf("a file of something else: %v", err)
	}
}

// silenced is a connection that says nothing any more from some moment on, and tells what it should have said.
type silenced struct {
	net.Conn
	now  *atomic.Bool
	said chan<- struct{}
}

func (c *silenced) Write(b []byte) (int, error) {
	if !c.now.Load() {
		return c.Conn.Write(b)
	}
	select {
	case c.said <- struct{}{}:
	default:
	}
	return len(b), nil
}

// TestDeadConnection: what is not answered in time is not asked again by the same connection.
func TestDeadConnection(t *testing.T) {
	url, ca := secure(t)
	transport, err := NewTransport(ca)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	var dead *atomic.Bool // of the connection that was made last
	said := make(chan struct{}, 1)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		dead = new(atomic.Bool)
		return &silenced{c, dead, said}, err
	}
	if err := get(t.Context(), transport, url); err != nil {
		t.Fatal(err)
	}
	dead.Store(true)
	ctx, late := context.WithCancel(t.Context())
	go func() {
		<-said
		late()
	}()
	if err := get(ctx, transport, url); !errors.Is(err, context.Canceled) {
		t.Fatalf("by a dead connection: %v", err)
	}
	if first := dead; get(t.Context(), transport, url) != nil || dead == first {
		t.Error("no other connection was made")
	}
}
