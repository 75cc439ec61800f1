package main

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// TestRegister: an instance goes through its life by the command line, and its service is made for it.
func TestRegister(t *testing.T) {
	a := newAgent(t)
	a.expect(t, 0, "instance shop/web/192.0.2.7:8080   registered   UP\n", "", "",
		"register", "web", "-n", "shop", "--address", "192.0.2.7", "--port", "http=8080", "--port", "9000/udp",
		"--metadata", "tier=front", "--weight", "3", "--lease", "90s", "--app-version", "v1", "--check", "http:///healthz", "--interval", "1h")
	a.expect(t, 0, "SERVICE   ID               STATUS   HEALTH    ADDRESSES   PORTS                              NODE   WEIGHT   ZONE   VERSION   LEASE   METADATA\n"+
		"web       192.0.2.7:8080   UP       passing   192.0.2.7   http=8080/TCP,port-9000=9000/UDP   -      3        -      v1        90s     tier=front\n",
		"", "", "get", "instances", "-n", "shop", "-o", "wide")
	_, out, _ := a.sluice(t, "", "get", "services", "web", "-n", "shop")
	if !strings.Contains(out, "8080->http/TCP,9000->port-9000/UDP   1 ") {
		t.Errorf("its service:\n%s", out)
	}
	const name = "shop/web/192.0.2.7:8080"
	a.expect(t, 0, "instance shop/web/192.0.2.7:8080   updated   DRAINING\n", "", "", "drain", name)
	a.expect(t, 0, "NAMESPACE   SERVICE   ID               STATUS               HEALTH    ADDRESSES   PORTS                              NODE\n"+
		"shop        web       192.0.2.7:8080   DRAINING (says UP)   passing   192.0.2.7   http=8080/TCP,port-9000=9000/UDP   -\n",
		"", "", "get", "instances", "-A")
	a.expect(t, 0, "instance shop/web/192.0.2.7:8080   updated   OUT_OF_SERVICE\n", "", "", "unready", name)
	a.expect(t, 0, "instance shop/web/192.0.2.7:8080   updated   UP\n", "", "", "ready", name)
	for line, want := range map[string]string{
		"get instances -n shop ":            "web",
		"drain shop/":                       name,
		"deregister ":                       name,
		"register web --status ":            "STARTING UP DRAINING OUT_OF_SERVICE DOWN UNKNOWN",
		"register -n shop ":                 "--address web",
		"deregister shop/web/192.0.2.7:8 x": "",
	} {
		a.complete(t, line, want)
	}
	a.expect(t, 0, "instance shop/web/192.0.2.7:8080   deregistered\n", "", "", "deregister", name)
	a.expect(t, 1, "", "sluice: instance shop/web/192.0.2.7:8080: not found\n", "", "deregister", name)
	a.expect(t, 1, "", "sluice: update shop/web/192.0.2.7:8080: not found\n", "", "drain", name)
	a.expect(t, 1, "", "sluice: instance shop/web: not found (-A looks in all namespaces)\n", "", "get", "instances", "web", "-n", "shop")
	_, out, _ = a.sluice(t, "", "get", "services", "web", "-n", "shop")
	if !strings.Contains(out, "http/TCP,9000->port-9000/UDP   0 ") {
		t.Errorf("its service afterwards:\n%s", out)
	}
}

func TestRegisterRefused(t *testing.T) {
	a := newAgent(t)
	code, out, errs := a.sluice(t, "", "register", "Web", "--address", "192.0.2.7", "--port", "80")
	if code != 1 || out != "" || !strings.Contains(errs, `service: "Web": want a DNS label`) {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}
	for _, line := range []string{
		"register", "register web", "register web --address x", "register web --address 192.0.2.7 --port x", "register web --address 192.0.2.7 --port 80/icmp",
		"register web --address 192.0.2.7 --lease 1500ms", "register web --address 192.0.2.7 --lease -1s", "register web --address 192.0.2.7 --keep",
		"register web --address 192.0.2.7 --check ftp://x", "register web --address 192.0.2.7 --check tcp:x", "register web --address 192.0.2.7 --check http://x:99999/",
		"register web --address 192.0.2.7 --metadata x", "register web --address 192.0.2.7 --interval 1ns", "deregister", "deregister web/x", "deregister a/b/c/d",
	} {
		code, out, errs := a.sluice(t, "", strings.Fields(line)...)
		if code != 2 || out != "" || !strings.Contains(errs, "--help") {
			t.Errorf("sluice %s: exit %d, stdout %q, stderr %q", line, code, out, errs)
		}
	}
}

// TestKeep: heartbeats go on until the command is ended, an instance that was let go comes back, and at the end it is gone.
func TestKeep(t *testing.T) {
	a := newAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var out, errs strings.Builder
	go func() {
		done <- run(ctx, []string{"register", "web", "--id", "one", "--address", "192.0.2.7", "--port", "80", "--lease", "1s", "--keep"},
			environment{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return a.socket }})
	}()
	id := registry.InstanceID{Namespace: "default", Service: "web", ID: "one"}
	a.await(t, "registered", func() bool { i, ok := a.catalog.Instance(id); return ok && !i.Lapsed })
	if _, err := a.store.Deregister(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	a.await(t, "let go", func() bool { _, ok := a.catalog.Instance(id); return !ok })
	a.await(t, "registered again", func() bool { i, ok := a.catalog.Instance(id); return ok && !i.Lapsed })
	cancel()
	if code := <-done; code != 0 || errs.Len() > 0 {
		t.Errorf("exit %d, %s", code, errs.String())
	}
	if _, ok := a.catalog.Instance(id); ok || !strings.HasSuffix(out.String(), "deregistered\n") {
		t.Errorf("it is still there: %s", out.String())
	}
}

// await waits for what the registry is to come to.
func (a *fakeAgent) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		a.mu.Lock()
		changed := a.changed
		a.mu.Unlock()
		if is() {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("never %s", what)
		}
	}
}

func TestParseCheck(t *testing.T) {
	for text, want := range map[string]registry.HealthCheck{
		"tcp":                         {Type: registry.CheckTCP, Interval: 500},
		"tcp:81":                      {Type: registry.CheckTCP, Port: 81, Interval: 500},
		"grpc:":                       {Type: registry.CheckGRPC, Interval: 500},
		"grpc:my.Service":             {Type: registry.CheckGRPC, Service: "my.Service", Interval: 500},
		"http:///h?x=1":               {Type: registry.CheckHTTP, Path: "/h?x=1", Interval: 500},
		"https://web.example:8443/h":  {Type: registry.CheckHTTP, TLS: true, Host: "web.example", Port: 8443, Path: "/h", Interval: 500},
		"http://[2001:db8::1]:8080/h": {Type: registry.CheckHTTP, Host: "2001:db8::1", Port: 8080, Path: "/h", Interval: 500},
		"http://:8080":                {Type: registry.CheckHTTP, Port: 8080, Path: "/", Interval: 500},
	} {
		got, err := parseCheck(text, 500*time.Millisecond)
		i := registry.Instance{
			InstanceID: registry.InstanceID{Namespace: "a", Service: "b", ID: "c"}, Status: registry.InstanceUp,
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Ports: []registry.EndpointPort{{Port: 80, Protocol: registry.TCP}},
			Checks: []registry.HealthCheck{got},
		}
		if err != nil || got.Type != want.Type || got.TLS != want.TLS || got.Host != want.Host || got.Port != want.Port ||
			got.Path != want.Path || got.Service != want.Service || got.Interval != want.Interval {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if err := i.Validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
