package kube

import (
	"fmt"
	"slices"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/network-policy-api/apis/v1alpha1"

	"github.com/sluice-net/sluice/registry"
)

// Limits of the upstream API.
const (
	maxAdminItems  = 100 // rules of a direction; peers, ports or labels of a rule
	maxRuleName    = 100 // characters
	baselinePolicy = "default"
)

// adminRule is a rule of either tier and direction.
type adminRule struct {
	at, side string // field of the rule; "from" or "to"
	name     string
	action   registry.Action
	peers    []v1alpha1.AdminNetworkPolicyPeer
	ports    *[]v1alpha1.AdminNetworkPolicyPort
}

func (v *validator) adminPolicy(a *v1alpha1.AdminNetworkPolicy) registry.Policy {
	p := v.policyHead(registry.TierAdmin, &a.ObjectMeta)
	switch p.Priority = a.Spec.Priority; {
	case !v.given("spec.priority"):
		v.fault("spec.priority", "required: 0 to %d", registry.MaxPriority)
	case p.Priority < 0 || p.Priority > registry.MaxPriority:
		v.fault("spec.priority", "%d: want 0 to %d", p.Priority, registry.MaxPriority)
	}
	p.Subject = v.subject("spec.subject", &a.Spec.Subject)
	var in, out []adminRule
	for i, r := range a.Spec.Ingress {
		in = append(in, adminRule{fmt.Sprintf("spec.ingress[%d]", i), "from", r.Name, registry.Action(r.Action), r.From, r.Ports})
	}
	for i, r := range a.Spec.Egress {
		out = append(out, adminRule{fmt.Sprintf("spec.egress[%d]", i), "to", r.Name, registry.Action(r.Action), r.To, r.Ports})
	}
	p.Ingress, p.Egress = v.adminRules("spec.ingress", in, p.Tier), v.adminRules("spec.egress", out, p.Tier)
	return p
}

func (v *validator) baselinePolicy(b *v1alpha1.BaselineAdminNetworkPolicy) registry.Policy {
	p := v.policyHead(registry.TierBaseline, &b.ObjectMeta)
	if name := b.ObjectMeta.Name; name != "" && name != baselinePolicy {
		v.fault("metadata.name", "%q: want %s: there is only one of this kind", shorten(name), baselinePolicy)
	}
	p.Subject = v.subject("spec.subject", &b.Spec.Subject)
	var in, out []adminRule
	for i, r := range b.Spec.Ingress {
		in = append(in, adminRule{fmt.Sprintf("spec.ingress[%d]", i), "from", r.Name, registry.Action(r.Action), r.From, r.Ports})
	}
	for i, r := range b.Spec.Egress {
		out = append(out, adminRule{fmt.Sprintf("spec.egress[%d]", i), "to", r.Name, registry.Action(r.Action), r.To, r.Ports})
	}
	p.Ingress, p.Egress = v.adminRules("spec.ingress", in, p.Tier), v.adminRules("spec.egress", out, p.Tier)
	return p
}

func (v *validator) subject(at string, s *v1alpha1.AdminNetworkPolicySubject) registry.PodSelector {
	switch {
	case s.Namespaces != nil && s.Pods != nil:
		v.fault(at, "namespaces and pods exclude each other")
	case s.Namespaces != nil:
		namespaces := v.selector(at+".namespaces", s.Namespaces)
		return registry.PodSelector{Namespaces: &namespaces}
	case s.Pods != nil:
		v.require(at+".pods.namespaceSelector", at+".pods.podSelector")
		namespaces := v.selector(at+".pods.namespaceSelector", &s.Pods.NamespaceSelector)
		return registry.PodSelector{Namespaces: &namespaces, Pods: v.selector(at+".pods.podSelector", &s.Pods.PodSelector)}
	default:
		v.fault(at, "required: namespaces or pods")
	}
	return registry.PodSelector{}
}

// require reports those fields that are missing, and would by their zero value mean everything.
func (v *validator) require(fields ...string) {
	for _, f := range fields {
		if !v.given(f) {
			v.fault(f, "required ({} selects all)")
		}
	}
}

// given reports whether a field is there and not null.
func (v *validator) given(field string) bool {
	path := join2(v.object.path, field)
	_, met := v.object.lines[path]
	return met && !v.object.nulls[path]
}

func (v *validator) adminRules(at string, rules []adminRule, tier registry.Tier) []registry.Rule {
	if len(rules) > maxAdminItems {
		v.fault(at, "%d rules, more than the %d allowed", len(rules), maxAdminItems)
		return nil
	}
	var list []registry.Rule
	for _, r := range rules {
		if utf8.RuneCountInString(r.name) > maxRuleName {
			v.fault(r.at+".name", "%d characters, more than the %d allowed", utf8.RuneCountInString(r.name), maxRuleName)
		}
		v.action(r.at+".action", r.action, tier)
		list = append(list, registry.Rule{Name: r.name, Action: r.action, Peers: v.adminPeers(r.at+"."+r.side, r.peers), Ports: v.adminPorts(r.at+".ports", r.ports)})
	}
	return list
}

func (v *validator) action(at string, a registry.Action, tier registry.Tier) {
	want := "Allow or Deny"
	if tier == registry.TierAdmin {
		want = "Allow, Deny or Pass"
	}
	switch {
	case a == "":
		v.fault(at, "required: %s", want)
	case a == registry.Allow, a == registry.Deny, a == registry.Pass && tier == registry.TierAdmin:
	default:
		v.fault(at, "%q: want %s", shorten(string(a)), want)
	}
}

func (v *validator) adminPeers(at string, peers []v1alpha1.AdminNetworkPolicyPeer) []registry.Peer {
	if len(peers) == 0 {
		v.fault(at, "required: at least one peer (namespaces: {namespaceSelector: {}} is every container)")
	}
	if len(peers) > maxAdminItems {
		v.fault(at, "%d peers, more than the %d allowed", len(peers), maxAdminItems)
		return nil
	}
	var list []registry.Peer
	for i, p := range peers {
		field := fmt.Sprintf("%s[%d]", at, i)
		var pods registry.PodSelector
		switch {
		case p.Namespaces != nil && p.Pods != nil:
			v.fault(field, "namespaces and pods exclude each other")
		case p.Namespaces != nil:
			pods = v.namespacedPeer(field+".namespaces", p.Namespaces)
		case p.Pods != nil:
			v.require(field + ".pods.podSelector")
			pods = v.namespacedPeer(field+".pods.namespaces", &p.Pods.Namespaces)
			pods.Pods = v.selector(field+".pods.podSelector", &p.Pods.PodSelector)
		default:
			v.fault(field, "required: namespaces or pods")
		}
		list = append(list, registry.Peer{Pods: &pods})
	}
	return list
}

// namespacedPeer reads which namespaces a peer is of; all containers in them are meant.
func (v *validator) namespacedPeer(at string, p *v1alpha1.NamespacedPeer) registry.PodSelector {
	var given []string
	for _, f := range []string{"namespaceSelector", "sameLabels", "notSameLabels"} {
		if v.given(at + "." + f) {
			given = append(given, f)
		}
	}
	var out registry.PodSelector
	switch {
	case len(given) == 0:
		v.fault(at, "required: namespaceSelector, sameLabels or notSameLabels")
	case len(given) > 1:
		v.fault(at, "%s and %s exclude each other", given[0], given[1])
	case p.NamespaceSelector != nil:
		s := v.selector(at+".namespaceSelector", p.NamespaceSelector)
		out.Namespaces = &s
	case given[0] == "sameLabels":
		out.SameLabels = v.comparedLabels(at+".sameLabels", p.SameLabels)
	default:
		out.NotSameLabels = v.comparedLabels(at+".notSameLabels", p.NotSameLabels)
	}
	return out
}

func (v *validator) comparedLabels(at string, keys []string) []string {
	switch {
	case len(keys) == 0:
		v.fault(at, "an empty list selects nothing: name a label, or leave the peer out")
	case len(keys) > maxAdminItems:
		v.fault(at, "%d labels, more than the %d allowed", len(keys), maxAdminItems)
		return nil
	}
	for i, k := range keys {
		v.labelKey(fmt.Sprintf("%s[%d]", at, i), k)
	}
	return slices.Clone(keys)
}

func (v *validator) adminPorts(at string, ports *[]v1alpha1.AdminNetworkPolicyPort) []registry.PolicyPort {
	switch {
	case ports == nil:
		return nil
	case len(*ports) == 0:
		v.fault(at, "an empty list matches nothing: leave ports out to match all")
	case len(*ports) > maxAdminItems:
		v.fault(at, "%d ports, more than the %d allowed", len(*ports), maxAdminItems)
		return nil
	}
	var list []registry.PolicyPort
	for i := range *ports {
		list = append(list, v.adminPort(fmt.Sprintf("%s[%d]", at, i), &(*ports)[i]))
	}
	return list
}

func (v *validator) adminPort(at string, p *v1alpha1.AdminNetworkPolicyPort) registry.PolicyPort {
	given := 0
	for _, set := range []bool{p.PortNumber != nil, p.PortRange != nil, p.NamedPort != nil} {
		if set {
			given++
		}
	}
	switch {
	case given == 0:
		v.fault(at, "required: portNumber, portRange or namedPort")
	case given > 1:
		v.fault(at, "portNumber, portRange and namedPort exclude each other")
	case p.PortNumber != nil:
		at += ".portNumber"
		n := v.portNumber(at+".port", p.PortNumber.Port)
		return registry.PolicyPort{Protocol: v.adminProtocol(at+".protocol", p.PortNumber.Protocol), Port: n, EndPort: n}
	case p.PortRange != nil:
		at += ".portRange"
		r := p.PortRange
		out := registry.PolicyPort{
			Protocol: v.adminProtocol(at+".protocol", r.Protocol),
			Port:     v.portNumber(at+".start", r.Start), EndPort: v.portNumber(at+".end", r.End),
		}
		if out.Port != 0 && out.EndPort != 0 && out.Port >= out.EndPort {
			v.fault(at+".end", "%d: want more than start, %d", out.EndPort, out.Port)
		}
		return out
	default:
		v.reasons(at+".namedPort", *p.NamedPort, validation.IsValidPortName(*p.NamedPort))
		return registry.PolicyPort{Name: *p.NamedPort}
	}
	return registry.PolicyPort{}
}

func (v *validator) adminProtocol(at string, p corev1.Protocol) registry.Protocol {
	if p == "" {
		return registry.TCP
	}
	return v.protocol(at, p)
}
