package kube

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// random makes policies that use everything the model has.
type random struct{ *rand.Rand }

func (r random) selector() registry.Selector {
	var s registry.Selector
	for range r.IntN(3) {
		if s.MatchLabels == nil {
			s.MatchLabels = map[string]string{}
		}
		s.MatchLabels[fmt.Sprint("example.com/k", r.IntN(5))] = []string{"", "v", "true", "1"}[r.IntN(4)]
	}
	for range r.IntN(3) {
		q := registry.Requirement{Key: registry.NetworkLabel}
		switch q.Operator = []registry.Operator{registry.In, registry.NotIn, registry.Exists, registry.DoesNotExist}[r.IntN(4)]; q.Operator {
		case registry.In, registry.NotIn:
			for range 1 + r.IntN(2) {
				q.Values = append(q.Values, []string{"", "no", "0x1", "v"}[r.IntN(4)])
			}
		}
		s.Expressions = append(s.Expressions, q)
	}
	return s
}

func (r random) peer(tier registry.Tier) registry.Peer {
	p := &registry.PodSelector{Pods: r.selector()}
	if s := r.selector(); r.IntN(2) == 0 {
		p.Namespaces = &s
	}
	switch {
	case tier == registry.TierNamespaced && r.IntN(3) == 0:
		b := &registry.IPBlock{CIDR: netip.MustParsePrefix([]string{"10.0.0.0/8", "fd00::/16", "0.0.0.0/0", "::/0"}[r.IntN(4)])}
		for range r.IntN(3) {
			if e := netip.PrefixFrom(b.CIDR.Addr(), b.CIDR.Bits()+1+r.IntN(16)); len(b.Except) == 0 || b.Except[0] != e {
				b.Except = append(b.Except, e)
			}
		}
		return registry.Peer{Block: b}
	case tier != registry.TierNamespaced && p.Namespaces == nil && r.IntN(2) == 0:
		p.SameLabels = []string{"a", "b"}[:1+r.IntN(2)]
	case tier != registry.TierNamespaced && p.Namespaces == nil:
		p.NotSameLabels = []string{"a", "b"}[:1+r.IntN(2)]
	}
	return registry.Peer{Pods: p}
}

func (r random) port(tier registry.Tier) registry.PolicyPort {
	p := registry.PolicyPort{Protocol: []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP}[r.IntN(3)]}
	switch r.IntN(4) {
	case 0:
		p.Name = "http-alt"
		if tier != registry.TierNamespaced {
			p.Protocol = 0
		}
	case 1:
		p.Port = uint16(1 + r.IntN(1000))
		p.EndPort = p.Port + uint16(1+r.IntN(64000))
	case 2:
		if tier == registry.TierNamespaced {
			p.EndPort = 65535
			break
		}
		fallthrough
	default:
		p.Port = uint16(1 + r.IntN(65535))
		p.EndPort = p.Port
	}
	return p
}

func (r random) rules(tier registry.Tier) []registry.Rule {
	var list []registry.Rule
	for range r.IntN(4) {
		rule := registry.Rule{Action: registry.Allow}
		least := 0
		if tier != registry.TierNamespaced {
			least = 1
			rule.Name = []string{"", "a name: with a colon"}[r.IntN(2)]
			if rule.Action = []registry.Action{registry.Allow, registry.Deny, registry.Pass}[r.IntN(3)]; tier == registry.TierBaseline {
				rule.Action = registry.Deny
			}
		}
		for range least + r.IntN(3) {
			rule.Peers = append(rule.Peers, r.peer(tier))
		}
		for range r.IntN(3) {
			rule.Ports = append(rule.Ports, r.port(tier))
		}
		list = append(list, rule)
	}
	return list
}

func (r random) policy() registry.Policy {
	p := registry.Policy{PolicyID: registry.PolicyID{Tier: registry.Tier(r.IntN(3)), Name: registry.Name{Name: "default"}}, Audit: r.IntN(2) == 0}
	p.Subject.Pods = r.selector()
	switch p.Tier {
	case registry.TierNamespaced:
		p.Namespace = "shop"
		p.Isolates = [][]registry.Direction{in, out, both}[r.IntN(3)]
	case registry.TierAdmin:
		p.Priority = int32(r.IntN(registry.MaxPriority + 1))
		fallthrough
	default:
		s := r.selector()
		p.Subject.Namespaces = &s
	}
	p.Ingress, p.Egress = r.rules(p.Tier), r.rules(p.Tier)
	if r.IntN(2) == 0 {
		p.Labels = map[string]string{"team": "x", "example.com/tier": ""}
	}
	return p
}

// TestRenderPolicies: every policy that the model can hold is read back as the same from its YAML.
func TestRenderPolicies(t *testing.T) {
	r := random{rand.New(rand.NewPCG(1, 2))}
	for range 500 {
		p := r.policy()
		sameAgain(t, Object{Policy: &p})
		if t.Failed() {
			return
		}
	}
}
