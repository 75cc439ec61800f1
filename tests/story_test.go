package tests

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
)

// paths runs a test once with each way of translating.
func paths(t *testing.T, test func(t *testing.T, settings nstest.Settings)) {
	t.Run("socket", func(t *testing.T) { test(t, nstest.Settings{}) })
	t.Run("tc", func(t *testing.T) { test(t, nstest.Settings{NoSocketTranslation: true}) })
}

// TestCallsSpread: a client reaches every backend through the VIP, with every kind of socket, and
// knows its peer by the VIP (which the probe asserts).
func TestCallsSpread(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		n := newNode(t, settings)
		client := addContainer(t, n, "client", nil)
		names := []string{"web-1", "web-2", "web-3"}
		for _, name := range names {
			addContainer(t, n, name, map[string]string{"app": "web"})
		}
		all := apply(t, n, "web", web("web", "web"))
		programs, err := filepath.Glob(n.BPFFS + "/links/connect*")
		more, _ := filepath.Glob(n.BPFFS + "/links/sock_*")
		if programs = append(programs, more...); err != nil || len(programs) > 0 == settings.NoSocketTranslation {
			t.Errorf("socket programs: %v, %v", programs, err)
		}
		calls := kinds(all)
		for _, call := range kinds(all[:1]) {
			call.To = netip.AddrPortFrom(netip.AddrFrom16(call.To.Addr().As16()), call.To.Port())
			calls = append(calls, call)
		}
		for _, call := range calls {
			t.Run(title(call), func(t *testing.T) {
				call.Count = 300
				r, err := client.Call(t.Context(), call)
				if err != nil {
					t.Fatal(err)
				}
				if r.Failed > 0 {
					t.Fatalf("%d of %d failed: %s", r.Failed, r.Calls, r.Failures[0].Error)
				}
				// 100 each on average; fewer than 50 or more than 150 has a probability of 1e-9.
				for _, name := range names {
					if got := r.Answers[name]; got < 50 || got > 150 {
						t.Errorf("answers %v: not spread evenly", r.Answers)
					}
				}
				// One connection, and one connected UDP socket, stays with its backend.
				call.Keep, call.Count = true, 50
				if r, err = client.Call(t.Context(), call); err != nil {
					t.Fatal(err)
				}
				if r.Failed > 0 || len(r.Answers) != 1 {
					t.Errorf("on one socket: %d failed, answers %v: %v", r.Failed, r.Answers, r.Failures)
				}
			})
		}
	})
}

// TestBackendCallsItself: a backend that calls its own service may be sent to itself.
func TestBackendCallsItself(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		n := newNode(t, settings)
		only := addContainer(t, n, "only", map[string]string{"app": "web"})
		for _, call := range kinds(apply(t, n, "web", web("web", "web"))) {
			call.Count = 20
			r, err := only.Call(t.Context(), call)
			if err != nil {
				t.Fatal(err)
			}
			if r.Answers["only"] != call.Count {
				t.Errorf("%s: answers %v, %d failed: %v", title(call), r.Answers, r.Failed, r.Failures)
			}
		}
	})
}

// TestHostCalls: the node's own processes are served by the socket hooks, and reach containers
// directly.
func TestHostCalls(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	c := addContainer(t, n, "web-1", map[string]string{"app": "web"})
	calls := kinds(apply(t, n, "web", web("web", "web")))
	for _, addr := range []netip.Addr{c.V4, c.V6} {
		for _, network := range []string{"tcp", "udp"} {
			calls = append(calls, nstest.Call{Net: network, To: netip.AddrPortFrom(addr, nstest.Port)})
		}
	}
	for _, call := range calls {
		call.Count = 20
		r, err := n.Call(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		if r.Answers["web-1"] != call.Count {
			t.Errorf("%s to %s: answers %v, %d failed: %v", title(call), call.To, r.Answers, r.Failed, r.Failures)
		}
	}
}

// TestNoBackend: a VIP without backends, and a port that no service has, refuse at once.
func TestNoBackend(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		n := newNode(t, settings)
		client := addContainer(t, n, "client", nil)
		for _, call := range kinds(apply(t, n, "none", web("none", "none"))) {
			if call.Net == "udp" && !call.Connect && settings.NoSocketTranslation {
				continue // the kernel reports ICMP errors to connected sockets only
			}
			call.Count, call.Timeout = 5, 20*time.Second
			r, err := client.Call(t.Context(), call)
			if err != nil {
				t.Fatal(err)
			}
			if r.Failed != call.Count {
				t.Errorf("%s: answers %v", title(call), r.Answers)
			}
			for _, f := range r.Failures {
				if !strings.Contains(f.Error, "connection refused") || f.End.Sub(f.Start) >= call.Timeout {
					t.Errorf("%s: %s after %s", title(call), f.Error, f.End.Sub(f.Start))
				}
			}
		}
	})
}

// TestBackendRemoved: after DEL has returned, no call fails and none is answered by what has gone.
func TestBackendRemoved(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		n := newNode(t, settings)
		client := addContainer(t, n, "client", nil)
		addContainer(t, n, "web-1", map[string]string{"app": "web"})
		gone := addContainer(t, n, "web-2", map[string]string{"app": "web"})
		l := startLoad(t, client, kinds(apply(t, n, "web", web("web", "web"))))
		l.more(t, 100)
		if err := gone.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := time.Now()
		l.more(t, 100)
		for i, r := range l.stop(t) {
			if bad := r.FailedSince(after); len(bad) > 0 {
				t.Errorf("%s: %d calls failed after DEL: %v", title(l.calls[i]), len(bad), bad[0])
			}
			if last := r.Last["web-2"]; last.IsZero() || last.After(after) {
				t.Errorf("%s: web-2 answered last %s after DEL", title(l.calls[i]), last.Sub(after))
			}
		}
	})
}

// TestLabel: a label set at run time makes a container a backend, and removing it ends that.
func TestLabel(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	client := addContainer(t, n, "client", nil)
	addContainer(t, n, "web-1", map[string]string{"app": "web"})
	other := addContainer(t, n, "other", nil)
	call := kinds(apply(t, n, "web", web("web", "web")))[0]
	call.Count = 100
	for _, step := range []struct {
		label string
		want  bool
	}{{"app=web", true}, {"app-", false}} {
		if _, err := n.Sluice(t.Context(), "", "label", other.ID, step.label); err != nil {
			t.Fatal(err)
		}
		r, err := client.Call(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		if r.Failed > 0 || r.Answers["other"] > 0 != step.want {
			t.Errorf("label %s: answers %v, %d failed", step.label, r.Answers, r.Failed)
		}
	}
}

// TestSideBySide: two agents with the same names and ranges do not know of each other.
func TestSideBySide(t *testing.T) {
	nodes := []*nstest.Node{newNode(t, nstest.Settings{}), newNode(t, nstest.Settings{})}
	var clients []*nstest.Container
	var calls []nstest.Call
	for i, name := range []string{"left", "right"} {
		clients = append(clients, addContainer(t, nodes[i], "client", nil))
		addContainer(t, nodes[i], name, map[string]string{"app": "web"})
		vips := apply(t, nodes[i], "web", web("web", "web"))
		calls = append(calls, nstest.Call{Net: "tcp", To: netip.AddrPortFrom(vips[0], 80), Count: 50})
	}
	if err := nodes[0].KillAgent(); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"left", "right"} {
		r, err := clients[i].Call(t.Context(), calls[i])
		if err != nil {
			t.Fatal(err)
		}
		if r.Answers[name] != 50 {
			t.Errorf("answers on the %s node: %v, %d failed", name, r.Answers, r.Failed)
		}
	}
	if err := nodes[0].StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
}
