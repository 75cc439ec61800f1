package kube

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/network-policy-api/apis/v1alpha1"

	"github.com/sluice-net/sluice/registry"
)

// PolicyObject is a policy of any kind as Kubernetes would show it.
type PolicyObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              any `json:"spec"`
	Status            any `json:"status,omitempty"` // Parse reads past it
}

// ToPolicy renders a policy, without a status. Parse reads it back as the same.
func ToPolicy(p *registry.Policy) *PolicyObject {
	kind := p.Tier.String()
	out := &PolicyObject{
		TypeMeta:   metav1.TypeMeta{APIVersion: version(kind), Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Name: p.Name.Name, Namespace: p.Namespace, Labels: p.Labels},
	}
	if p.Audit {
		out.Annotations = map[string]string{registry.AuditAnnotation: "true"}
	}
	switch p.Tier {
	case registry.TierAdmin:
		out.Spec = toAdminSpec(p)
	case registry.TierBaseline:
		out.Spec = toBaselineSpec(p)
	default:
		out.Spec = toPolicySpec(p)
	}
	return out
}

func toAdminSpec(p *registry.Policy) v1alpha1.AdminNetworkPolicySpec {
	spec := v1alpha1.AdminNetworkPolicySpec{Priority: p.Priority, Subject: toSubject(p.Subject)}
	for _, r := range p.Ingress {
		spec.Ingress = append(spec.Ingress, v1alpha1.AdminNetworkPolicyIngressRule{
			Name: r.Name, Action: v1alpha1.AdminNetworkPolicyRuleAction(r.Action), From: toAdminPeers(r.Peers), Ports: toAdminPorts(r.Ports),
		})
	}
	for _, r := range p.Egress {
		spec.Egress = append(spec.Egress, v1alpha1.AdminNetworkPolicyEgressRule{
			Name: r.Name, Action: v1alpha1.AdminNetworkPolicyRuleAction(r.Action), To: toAdminPeers(r.Peers), Ports: toAdminPorts(r.Ports),
		})
	}
	return spec
}

func toBaselineSpec(p *registry.Policy) v1alpha1.BaselineAdminNetworkPolicySpec {
	spec := v1alpha1.BaselineAdminNetworkPolicySpec{Subject: toSubject(p.Subject)}
	for _, r := range p.Ingress {
		spec.Ingress = append(spec.Ingress, v1alpha1.BaselineAdminNetworkPolicyIngressRule{
			Name: r.Name, Action: v1alpha1.BaselineAdminNetworkPolicyRuleAction(r.Action), From: toAdminPeers(r.Peers), Ports: toAdminPorts(r.Ports),
		})
	}
	for _, r := range p.Egress {
		spec.Egress = append(spec.Egress, v1alpha1.BaselineAdminNetworkPolicyEgressRule{
			Name: r.Name, Action: v1alpha1.BaselineAdminNetworkPolicyRuleAction(r.Action), To: toAdminPeers(r.Peers), Ports: toAdminPorts(r.Ports),
		})
	}
	return spec
}

func toPolicySpec(p *registry.Policy) networkingv1.NetworkPolicySpec {
	spec := networkingv1.NetworkPolicySpec{PodSelector: toSelector(p.Subject.Pods)}
	for _, d := range p.Isolates {
		t := networkingv1.PolicyTypeIngress
		if d == registry.Egress {
			t = networkingv1.PolicyTypeEgress
		}
		spec.PolicyTypes = append(spec.PolicyTypes, t)
	}
	for _, r := range p.Ingress {
		spec.Ingress = append(spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: toPeers(r.Peers), Ports: toPorts(r.Ports)})
	}
	for _, r := range p.Egress {
		spec.Egress = append(spec.Egress, networkingv1.NetworkPolicyEgressRule{To: toPeers(r.Peers), Ports: toPorts(r.Ports)})
	}
	return spec
}

func toPeers(peers []registry.Peer) []networkingv1.NetworkPolicyPeer {
	var list []networkingv1.NetworkPolicyPeer
	for _, p := range peers {
		var out networkingv1.NetworkPolicyPeer
		if p.Block != nil {
			out.IPBlock = &networkingv1.IPBlock{CIDR: p.Block.CIDR.String()}
			for _, e := range p.Block.Except {
				out.IPBlock.Except = append(out.IPBlock.Except, e.String())
			}
			list = append(list, out)
			continue
		}
		if p.Pods.Namespaces != nil {
			s := toSelector(*p.Pods.Namespaces)
			out.NamespaceSelector = &s
		}
		if s := toSelector(p.Pods.Pods); out.NamespaceSelector == nil || !all(p.Pods.Pods) {
			out.PodSelector = &s
		}
		list = append(list, out)
	}
	return list
}

// all reports whether a selector chooses everything.
func all(s registry.Selector) bool { return len(s.MatchLabels)+len(s.Expressions) == 0 }

func toPorts(ports []registry.PolicyPort) []networkingv1.NetworkPolicyPort {
	var list []networkingv1.NetworkPolicyPort
	for _, p := range ports {
		protocol := corev1.Protocol(p.Protocol.String())
		out := networkingv1.NetworkPolicyPort{Protocol: &protocol}
		var port intstr.IntOrString
		switch {
		case p.Name != "":
			port = intstr.FromString(p.Name)
			out.Port = &port
		case p.Port != 0:
			port = intstr.FromInt32(int32(p.Port))
			out.Port = &port
			if p.EndPort != p.Port {
				end := int32(p.EndPort)
				out.EndPort = &end
			}
		}
		list = append(list, out)
	}
	return list
}

func toSubject(s registry.PodSelector) v1alpha1.AdminNetworkPolicySubject {
	var namespaces metav1.LabelSelector
	if s.Namespaces != nil {
		namespaces = toSelector(*s.Namespaces)
	}
	if all(s.Pods) {
		return v1alpha1.AdminNetworkPolicySubject{Namespaces: &namespaces}
	}
	return v1alpha1.AdminNetworkPolicySubject{Pods: &v1alpha1.NamespacedPodSubject{
		NamespaceSelector: namespaces, PodSelector: toSelector(s.Pods),
	}}
}

func toAdminPeers(peers []registry.Peer) []v1alpha1.AdminNetworkPolicyPeer {
	var list []v1alpha1.AdminNetworkPolicyPeer
	for _, p := range peers {
		namespaces := v1alpha1.NamespacedPeer{SameLabels: p.Pods.SameLabels, NotSameLabels: p.Pods.NotSameLabels}
		if p.Pods.Namespaces != nil {
			s := toSelector(*p.Pods.Namespaces)
			namespaces.NamespaceSelector = &s
		}
		if all(p.Pods.Pods) {
			list = append(list, v1alpha1.AdminNetworkPolicyPeer{Namespaces: &namespaces})
			continue
		}
		list = append(list, v1alpha1.AdminNetworkPolicyPeer{Pods: &v1alpha1.NamespacedPodPeer{
			Namespaces: namespaces, PodSelector: toSelector(p.Pods.Pods),
		}})
	}
	return list
}

func toAdminPorts(ports []registry.PolicyPort) *[]v1alpha1.AdminNetworkPolicyPort {
	if len(ports) == 0 {
		return nil
	}
	var list []v1alpha1.AdminNetworkPolicyPort
	for _, p := range ports {
		protocol := corev1.Protocol(p.Protocol.String())
		switch {
		case p.Name != "":
			list = append(list, v1alpha1.AdminNetworkPolicyPort{NamedPort: &p.Name})
		case p.Port == p.EndPort:
			list = append(list, v1alpha1.AdminNetworkPolicyPort{PortNumber: &v1alpha1.Port{Protocol: protocol, Port: int32(p.Port)}})
		default:
			list = append(list, v1alpha1.AdminNetworkPolicyPort{PortRange: &v1alpha1.PortRange{
				Protocol: protocol, Start: int32(p.Port), End: int32(p.EndPort),
			}})
		}
	}
	return &list
}
