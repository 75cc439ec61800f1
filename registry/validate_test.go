package registry

import (
	"net/netip"
	"strings"
	"testing"
)

func pods() *PodSelector { return &PodSelector{} }

func goodPolicy(tier Tier) Policy {
	p := Policy{PolicyID: PolicyID{Tier: tier, Name: Name{Name: "p"}}, Isolates: []Direction{Ingress, Egress}}
	p.Ingress = []Rule{{Action: Allow, Peers: []Peer{{Pods: pods()}}, Ports: []PolicyPort{{Protocol: SCTP, EndPort: 65535}}}}
	p.Egress = []Rule{{Action: Allow, Peers: []Peer{{Pods: pods()}}, Ports: []PolicyPort{{Protocol: TCP, Name: "http"}}}}
	if tier == TierNamespaced {
		p.Namespace = "x"
	} else {
		p.Isolates = nil
	}
	return p
}

func TestPolicyValidate(t *testing.T) {
	for _, tier := range []Tier{TierNamespaced, TierAdmin, TierBaseline} {
		p := goodPolicy(tier)
		if err := p.Validate(); err != nil {
			t.Errorf("a good %s: %v", tier, err)
		}
	}
	block := func(cidr string, except ...string) func(*Policy) {
		return func(p *Policy) {
			b := &IPBlock{CIDR: netip.MustParsePrefix(cidr)}
			for _, e := range except {
				b.Except = append(b.Except, netip.MustParsePrefix(e))
			}
			p.Ingress[0].Peers = []Peer{{Block: b}}
		}
	}
	port := func(port PolicyPort) func(*Policy) {
		return func(p *Policy) { p.Egress[0].Ports = []PolicyPort{port} }
	}
	label := func(r Requirement) func(*Policy) {
		return func(p *Policy) { p.Subject.Pods.Expressions = []Requirement{r} }
	}
	for _, c := range []struct {
		name string
		tier Tier
		edit func(*Policy)
		want string // "": it is fine
	}{
		{"tier", 7, func(*Policy) {}, "tier 7 is unknown"},
		{"no name", TierAdmin, func(p *Policy) { p.Name.Name = "" }, "no name"},
		{"no namespace", TierNamespaced, func(p *Policy) { p.Namespace = "" }, `namespace "" of a NetworkPolicy`},
		{"a namespace", TierBaseline, func(p *Policy) { p.Namespace = "x" }, `namespace "x" of a Baseline`},
		{"priority", TierAdmin, func(p *Policy) { p.Priority = MaxPriority }, ""},
		{"high priority", TierAdmin, func(p *Policy) { p.Priority = MaxPriority + 1 }, "priority 1001"},
		{"negative priority", TierAdmin, func(p *Policy) { p.Priority = -1 }, "priority -1"},
		{"priority of none", TierBaseline, func(p *Policy) { p.Priority = 1 }, "priority 1 of a Baseline"},
		{"nothing isolated", TierNamespaced, func(p *Policy) { p.Isolates = nil }, "0 isolated"},
		{"isolated twice", TierNamespaced, func(p *Policy) { p.Isolates = []Direction{Egress, Egress} }, "isolated twice"},
		{"isolated where", TierNamespaced, func(p *Policy) { p.Isolates = []Direction{Egress, 7} }, "unknown"},
		{"isolated by the wrong", TierAdmin, func(p *Policy) { p.Isolates = []Direction{Egress} }, "1 isolated"},
		{"rules of no effect", TierNamespaced, func(p *Policy) { p.Isolates = []Direction{Egress} }, ""},
		{"bad rules of no effect", TierNamespaced, func(p *Policy) { p.Isolates, p.Ingress[0].Action = []Direction{Egress}, Deny }, "ingress rule 0: action"},
		{"foreign subject", TierNamespaced, func(p *Policy) { p.Subject.Namespaces = &Selector{} }, "subject: a NetworkPolicy"},
		{"subject like itself", TierAdmin, func(p *Policy) { p.Subject.SameLabels = []string{"a"} }, "subject: compared"},
		{"action", TierNamespaced, func(p *Policy) { p.Egress[0].Action = Deny }, `egress rule 0: action "Deny"`},
		{"no action", TierAdmin, func(p *Policy) { p.Egress[0].Action = "" }, `action ""`},
		{"pass", TierAdmin, func(p *Policy) { p.Egress[0].Action = Pass }, ""},
		{"baseline pass", TierBaseline, func(p *Policy) { p.Egress[0].Action = Pass }, `action "Pass"`},
		{"everyone", TierNamespaced, func(p *Policy) { p.Ingress[0].Peers = nil }, ""},
		{"no peer", TierBaseline, func(p *Policy) { p.Ingress[0].Peers = nil }, "no peer"},
		{"empty peer", TierAdmin, func(p *Policy) { p.Ingress[0].Peers[0].Pods = nil }, "ingress rule 0: peer 0: want either"},
		{"both", TierNamespaced, func(p *Policy) { p.Ingress[0].Peers[0].Block = &IPBlock{} }, "want either"},
		{"same labels", TierAdmin, func(p *Policy) { p.Ingress[0].Peers[0].Pods.SameLabels = []string{"a"} }, ""},
		{"same empty label", TierAdmin, func(p *Policy) { p.Ingress[0].Peers[0].Pods.NotSameLabels = []string{""} }, "without a key"},
		{"same labels elsewhere", TierNamespaced, func(p *Policy) { p.Ingress[0].Peers[0].Pods.SameLabels = []string{"a"} }, "compares"},
		{"namespaces of a peer", TierAdmin, func(p *Policy) {
			p.Ingress[0].Peers[0].Pods.Namespaces = &Selector{Expressions: []Requirement{{"a", In, nil}}}
		}, "namespaces: a In without values"},
		{"block", TierNamespaced, block("10.0.0.0/8", "10.1.0.0/16"), ""},
		{"admin block", TierAdmin, block("10.0.0.0/8"), "block of a"},
		{"invalid block", TierNamespaced, func(p *Policy) { p.Ingress[0].Peers = []Peer{{Block: &IPBlock{}}} }, "cidr invalid"},
		{"host bits", TierNamespaced, block("10.0.0.1/8"), "cidr 10.0.0.1/8"},
		{"mapped", TierNamespaced, block("::ffff:10.0.0.0/104"), "cidr ::ffff"},
		{"except all", TierNamespaced, block("10.0.0.0/8", "10.0.0.0/8"), "no part"},
		{"except elsewhere", TierNamespaced, block("10.0.0.0/8", "11.0.0.0/9"), "no part"},
		{"except of the other family", TierNamespaced, block("::/0", "10.0.0.0/8"), "no part"},
		{"no protocol", TierNamespaced, port(PolicyPort{Port: 1, EndPort: 1}), "no protocol"},
		{"any protocol by name", TierNamespaced, port(PolicyPort{Name: "http"}), "no protocol"},
		{"admin's any protocol by name", TierAdmin, port(PolicyPort{Name: "http"}), ""},
		{"admin's any protocol", TierAdmin, port(PolicyPort{Port: 1, EndPort: 1}), "no protocol"},
		{"another protocol", TierNamespaced, port(PolicyPort{Protocol: 1, Port: 1, EndPort: 1}), "protocol 1"},
		{"name and number", TierNamespaced, port(PolicyPort{Protocol: TCP, Name: "a", EndPort: 1}), "name"},
		{"backwards", TierNamespaced, port(PolicyPort{Protocol: TCP, Port: 2, EndPort: 1}), "2 to 1"},
		{"port 0", TierNamespaced, port(PolicyPort{Protocol: TCP}), "0 to 0"},
		{"no values", TierNamespaced, label(Requirement{"a", NotIn, nil}), "subject: a NotIn without"},
		{"values", TierNamespaced, label(Requirement{"a", Exists, []string{"b"}}), "with values"},
		{"operator", TierNamespaced, label(Requirement{"a", "Like", []string{"b"}}), "operator"},
		{"no key", TierNamespaced, label(Requirement{"", Exists, nil}), "without a key"},
	} {
		p := goodPolicy(c.tier)
		c.edit(&p)
		err := p.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
