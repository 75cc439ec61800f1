package loader

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// explainedNames are fakeNames that know identities 10 and 11, and a compiler that gives reasons.
type explainedNames struct {
	fakeNames
	reasons map[registry.Direction][]policy.Reason
}

func (n explainedNames) IdentityName(number uint32) (policy.Identity, bool) {
	if number == 10 || number == 11 {
		return policy.Identity{ID: policy.ID(number), Workload: &policy.Workload{Namespace: "shop", Labels: map[string]string{"n": fmt.Sprint(number)}}}, true
	}
	return n.fakeNames.IdentityName(number)
}

func (n explainedNames) Explain(_ uint32, d registry.Direction, _ uint32, _ uint8, _ uint16) []policy.Reason {
	return n.reasons[d]
}

// traceText writes a trace as lines.
func traceText(f *registry.TraceFlow) string {
	var b strings.Builder
	steps := func(all []registry.TraceStep) {
		for _, s := range all {
			fmt.Fprintf(&b, "  %s[%s] = %s\n", s.Map, s.Key, s.Value)
		}
	}
	fmt.Fprintf(&b, "%s > %s: %s %s service %v\n", f.Source.Endpoint(), f.Destination.Endpoint(), f.Verdict, f.Reason, f.Service)
	steps(f.Steps)
	for _, t := range f.Targets {
		fmt.Fprintf(&b, "at %s: %s %s\n", t.Endpoint(), t.Verdict, t.Reason)
		steps(t.Steps)
		for _, s := range t.Sides {
			fmt.Fprintf(&b, "%s of %s for %s: %s, policy %v, %d reasons %s\n", s.Direction, s.Subject, s.Peer, s.Verdict, s.Policy, len(s.Reasons), s.Disagreement)
			steps(s.Steps)
		}
	}
	return b.String()
}

// TestWhySteps: each look-up is told with map, key and value, and every number by its name.
func TestWhySteps(t *testing.T) {
	f := families()[0]
	r := newRig(t, f, rigOptions{})
	r.reset()
	for i, name := range []string{"A", "B"} {
		r.put(podMapEndpoints, toAddress(f.addr(name)), endpoint{
			Ifindex: r.ifindex[name], Id: uint32(i + 1), Mac: mac(name), Identity: uint32(i + 10), Network: 1,
		})
	}
	r.put(podMapSubjects, uint32(11), subject{Ingress: 2})
	r.put(podMapPolicy, policyKey{Subject: 11, Peer: 10}, policyEntry{Ruleset: 3})
	r.put(podMapRulesets, uint32(3), rulesetEntry{Tcp: 5, Udp: leaf | 1, Sctp: leaf | 1, Other: leaf | 1})
	var high, low portNode
	high.Refs[7000>>8], low.Refs[7000&255] = 6, leaf|4
	r.put(podMapPortNodes, uint32(5), high)
	r.put(podMapPortNodes, uint32(6), low)
	r.put(podMapOutcomes, uint32(4), outcome{Policy: 3})
	r.backend(4, "B:7000", protoTCP, 4)
	r.service("V:80", protoTCP, 4, 4)
	names := explainedNames{reasons: map[registry.Direction][]policy.Reason{
		registry.Ingress: {{Rule: 2, Action: registry.Allow}},
	}}
	trace := &tracer{naming: names, find: lookupIn(func(name string) *ebpf.Map { return r.coll.Maps[name] })}
	for _, x := range []struct {
		probe registry.Probe
		want  string
	}{
		{registry.Probe{Source: registry.Place{Address: f.addr("A")}, Destination: registry.Place{Address: f.addr("V")}, Port: 80, Protocol: protoTCP},
			`shop/client > 10.96.0.1:80: denied  service shop/web
  endpoints[10.244.1.10] = endpoint 1 (shop/client), identity 10, network 1
  services[10.96.0.1:80/TCP] = service 4, slots 12 to 12, random
at shop/db:7000: denied ingress
  slots[12] = backend 4
  backends[4] = 10.244.1.11:7000, active, of service 4
  endpoints[10.244.1.11] = endpoint 2 (shop/db), identity 11, network 1
egress of shop/client for shop/db: allowed, policy <nil>, 0 reasons 
  subjects[identity 10 (shop{n=10})] = egress: open
ingress of shop/db for shop/client: denied, policy NetworkPolicy shop/db, 1 reasons by the maps it is denied, by the policies allowed: a change is on its way to the maps, or this is a bug
  subjects[identity 11 (shop{n=11})] = ingress: ruleset 2
  policy[ingress of identity 11, peer identity 10 (shop{n=10})] = ruleset 3
  rulesets[3] = tcp: port node 5
  port_nodes[5, port 6912 to 7167] = port node 6
  port_nodes[6, port 7000 to 7000] = outcome 4
  outcomes[4] = deny, by NetworkPolicy shop/db
`},
		{registry.Probe{Source: registry.Place{Kind: registry.PartyNode}, Destination: registry.Place{Address: f.addr("V")}, Port: 80, Protocol: protoTCP},
			`node > 10.96.0.1:80: denied VIPs are for containers only: socket translation is off service <nil>
  services[10.96.0.1:80/TCP] = service 4, slots 12 to 12, random
`},
		{registry.Probe{Source: registry.Place{Kind: registry.PartyWorld}, Destination: registry.Place{Address: f.addr("V")}, Port: 90, Protocol: protoUDP},
			`world > 10.96.0.1:90: denied VIPs are for this node's containers and processes only service <nil>
  services[10.96.0.1:90/UDP] = service 13, no slots
`},
		{registry.Probe{Source: registry.Place{Address: f.addr("A")}, Destination: registry.Place{Address: f.addr("V")}, Port: 7, Protocol: protoTCP},
			`shop/client > 10.96.0.1:7: refused no service has this port of the VIP service <nil>
  endpoints[10.244.1.10] = endpoint 1 (shop/client), identity 10, network 1
  services[10.96.0.1:7/TCP] = -
  services[10.96.0.1] = a VIP
`},
		{registry.Probe{Source: registry.Place{Address: f.addr("N")}, Destination: registry.Place{Kind: registry.PartyWorld}, Port: 7, Protocol: protoTCP},
			`192.0.2.1 > world:7: allowed  service <nil>
  endpoints[192.0.2.1] = -
  prefixes[192.0.2.1] = identity 20
at world:7: allowed neither end is a container of this node: no policy is asked here
`},
		{registry.Probe{Source: registry.Place{Kind: registry.PartyNode}, Destination: registry.Place{Address: f.addr("B")}, Port: 7, Protocol: protoTCP},
			`node > shop/db:7: allowed  service <nil>
  services[10.244.1.11:7/TCP] = -
at shop/db:7: allowed node and containers always reach each other
  endpoints[10.244.1.11] = endpoint 2 (shop/db), identity 11, network 1
`},
	} {
		flow, err := trace.trace(x.probe)
		if err != nil {
			t.Fatal(err)
		}
		if got := traceText(&flow); got != x.want {
			t.Errorf("got\n%s\nwant\n%s", got, x.want)
		}
	}
}

// TestMeant: reasons amount to a verdict as the tiers say.
func TestMeant(t *testing.T) {
	allow, deny := policy.Reason{Action: registry.Allow}, policy.Reason{Action: registry.Deny, Rule: -1}
	pass := policy.Reason{Action: registry.Pass}
	audit := func(r policy.Reason) policy.Reason { r.Audit = true; return r }
	for _, x := range []struct {
		reasons []policy.Reason
		want    registry.Verdict
	}{
		{nil, registry.VerdictAllowed},
		{[]policy.Reason{allow, deny}, registry.VerdictAllowed},
		{[]policy.Reason{deny}, registry.VerdictDenied},
		{[]policy.Reason{deny, allow}, registry.VerdictDenied},
		{[]policy.Reason{pass, deny}, registry.VerdictDenied},
		{[]policy.Reason{pass}, registry.VerdictAllowed},
		{[]policy.Reason{audit(deny)}, registry.VerdictAudit},
		{[]policy.Reason{audit(deny), allow, deny}, registry.VerdictAudit},
		{[]policy.Reason{audit(deny), deny}, registry.VerdictDenied},
		{[]policy.Reason{allow, audit(deny), deny}, registry.VerdictAllowed},
		{[]policy.Reason{audit(allow), deny}, registry.VerdictDenied},
		{[]policy.Reason{audit(pass), allow}, registry.VerdictAllowed},
	} {
		if got := meant(x.reasons); got != x.want {
			t.Errorf("%+v: %s, want %s", x.reasons, got, x.want)
		}
	}
}
