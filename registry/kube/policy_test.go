package kube

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// onePolicy parses one document, and checks that the policy survives being shown and being stored.
func onePolicy(t *testing.T, text string) registry.Policy {
	t.Helper()
	objects, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if len(objects) != 1 || objects[0].Policy == nil {
		t.Fatalf("parsed %+v", objects)
	}
	sameAgain(t, objects[0])
	return *objects[0].Policy
}

func networkPolicy(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec: " + spec + "\n"
}

var (
	in, out, both = []registry.Direction{registry.Ingress}, []registry.Direction{registry.Egress},
		[]registry.Direction{registry.Ingress, registry.Egress}
	everyone = registry.Rule{Action: registry.Allow}
)

func labelled(k, v string) registry.Selector {
	return registry.Selector{MatchLabels: map[string]string{k: v}}
}

func pods(namespaces *registry.Selector, pods registry.Selector) registry.Peer {
	return registry.Peer{Pods: &registry.PodSelector{Namespaces: namespaces, Pods: pods}}
}

// TestDirections: which directions a policy isolates, and that an empty list is as good as none.
func TestDirections(t *testing.T) {
	for _, c := range []struct {
		spec     string
		isolates []registry.Direction
		in, out  []registry.Rule
	}{
		{"null", in, nil, nil},
		{"{}", in, nil, nil},
		{"{policyTypes: []}", in, nil, nil},
		{"{ingress: [], egress: []}", in, nil, nil},
		{"{ingress: [{}]}", in, []registry.Rule{everyone}, nil},
		{"{ingress: [{from: [], ports: []}]}", in, []registry.Rule{everyone}, nil},
		{"{ingress: [{from: null, ports: null}]}", in, []registry.Rule{everyone}, nil},
		{"{egress: [{}]}", both, nil, []registry.Rule{everyone}},
		{"{egress: [{to: []}], policyTypes: []}", both, nil, []registry.Rule{everyone}},
		{"{policyTypes: [Egress]}", out, nil, nil},
		{"{policyTypes: [Egress, Ingress]}", both, nil, nil},
		{"{policyTypes: [Egress, Egress]}", out, nil, nil},
		// What policyTypes does not name means nothing, and is kept.
		{"{policyTypes: [Ingress], egress: [{}]}", in, nil, []registry.Rule{everyone}},
		{"{policyTypes: [Egress], ingress: [{}], egress: [{}]}", out, []registry.Rule{everyone}, []registry.Rule{everyone}},
	} {
		p := onePolicy(t, networkPolicy(c.spec))
		if !reflect.DeepEqual(p.Isolates, c.isolates) || !reflect.DeepEqual(p.Ingress, c.in) || !reflect.DeepEqual(p.Egress, c.out) {
			t.Errorf("%s: isolates %v, ingress %+v, egress %+v", c.spec, p.Isolates, p.Ingress, p.Egress)
		}
		if want := (registry.PodSelector{}); !reflect.DeepEqual(p.Subject, want) {
			t.Errorf("%s: subject %+v, want everything", c.spec, p.Subject)
		}
	}
}

// TestPeers: the eight ways to write a peer.
func TestPeers(t *testing.T) {
	for text, want := range map[string]registry.Peer{
		"{podSelector: {}}":                              pods(nil, registry.Selector{}),
		"{podSelector: {matchLabels: {a: b}}}":           pods(nil, labelled("a", "b")),
		"{podSelector: {}, namespaceSelector: null}":     pods(nil, registry.Selector{}),
		"{namespaceSelector: {}}":                        pods(&registry.Selector{}, registry.Selector{}),
		"{namespaceSelector: {}, podSelector: {}}":       pods(&registry.Selector{}, registry.Selector{}),
		"{namespaceSelector: {matchExpressions: []}}":    pods(&registry.Selector{}, registry.Selector{}),
		"{ipBlock: {cidr: 0.0.0.0/0}}":                   {Block: &registry.IPBlock{CIDR: netip.MustParsePrefix("0.0.0.0/0")}},
		"{ipBlock: {cidr: 'FD00:0:0::/48', except: []}}": {Block: &registry.IPBlock{CIDR: netip.MustParsePrefix("fd00::/48")}},
		"{ipBlock: {cidr: 10.0.0.1/32}, podSelector: ~}": {Block: &registry.IPBlock{CIDR: netip.MustParsePrefix("10.0.0.1/32")}},
		"{ipBlock: {cidr: 'fd00:1:2::3/16'}}":            {Block: &registry.IPBlock{CIDR: netip.MustParsePrefix("fd00::/16")}},
		"{ipBlock: {cidr: 10.1.2.3/8, except: [10.1.2.3/16, 10.1.0.0/16]}}": {Block: &registry.IPBlock{
			CIDR: netip.MustParsePrefix("10.0.0.0/8"), Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		}},
		"{podSelector: {matchLabels: {a: ''}}}":                                           pods(nil, labelled("a", "")),
		"{podSelector: {matchLabels: {sluice.net/network: blue}}, namespaceSelector: {}}": pods(&registry.Selector{}, labelled(registry.NetworkLabel, "blue")),
		"{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.0.0.0/9, 10.1.0.0/16]}}": {Block: &registry.IPBlock{
			CIDR: netip.MustParsePrefix("10.0.0.0/8"), Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.0.0.0/9")},
		}},
		"{namespaceSelector: {matchLabels: {n: x}, matchExpressions: [{key: e, operator: NotIn, values: [q, p]}]}, podSelector: {matchExpressions: [{key: k, operator: Exists, values: []}]}}": pods(
			&registry.Selector{MatchLabels: map[string]string{"n": "x"}, Expressions: []registry.Requirement{{Key: "e", Operator: registry.NotIn, Values: []string{"q", "p"}}}},
			registry.Selector{Expressions: []registry.Requirement{{Key: "k", Operator: registry.Exists}}}),
	} {
		p := onePolicy(t, networkPolicy("{ingress: [{from: ["+text+"]}], egress: [{to: ["+text+"]}]}"))
		if !reflect.DeepEqual(p.Ingress[0].Peers, []registry.Peer{want}) || !reflect.DeepEqual(p.Egress[0].Peers, []registry.Peer{want}) {
			t.Errorf("%s is %+v, want %+v", text, p.Ingress[0].Peers, want)
		}
	}
}

func TestPolicyPorts(t *testing.T) {
	for text, want := range map[string]registry.PolicyPort{
		"{}":                          {Protocol: registry.TCP, EndPort: 65535},
		"{protocol: SCTP}":            {Protocol: registry.SCTP, EndPort: 65535},
		"{port: null, endPort: null}": {Protocol: registry.TCP, EndPort: 65535},
		"{port: 80}":                  {Protocol: registry.TCP, Port: 80, EndPort: 80},
		"{port: 80, protocol: null}":  {Protocol: registry.TCP, Port: 80, EndPort: 80},
		"{port: 1, endPort: 65535, protocol: UDP}": {Protocol: registry.UDP, Port: 1, EndPort: 65535},
		"{port: 80, endPort: 80}":                  {Protocol: registry.TCP, Port: 80, EndPort: 80},
		"{port: http, protocol: UDP}":              {Protocol: registry.UDP, Name: "http"},
	} {
		p := onePolicy(t, networkPolicy("{ingress: [{ports: ["+text+"]}], egress: [{ports: ["+text+"]}]}"))
		if !reflect.DeepEqual(p.Ingress[0].Ports, []registry.PolicyPort{want}) || !reflect.DeepEqual(p.Egress[0].Ports, []registry.PolicyPort{want}) {
			t.Errorf("%s is %+v, want %+v", text, p.Ingress[0].Ports, want)
		}
	}
}

const adminTwin = `
apiVersion: policy.networking.k8s.io/v1alpha1
kind: %s
metadata: {name: default, labels: {team: x}, annotations: {sluice.net/audit: "%t"}}
spec:
  %s
  subject:
    pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}
  ingress:
  - name: first
    action: %s
    from:
    - namespaces: {namespaceSelector: {matchLabels: {n: x}}}
    - pods: {namespaces: {namespaceSelector: {}}, podSelector: {}}
    - namespaces: {sameLabels: [tenant, zone]}
    - pods: {namespaces: {notSameLabels: [tenant]}, podSelector: {matchLabels: {a: b}}}
    ports:
    - {portNumber: {port: 80}}
    - {portNumber: {port: 53, protocol: UDP}}
    - {portRange: {start: 1, end: 65535, protocol: SCTP}}
    - {namedPort: http}
  egress:
  - {action: Deny, to: [{namespaces: {namespaceSelector: {}}}]}
status: {conditions: []}
`

func TestAdminPolicies(t *testing.T) {
	want := registry.Policy{
		Subject: registry.PodSelector{Namespaces: &registry.Selector{}, Pods: labelled("app", "web")},
		Ingress: []registry.Rule{{
			Name: "first", Action: registry.Allow,
			Peers: []registry.Peer{
				pods(&registry.Selector{MatchLabels: map[string]string{"n": "x"}}, registry.Selector{}),
				pods(&registry.Selector{}, registry.Selector{}),
				{Pods: &registry.PodSelector{SameLabels: []string{"tenant", "zone"}}},
				{Pods: &registry.PodSelector{NotSameLabels: []string{"tenant"}, Pods: labelled("a", "b")}},
			},
			Ports: []registry.PolicyPort{
				{Protocol: registry.TCP, Port: 80, EndPort: 80}, {Protocol: registry.UDP, Port: 53, EndPort: 53},
				{Protocol: registry.SCTP, Port: 1, EndPort: 65535}, {Name: "http"},
			},
		}},
		Egress: []registry.Rule{{Action: registry.Deny, Peers: []registry.Peer{pods(&registry.Selector{}, registry.Selector{})}}},
	}
	want.Name.Name, want.Labels = "default", map[string]string{"team": "x"}
	want.Tier = registry.TierBaseline
	if p := onePolicy(t, fmt.Sprintf(adminTwin, BaselineAdminNetworkPolicy, false, "", "Allow")); !reflect.DeepEqual(p, want) {
		t.Errorf("parsed\n%+v\nwant\n%+v", p, want)
	}
	want.Tier, want.Priority, want.Audit, want.Ingress[0].Action = registry.TierAdmin, 1000, true, registry.Pass
	if p := onePolicy(t, fmt.Sprintf(adminTwin, AdminNetworkPolicy, true, "priority: 1000", "Pass")); !reflect.DeepEqual(p, want) {
		t.Errorf("parsed\n%+v\nwant\n%+v", p, want)
	}
	// Priority 0 is one as any other; a subject by namespace takes all containers in it.
	zero := strings.NewReplacer("podSelector: {matchLabels: {app: web}}}", "podSelector: {}}").Replace(fmt.Sprintf(adminTwin, AdminNetworkPolicy, true, "priority: 0", "Deny"))
	if p := onePolicy(t, zero); p.Priority != 0 || !reflect.DeepEqual(p.Subject, registry.PodSelector{Namespaces: &registry.Selector{}}) {
		t.Errorf("parsed %+v", p)
	}
}

// TestMixedKinds: documents and Lists of all kinds, in one input.
func TestMixedKinds(t *testing.T) {
	text := good + "---\n" + networkPolicy("{}") + fmt.Sprintf("---"+adminTwin, AdminNetworkPolicy, true, "priority: 1", "Pass") + `---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {kubernetes.io/metadata.name: x, tier: front}}, spec: {finalizers: [kubernetes]}, status: {phase: Active}}
- {apiVersion: v1, kind: Namespace, metadata: {name: bare}}
- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: q.r, creationTimestamp: null, annotations: {other: x}}, status: {}}
`
	objects, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range objects {
		got = append(got, o.ID().String())
		sameAgain(t, o)
	}
	want := "service shop/web, service default/none, service default/fixed, networkpolicy x/p, adminnetworkpolicy default, namespace x, namespace bare, networkpolicy default/q.r"
	if strings.Join(got, ", ") != want {
		t.Errorf("parsed %s, want %s", strings.Join(got, ", "), want)
	}
	if n := objects[5].Namespace; !reflect.DeepEqual(*n, registry.Namespace{Name: "x", Labels: map[string]string{"tier": "front"}}) {
		t.Errorf("namespace %+v", n)
	}
	names, err := Names([]byte(text))
	if err != nil || len(names) != len(objects) {
		t.Fatalf("names %v, %v", names, err)
	}
	for i, o := range objects {
		if names[i] != o.ID() {
			t.Errorf("%s goes by the name of %s", o.ID(), names[i])
		}
	}
}
