package kube

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
)

func (v *validator) networkPolicy(n *networkingv1.NetworkPolicy) registry.Policy {
	p := v.policyHead(registry.TierNamespaced, &n.ObjectMeta)
	p.Subject.Pods = v.selector("spec.podSelector", &n.Spec.PodSelector)
	p.Isolates = v.policyTypes(&n.Spec)
	for i, r := range n.Spec.Ingress {
		p.Ingress = append(p.Ingress, v.rule(fmt.Sprintf("spec.ingress[%d]", i), "from", r.From, r.Ports))
	}
	for i, r := range n.Spec.Egress {
		p.Egress = append(p.Egress, v.rule(fmt.Sprintf("spec.egress[%d]", i), "to", r.To, r.Ports))
	}
	return p
}

// policyHead reads what all kinds of policies have in their metadata.
func (v *validator) policyHead(tier registry.Tier, m *metav1.ObjectMeta) registry.Policy {
	p := registry.Policy{PolicyID: registry.PolicyID{Tier: tier}}
	p.Name = v.metadata(m, tier == registry.TierNamespaced, validation.IsDNS1123Subdomain)
	if len(m.Labels) > 0 {
		p.Labels = maps.Clone(m.Labels)
	}
	v.annotations(m.Annotations, map[string]func(at, value string){
		registry.AuditAnnotation: func(at, value string) {
			if value != "true" && value != "false" {
				v.fault(at, "%q: want \"true\" or \"false\"", shorten(value))
			}
			p.Audit = value == "true"
		},
	})
	return p
}

// policyTypes returns the directions that a policy isolates, with Kubernetes' default for those that
// say nothing.
func (v *validator) policyTypes(s *networkingv1.NetworkPolicySpec) []registry.Direction {
	var in, out bool
	for i, t := range s.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			in = true
		case networkingv1.PolicyTypeEgress:
			out = true
		default:
			v.fault(fmt.Sprintf("spec.policyTypes[%d]", i), "%q: want Ingress or Egress", shorten(string(t)))
		}
	}
	if len(s.PolicyTypes) > 2 {
		v.fault("spec.policyTypes", "%d types: want at most two", len(s.PolicyTypes))
	}
	if len(s.PolicyTypes) == 0 {
		in, out = true, len(s.Egress) > 0
	}
	var list []registry.Direction
	if in {
		list = append(list, registry.Ingress)
	}
	if out {
		list = append(list, registry.Egress)
	}
	return list
}

// rule reads one rule; side is "from" or "to". An empty list of peers or ports is the same as none:
// everyone, everything.
func (v *validator) rule(at, side string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) registry.Rule {
	out := registry.Rule{Action: registry.Allow}
	for i := range peers {
		out.Peers = append(out.Peers, v.peer(fmt.Sprintf("%s.%s[%d]", at, side, i), &peers[i]))
	}
	for i := range ports {
		out.Ports = append(out.Ports, v.policyPort(fmt.Sprintf("%s.ports[%d]", at, i), &ports[i]))
	}
	return out
}

func (v *validator) peer(at string, p *networkingv1.NetworkPolicyPeer) registry.Peer {
	if p.IPBlock != nil {
		if p.PodSelector != nil || p.NamespaceSelector != nil {
			v.fault(at, "ipBlock stands alone: podSelector and namespaceSelector belong into a peer of their own")
		}
		block := v.ipBlock(at+".ipBlock", p.IPBlock)
		return registry.Peer{Block: &block}
	}
	if p.PodSelector == nil && p.NamespaceSelector == nil {
		v.fault(at, "required: podSelector, namespaceSelector or ipBlock ({} selects all)")
	}
	var pods registry.PodSelector
	if p.NamespaceSelector != nil {
		s := v.selector(at+".namespaceSelector", p.NamespaceSelector)
		pods.Namespaces = &s
	}
	if p.PodSelector != nil {
		pods.Pods = v.selector(at+".podSelector", p.PodSelector)
	}
	return registry.Peer{Pods: &pods}
}

func (v *validator) ipBlock(at string, b *networkingv1.IPBlock) registry.IPBlock {
	var out registry.IPBlock
	if b.CIDR == "" {
		v.fault(at+".cidr", "required")
	} else {
		out.CIDR = v.prefix(at+".cidr", b.CIDR)
	}
	for i, text := range b.Except {
		field := fmt.Sprintf("%s.except[%d]", at, i)
		e := v.prefix(field, text)
		if e.IsValid() && out.CIDR.IsValid() && (e.Bits() <= out.CIDR.Bits() || !out.CIDR.Contains(e.Addr())) {
			v.fault(field, "%s is not a smaller part of cidr %s", e, out.CIDR)
		}
		if !slices.Contains(out.Except, e) {
			out.Except = append(out.Except, e)
		}
	}
	return out
}

// prefix reads a CIDR; of one with faults the result is not valid. Bits behind its length mean nothing, as in
// Kubernetes. Two readers may disagree about others: whether a leading zero makes a number octal, and to
// which family an IPv4-mapped address belongs.
func (v *validator) prefix(at, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		v.fault(at, "%q is not a CIDR (e.g. 10.9.8.0/24 or 2001:db8::/64)", shorten(text))
	case p.Addr().Is4In6() && p.Bits() >= 96:
		v.fault(at, "%q is an IPv4 block in the words of IPv6: write it as IPv4, %s", shorten(text),
			netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked())
	case p.Addr().Is4In6():
		v.fault(at, "%q is IPv4 by its address and IPv6 by its length: write 0.0.0.0/0 or %s", shorten(text), p.Masked())
	default:
		return p.Masked()
	}
	return netip.Prefix{}
}

func (v *validator) policyPort(at string, p *networkingv1.NetworkPolicyPort) registry.PolicyPort {
	out := registry.PolicyPort{Protocol: registry.TCP}
	if p.Protocol != nil {
		out.Protocol = v.protocol(at+".protocol", *p.Protocol)
	}
	switch {
	case p.Port == nil:
		out.EndPort = math.MaxUint16
		if p.EndPort != nil {
			v.fault(at+".endPort", "not allowed without a port")
		}
	case p.Port.Type == intstr.String:
		out.Name = p.Port.StrVal
		v.reasons(at+".port", out.Name, validation.IsValidPortName(out.Name))
		if p.EndPort != nil {
			v.fault(at+".endPort", "not allowed with a port's name: want a number in port")
		}
	default:
		out.Port = v.portNumber(at+".port", p.Port.IntVal)
		out.EndPort = out.Port
		if p.EndPort == nil {
			break
		}
		if out.EndPort = v.portNumber(at+".endPort", *p.EndPort); out.EndPort != 0 && *p.EndPort < p.Port.IntVal {
			v.fault(at+".endPort", "%d is less than port %d", *p.EndPort, p.Port.IntVal)
		}
	}
	return out
}

// portNumber returns 0 for a number that is not a port's.
func (v *validator) portNumber(at string, n int32) uint16 {
	if n == 0 && !v.given(at) {
		v.fault(at, "required: a number from 1 to 65535")
		return 0
	}
	if n < 1 || n > math.MaxUint16 {
		v.fault(at, "%d: want a number from 1 to 65535", n)
		return 0
	}
	return uint16(n)
}

// protocol reads a protocol's name, which Kubernetes writes in capitals only.
func (v *validator) protocol(at string, p corev1.Protocol) registry.Protocol {
	switch p {
	case corev1.ProtocolTCP:
		return registry.TCP
	case corev1.ProtocolUDP:
		return registry.UDP
	case corev1.ProtocolSCTP:
		return registry.SCTP
	}
	v.fault(at, "%q: want TCP, UDP or SCTP", shorten(string(p)))
	return 0
}
