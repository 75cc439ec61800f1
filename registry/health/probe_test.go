package health

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluice-net/sluice/registry"
)

// patience is what a check gets that is to end by an answer; brief for those that are to run out of time.
const (
	patience = 20_000
	brief    = 200
)

// ask makes one check of a server on this machine. Nobody's agent would: a loopback address is no instance's.
func ask(t *testing.T, at net.Addr, c registry.HealthCheck) (found string) {
	t.Helper()
	to := netip.MustParseAddrPort(at.String())
	if c.Timeout == 0 {
		c.Timeout = patience
	}
	w := &watched{Instance: &registry.Instance{Ports: []registry.EndpointPort{{Port: to.Port()}}}, addrs: []netip.Addr{to.Addr()}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(c.Timeout)*time.Millisecond)
	defer cancel()
	err := probe(ctx, &task{of: w, check: &c, subject: newSubject(w, &c)})
	if err == nil {
		return ""
	}
	return reason(&c, err)
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve answers each connection as f does.
func serve(t *testing.T, f func(net.Conn)) net.Addr {
	l := listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				f(conn)
			}()
		}
	}()
	return l.Addr()
}

func TestTCP(t *testing.T) {
	l := listen(t)
	want(t, "a listener", ask(t, l.Addr(), registry.HealthCheck{Type: registry.CheckTCP}), "")
	l.Close()
	want(t, "nobody", ask(t, l.Addr(), registry.HealthCheck{Type: registry.CheckTCP}), "tcp: connection refused")
	want(t, "no port", ask(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, registry.HealthCheck{Type: registry.CheckTCP}), "tcp: the instance has no port")
}

// TestEveryAddress: both addresses of an instance are backends, so both are asked.
func TestEveryAddress(t *testing.T) {
	l := listen(t)
	c := registry.HealthCheck{Type: registry.CheckTCP, Port: netip.MustParseAddrPort(l.Addr().String()).Port()}
	for other, well := range map[string]bool{"127.0.0.1": true, "127.0.0.2": false} {
		w := &watched{Instance: &registry.Instance{}, addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(other)}}
		if err := probe(t.Context(), &task{check: &c, subject: newSubject(w, &c)}); (err == nil) != well {
			t.Errorf("with %s: %v", other, err)
		}
	}
}

func TestHTTP(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.Header().Set("Location", other.URL)
		w.WriteHeader(code)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Host, r.URL.RequestURI(), r.UserAgent())
	})
	mux.HandleFunc("/long", func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte("a"), maxBody-1))
		io.WriteString(w, "bc")
	})
	mux.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			w = gzipped{w, z}
		}
		io.WriteString(w, "plain")
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	for _, tls := range []bool{false, true} {
		server := httptest.NewUnstartedServer(mux)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		if tls {
			server.StartTLS()
		} else {
			server.Start()
		}
		defer server.Close()
		for _, c := range []struct {
			path   string
			status []int
			host   string
			body   string
			want   string
		}{
			{path: "/status/200"},
			{path: "/status/204"},
			{path: "/status/404", want: "http: " + server.Listener.Addr().String() + ": status 404, want 200 to 299"},
			{path: "/status/302", want: "status 302, want 200 to 299"},
			{path: "/status/302", status: []int{301, 302}},
			{path: "/status/200", status: []int{301, 302}, want: "status 200, want one of [301 302]"},
			{path: "/echo?a=b", host: "www.example.com", body: `^www\.example\.com /echo\?a=b sluice-health$`},
			{path: "/echo", body: "^127.0.0.1:"},
			{path: "/echo", body: "nothing of that", want: "the body does not match"},
			{path: "/gzip", body: "^plain$"},
			{path: "/long", body: "ab$"},
			{path: "/long", body: "c", want: "the body does not match"},
			{path: "/endless"},
			{path: "/endless", body: "z", want: "the body does not match"},
			{path: "//" + other.Listener.Addr().String() + "/", want: "status 30"},
			{path: "/%zz", want: "path"},
			{path: "/", body: "(", want: "body: error parsing regexp"},
		} {
			got := ask(t, server.Listener.Addr(), registry.HealthCheck{
				Type: registry.CheckHTTP, TLS: tls, Path: c.path, Status: c.status, Host: c.host, Body: c.body,
			})
			want(t, fmt.Sprintf("%+v, tls %t", c, tls), got, c.want)
		}
		want(t, "the other of TLS and none", ask(t, server.Listener.Addr(), registry.HealthCheck{Type: registry.CheckHTTP, TLS: !tls}), "http: ")
	}
	if elsewhere.Load() != 0 {
		t.Error("a check went to another server than the instance")
	}
}

type gzipped struct {
	http.ResponseWriter
	io.Writer
}

func (g gzipped) Write(p []byte) (int, error) { return g.Writer.Write(p) }

// TestHostileServers: what answers badly, or without end, fails the check and costs little.
func TestHostileServers(t *testing.T) {
	for name, c := range map[string]struct {
		answer  func(net.Conn)
		timeout uint32
		want    string
	}{
		"silent":           {func(c net.Conn) { io.Copy(io.Discard, c) }, brief, "no answer within 200 ms"},
		"closes":           {func(c net.Conn) { c.Read(make([]byte, 1)) }, patience, ": "},
		"no HTTP":          {func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n\r\n"); io.Copy(io.Discard, c) }, patience, ": "},
		"endless header":   {func(c net.Conn) { forever(c, "HTTP/1.1 200 OK\r\n", "X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n") }, patience, ": "},
		"endless line":     {func(c net.Conn) { forever(c, "HTTP/1.1 200 OK\r\nX-A: ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa") }, patience, ": "},
		"endless preludes": {func(c net.Conn) { forever(c, "", "HTTP/1.1 103 Early Hints\r\nX-A: a\r\n\r\n") }, patience, ": "},
		"bad characters":   {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 \x1b[31m\xff\x00\r\n\r\n"); io.Copy(io.Discard, c) }, patience, ": "},
	} {
		at := serve(t, c.answer)
		for _, kind := range []registry.CheckType{registry.CheckHTTP, registry.CheckGRPC} {
			check := registry.HealthCheck{Type: kind, Timeout: c.timeout}
			if kind == registry.CheckGRPC {
				check.Timeout = brief // it takes what is no HTTP/2 for a server that is not there yet
			} else if c.timeout == patience {
				check.Body = "x"
			}
			got := ask(t, at, check)
			want(t, name, got, string(kind)+": ")
			if kind == registry.CheckHTTP {
				want(t, name, got, c.want)
			}
			if len(got) > maxReason+4 || strings.ContainsAny(got, "\x1b\x00\r\n") || !utf8.ValidString(got) {
				t.Errorf("%s: reason %q", name, got)
			}
		}
	}
}

func forever(c net.Conn, first, then string) {
	io.WriteString(c, first)
	for {
		if _, err := io.WriteString(c, then); err != nil {
			return
		}
	}
}

func TestGRPC(t *testing.T) {
	l := listen(t)
	server, health := grpc.NewServer(), grpchealth.NewServer()
	healthpb.RegisterHealthServer(server, health)
	health.SetServingStatus("shop", healthpb.HealthCheckResponse_NOT_SERVING)
	go server.Serve(l)
	defer server.Stop()
	check := func(service string) string {
		return ask(t, l.Addr(), registry.HealthCheck{Type: registry.CheckGRPC, Service: service})
	}
	want(t, "the server", check(""), "")
	want(t, "a service that does not serve", check("shop"), "status NOT_SERVING, want SERVING")
	want(t, "a service that is not known", check("x"), "NotFound: unknown service")
	health.SetServingStatus("shop", healthpb.HealthCheckResponse_SERVING)
	want(t, "a service that serves again", check("shop"), "")

	bare := listen(t)
	without := grpc.NewServer()
	go without.Serve(bare)
	defer without.Stop()
	want(t, "a server without the protocol", ask(t, bare.Addr(), registry.HealthCheck{Type: registry.CheckGRPC}), "Unimplemented")
	l = listen(t)
	l.Close()
	want(t, "nobody", ask(t, l.Addr(), registry.HealthCheck{Type: registry.CheckGRPC}), "connection refused")
}

func TestExec(t *testing.T) {
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	run := func(timeout uint32, command ...string) string {
		return ask(t, at, registry.HealthCheck{Type: registry.CheckExec, Command: command, Timeout: timeout})
	}
	want(t, "success", run(0, "true"), "")
	want(t, "failure", run(0, "false"), "exec: exit status 1")
	want(t, "no such command", run(0, "/nowhere"), "exec: no such file")
	want(t, "no shell between", run(0, "test", "$HOME", "=", "$HOME"), "")
	want(t, "environment", run(0, "sh", "-c", `test "$SLUICE_ADDRESSES $SLUICE_PORT" = "127.0.0.1 80" && test -z "$HOME"`), "")
	want(t, "much output", run(0, "sh", "-c", "yes | head -c 10000000; exit 3"), "exec: exit status 3: y y")
	want(t, "a child that holds the output", run(0, "sh", "-c", "sleep 60 >&1 & exit 0"), "")

	// One that hangs is ended with all that it has started.
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader := make(chan []byte, 1)
	go func() {
		data, _ := os.ReadFile(fifo) // ends when nobody has it open for writing
		reader <- data
	}()
	want(t, "a command that hangs", run(1000, "sh", "-c", "sleep 600 >"+fifo+" & echo on >"+fifo+"; wait"), "no answer within 1000 ms")
	if got := string(<-reader); got != "on\n" {
		t.Errorf("the command wrote %q", got)
	}
}

// FuzzReason: whatever an instance sends, the registry is told a short line.
func FuzzReason(f *testing.F) {
	f.Add("status 500")
	f.Add("\x1b[2J\xff\xfe" + strings.Repeat("é", 300))
	f.Fuzz(func(t *testing.T, text string) {
		got := reason(&registry.HealthCheck{Type: registry.CheckHTTP}, fmt.Errorf("%s", text))
		if len(got) > maxReason+len("…") || strings.ContainsAny(got, "\n\r\x1b\x00") || !strings.HasPrefix(got, "http: ") || !utf8.ValidString(got) {
			t.Errorf("%q makes %q", text, got)
		}
	})
}
