package tests

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// smallCluster has x/a, which also answers on nstest.Port as the service "lasting" of x, and y/b, y/c
// and z/a.
func smallCluster(t *testing.T, settings nstest.Settings) *cluster {
	t.Helper()
	settings.MapScale = 0.2
	server := podMember("x/a", 11, nil, nil)
	server.spec.Empty = false
	c := newCluster(t, settings, tableNamespaces, server,
		podMember("y/b", 22, nil, nil), podMember("y/c", 23, nil, nil), podMember("z/a", 31, nil, nil))
	c.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: lasting, namespace: x}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {id: a}
  ports:
  - {name: tcp, protocol: TCP, port: 80, targetPort: %d}
  - {name: udp, protocol: UDP, port: 80, targetPort: %[1]d}
`, nstest.Port))
	return c
}

// lastingCalls are calls to x/a that each stay on one connection, by its addresses and by its VIPs.
func (c *cluster) lastingCalls(t *testing.T) []nstest.Call {
	t.Helper()
	svc, err := c.node.API().Service(t.Context(), registry.Name{Namespace: "x", Name: "lasting"})
	if err != nil {
		t.Fatal(err)
	}
	a := c.member(t, "x/a")
	var calls []nstest.Call
	for _, to := range []netip.AddrPort{
		netip.AddrPortFrom(a.v4, nstest.Port), netip.AddrPortFrom(a.v6, nstest.Port),
		netip.AddrPortFrom(svc.VIPs[0], 80), netip.AddrPortFrom(svc.VIPs[1], 80),
	} {
		calls = append(calls, nstest.Call{Net: "tcp", To: to, Keep: true, Timeout: time.Minute})
	}
	return calls
}

// np is a NetworkPolicy of namespace x about its pod a.
func np(name, spec string) string {
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
%s`, name, spec)
}

// TestPolicyEstablished: a policy stalls connections that are established by the time apply returns,
// whichever side it closes, and when it is deleted the same connections go on.
func TestPolicyEstablished(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		c := smallCluster(t, settings)
		l := startLoad(t, c.member(t, "y/b").container, c.lastingCalls(t))
		closing := []struct{ name, document string }{
			{"ingress of the server", np("deny", "  policyTypes: [Ingress]\n")},
			{"egress of the client", strings.ReplaceAll(strings.ReplaceAll(
				np("deny", "  policyTypes: [Egress]\n"), "namespace: x", "namespace: y"), "pod: a", "pod: b")},
			{"both, by the tier above", `
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: deny}
spec:
  priority: 3
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}]
  egress: [{action: Deny, to: [{namespaces: {namespaceSelector: {}}}]}]
`},
		}
		for range 3 {
			for _, closes := range closing {
				l.more(t, 20)
				if _, err := c.node.API().Apply(t.Context(), []byte(closes.document)); err != nil {
					t.Fatal(err)
				}
				l.stalled(t, closes.name, time.Now())
				c.delete(t, closes.document)
			}
		}
		l.more(t, 20)
		for i, r := range l.stop(t) {
			if r.Failed > 0 {
				t.Errorf("%s to %s: the connection did not go on: %v", title(l.calls[i]), l.calls[i].To, r.Failures[0])
			}
		}
	})
}

// stalled wants that none of the calls that began after a moment was answered.
func (l *load) stalled(t *testing.T, why string, since time.Time) {
	t.Helper()
	// One call of each may have been under way. A wrong answer would come within microseconds.
	time.Sleep(settle)
	for i, c := range l.callers {
		r, err := c.Report()
		if err != nil {
			t.Fatal(err)
		}
		for name, last := range r.Last {
			if last.After(since) {
				t.Errorf("closed by %s: %s to %s: %s answered a call that began %s later",
					why, title(l.calls[i]), l.calls[i].To, name, last.Sub(since))
			}
		}
	}
}

// watch makes members count what arrives from now on.
func (c *cluster) watch(t *testing.T, members ...*member) {
	t.Helper()
	for _, m := range members {
		if _, err := m.mesh.Do(report.Order{Reset: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// arrivals counts the datagrams to port 80 that have come from one member to another.
func arrivals(t *testing.T, from, to *member) int {
	t.Helper()
	o, err := to.mesh.Do(report.Order{Finish: true})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, v6 := range []bool{false, true} {
		n += o.Arrived[cell{src: from, dst: to, net: "udp", port: 80, v6: v6}.arrival()]
	}
	return n
}

// flood starts datagrams from a container to port 80 of a member, by both families.
func flood(t *testing.T, from *nstest.Container, to *member, gap time.Duration) *nstest.Flood {
	t.Helper()
	f, err := from.Flood(gap, netip.AddrPortFrom(to.v4, 80), netip.AddrPortFrom(to.v6, 80))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// sent waits until a flood has sent that many more, and returns how many in all.
func sent(t *testing.T, f *nstest.Flood, more int) int {
	t.Helper()
	want := -1
	var r report.Flood
	err := nstest.Await(t.Context(), "datagrams", func() (ok bool, err error) {
		if r, err = f.Report(); want < 0 {
			want = r.Sent + more
		}
		return r.Sent >= want, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.Sent
}

// stopFlood ends a flood, waits until what it sent must have arrived, and returns how much that is.
func stopFlood(t *testing.T, f *nstest.Flood) int {
	t.Helper()
	r, err := f.Stop()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(settle)
	return r.Sent
}

// TestPolicyFirstPacket: a container that sends from its very start, and one that is sent to from its
// very start, meet a policy that was there before them with their first packet.
func TestPolicyFirstPacket(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		c := smallCluster(t, settings)
		deny := `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: new, namespace: x}
spec:
  podSelector: {matchLabels: {pod: new}}
  policyTypes: [Ingress, Egress]
`
		for i := range 10 {
			denied := i%5 != 4 // now and then without the policy: the test must see something then
			if denied {
				c.apply(t, deny)
			}
			out, in := c.newcomer(t, byte(100+i))
			switch {
			case denied && out+in > 0:
				t.Errorf("container %d: %d datagrams from it and %d to it passed its policy", i, out, in)
			case !denied && (out == 0 || in == 0):
				t.Errorf("container %d: without a policy %d datagrams from it and %d to it have arrived", i, out, in)
			}
			if denied {
				c.delete(t, deny)
			}
		}
	})
}

// newcomer adds a container x/new that floods x/a before it is wired, and that y/b floods meanwhile. It
// returns how many datagrams from it and to it have arrived.
func (c *cluster) newcomer(t *testing.T, last byte) (out, in int) {
	t.Helper()
	m := podMember("x/new", last, nil, nil)
	m.spec.Name = fmt.Sprintf("new-%d", last)
	var err error
	if m.container, err = c.node.NewContainer(m.spec); err != nil {
		t.Fatal(err)
	}
	spec := nstest.Member{Name: m.name, Ports: []int{80}, Sniff: "any"}
	if m.mesh, err = m.container.Mesh(spec); err != nil {
		t.Fatal(err)
	}
	a, b := c.member(t, "x/a"), c.member(t, "y/b")
	c.watch(t, a, m)
	from, to := flood(t, m.container, a, time.Millisecond), flood(t, b.container, m, time.Millisecond)
	if err := m.container.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent(t, from, 100)
	sent(t, to, 100)
	stopFlood(t, from)
	stopFlood(t, to)
	out, in = arrivals(t, m, a), arrivals(t, b, m)
	if err := m.container.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out, in
}
