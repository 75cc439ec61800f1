package tests

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// denyDB closes what has the label app=db but for what role=admin sends.
const denyDB = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: admin}}}]
`

// shop is a node with the containers client, admin, open and db of namespace shop, of which denyDB closes
// the last, and service db in front of the last two.
type shop struct {
	*nstest.Node
	client, admin, open, db *nstest.Container
	vips                    []netip.Addr
}

func newShop(t *testing.T, settings nstest.Settings) *shop {
	t.Helper()
	s := &shop{Node: newNode(t, settings)}
	s.client = s.add(t, nstest.Spec{Name: "client"})
	s.admin = s.add(t, nstest.Spec{Name: "admin", Labels: map[string]string{"role": "admin"}})
	s.open = s.add(t, nstest.Spec{Name: "open", Labels: map[string]string{"tier": "db"}})
	s.db = s.add(t, nstest.Spec{Name: "db", Labels: map[string]string{"tier": "db", "app": "db"}})
	service := strings.NewReplacer("metadata: {name: db}", "metadata: {name: db, namespace: shop}",
		"selector: {app: db}", "selector: {tier: db}").Replace(web("db", "db"))
	s.sluice(t, service+"---"+denyDB, "apply", "-f", "-")
	svc, err := s.API().Service(t.Context(), registry.Name{Namespace: "shop", Name: "db"})
	if err != nil {
		t.Fatal(err)
	}
	s.vips = svc.VIPs
	return s
}

// add adds a container of namespace shop.
func (s *shop) add(t *testing.T, spec nstest.Spec) *nstest.Container {
	t.Helper()
	spec.Namespace, spec.Pod = "shop", spec.Name
	c, err := s.AddContainer(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *shop) sluice(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := s.Sluice(t.Context(), stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// calls makes a call again and again until the test ends.
func (s *shop) calls(t *testing.T, network string, to netip.Addr, port uint16) (stop func()) {
	t.Helper()
	c, err := s.client.Caller(nstest.Call{Net: network, To: netip.AddrPortFrom(to, port), Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := c.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// listener is a stream of events.
type listener struct {
	t    *testing.T
	next func() (registry.Event, error, bool)
	stop func()
}

func (s *shop) listen(t *testing.T, q api.EventQuery) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	next, stop := iter.Pull2(s.API().Events(ctx, q))
	l := &listener{t, next, func() { stop(); cancel() }}
	t.Cleanup(l.stop)
	return l
}

func (l *listener) event() registry.Event {
	l.t.Helper()
	e, err, more := l.next()
	if err != nil || !more {
		l.t.Fatalf("the stream of events ended: %v", err)
	}
	return e
}

// TestDropIsTold: what a policy drops is shown with names, whatever way it was sent.
func TestDropIsTold(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		s := newShop(t, settings)
		for _, network := range []string{"tcp", "udp"} {
			for i, to := range []netip.Addr{s.db.V4, s.db.V6} {
				proto := network + []string{"", "6"}[i]
				stop := s.calls(t, network, to, nstest.Port)
				out := s.sluice(t, "", "monitor", "--type", "drop", "-n", "shop", "--proto", network, "--count", "3")
				stop()
				for line := range strings.Lines(out) {
					words := strings.Fields(line)
					words[4], _, _ = strings.Cut(words[4], ":")
					if got, want := strings.Join(words[1:], " "), fmt.Sprintf("drop ingress %s shop/client -> shop/db:%d NetworkPolicy shop/db", proto, nstest.Port); got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
				if n := strings.Count(out, "\n"); n != 3 {
					t.Errorf("%d lines of 3:\n%s", n, out)
				}
			}
			for i, vip := range s.vips {
				stop := s.calls(t, network, vip, 80)
				e := s.listen(t, api.EventQuery{To: []string{s.db.V4.String(), s.db.V6.String()}[i], Policy: "shop/db", Limit: 1}).event()
				stop()
				if e.Service == nil || e.Service.String() != "shop/db" || e.Destination.Port != nstest.Port ||
					e.Source.Workload == nil || e.Source.Container != s.client.ID || time.Since(e.Time).Abs() > time.Minute {
					t.Errorf("by VIP %s: %+v", vip, e)
				}
			}
		}
		data := string(scrape(t, s.Node))
		for _, want := range []string{
			`sluice_policy_flows_total{direction="ingress",kind="NetworkPolicy",policy="shop/db",verdict="denied"} `,
			`sluice_drops_total{reason="ingress"} `, "\nsluice_events_lost_total ",
		} {
			if !strings.Contains(data, want) {
				t.Errorf("no metric %s", want)
			}
		}
	})
}

// flat writes a trace as VERDICT, and for each target NAME VERDICT REASON POLICY/RULE..., without what both
// families have alike.
func flat(t *testing.T, trace registry.Trace) string {
	t.Helper()
	var texts []string
	for _, f := range trace.Flows {
		text := string(trace.Verdict)
		for _, target := range f.Targets {
			text += fmt.Sprintf("; %s %s %s", target.String(), target.Verdict, target.Reason)
			for _, side := range target.Sides {
				if side.Disagreement != "" {
					t.Errorf("%s of %s: %s", side.Direction, side.Subject, side.Disagreement)
				}
				for _, r := range side.Reasons {
					text += fmt.Sprintf(" %s/%d", r.Policy, r.Rule)
				}
			}
		}
		texts = append(texts, text)
	}
	if len(texts) != 2 || texts[0] != texts[1] {
		t.Errorf("%s to %s: want the same of both families: %q", trace.From, trace.To, texts)
	}
	return texts[0]
}

// TestWhyIsKnown: why says what calls will meet, and by whom, and its exit status says it, too.
func TestWhyIsKnown(t *testing.T) {
	s := newShop(t, nstest.Settings{})
	s.add(t, nstest.Spec{Name: "far", Network: "other"})
	ask := func(from, to, want string) {
		t.Helper()
		trace, err := s.API().Why(t.Context(), api.WhyQuery{From: from, To: to, Port: 80, Protocol: "TCP"})
		if err != nil {
			t.Fatal(err)
		}
		if got := flat(t, trace); got != want {
			t.Errorf("%s to %s: got %q, want %q", from, to, got, want)
		}
	}
	ask("shop/client", "container/shop/db", "denied; shop/db denied ingress NetworkPolicy shop/db/-1")
	ask("shop/admin", "container/shop/db", "allowed; shop/db allowed  NetworkPolicy shop/db/0 NetworkPolicy shop/db/-1")
	ask("shop/client", "shop/open", "allowed; shop/open allowed ")
	ask("world", "container/shop/db", "denied; shop/db denied ingress NetworkPolicy shop/db/-1")
	ask("node", "container/shop/db", "allowed; shop/db allowed node and containers always reach each other")
	ask("shop/db", "world", "allowed; world allowed ")
	ask("container/shop/db", "shop/far", "denied; shop/far denied network")
	trace, err := s.API().Why(t.Context(), api.WhyQuery{From: "shop/client", To: "service/shop/db", Port: 80, Protocol: "UDP"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range trace.Flows {
		if len(f.Targets) != 2 || f.Service == nil || f.Service.String() != "shop/db" || f.Verdict != registry.VerdictMixed {
			t.Errorf("service: %+v", f)
		}
		for _, target := range f.Targets {
			if target.Verdict.Passes() != (target.String() == "shop/open") || target.Port != nstest.Port {
				t.Errorf("backend %s: %+v", target.Endpoint(), target)
			}
		}
	}
	out, err := s.Sluice(t.Context(), "", "why", "shop/client", "container/shop/db:80", "--steps")
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.HasPrefix(string(out), "denied: shop/client to container/shop/db:80/tcp\n") ||
		!strings.Contains(string(out), "NetworkPolicy shop/db") || !strings.Contains(string(out), "subjects[") {
		t.Errorf("%v\n%s", err, out)
	}
	s.sluice(t, denyDB, "delete", "-f", "-")
	ask("shop/client", "container/shop/db", "allowed; shop/db allowed ")
	if out := s.sluice(t, "", "why", "shop/client", "container/shop/db:80/sctp"); !strings.HasPrefix(out, "allowed: ") {
		t.Errorf("after the policy is gone: %s", out)
	}
}

// TestWatch: who watches a container is told of each of its new flows, and nobody is after that.
func TestWatch(t *testing.T) {
	s := newShop(t, nstest.Settings{})
	call := func(to *nstest.Container, port uint16) {
		t.Helper()
		_, err := s.client.Call(t.Context(), nstest.Call{Net: "tcp", To: netip.AddrPortFrom(to.V6, port), Count: 1, Timeout: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop := s.calls(t, "udp", s.open.V4, nstest.Port)
	watch := s.listen(t, api.EventQuery{Watch: []string{"shop/client"}, Types: []string{"verdict"}})
	e := watch.event()
	stop()
	if e.Source.String() != "shop/client" || e.Destination.String() != "shop/open" || e.Reason != "" || e.Protocol != "UDP" {
		t.Errorf("verdict %+v", e)
	}
	watch.stop()
	all := s.listen(t, api.EventQuery{Container: "shop/client", Protocol: "TCP"})
	stop = s.calls(t, "tcp", s.db.V6, nstest.Port)
	all.event() // it listens
	stop()
	port := uint16(100)
	err := nstest.Await(t.Context(), "the end of the watch", func() (bool, error) {
		port++
		call(s.open, nstest.Port)
		call(s.db, port)
		for over := true; ; {
			switch e := all.event(); {
			case e.Type == registry.EventVerdict:
				over = false
			case e.Destination.Port == port:
				return over, nil
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFloodIsBounded: more drops than may be reported are counted, and told to who listens.
func TestFloodIsBounded(t *testing.T) {
	s := newShop(t, nstest.Settings{})
	f, err := s.client.Flood(0, netip.AddrPortFrom(s.db.V4, 9), netip.AddrPortFrom(s.db.V6, 9))
	if err != nil {
		t.Fatal(err)
	}
	l := s.listen(t, api.EventQuery{Reasons: []string{"ingress"}})
	drops := 0
	for {
		e := l.event()
		if e.Type == registry.EventLost && e.Lost > 0 && drops > 0 {
			break
		}
		if e.Type == registry.EventDrop {
			drops++
		}
	}
	if _, err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	s.sluice(t, "", "status")
}
