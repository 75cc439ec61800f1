package kube

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sluice-net/sluice/registry"
)

// ToService renders a service as Kubernetes would show it. Parse reads it back as a request for
// the same service with the same VIPs.
func ToService(s registry.Service) *corev1.Service {
	out := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: s.Name.Name, Namespace: s.Namespace, Labels: s.Labels},
		Spec: corev1.ServiceSpec{
			Type:                     corev1.ServiceType(typeName(s.Type)),
			Selector:                 s.Selector,
			ExternalName:             s.ExternalName,
			ExternalIPs:              texts(s.ExternalIPs),
			PublishNotReadyAddresses: s.PublishNotReady,
		},
	}
	annotate := func(key, value string) {
		if value != "" {
			metav1.SetMetaDataAnnotation(&out.ObjectMeta, key, value)
		}
	}
	annotate(registry.AlgorithmAnnotation, string(s.Algorithm))
	annotate(registry.EurekaAnnotation, string(s.Eureka))
	renderAddresses(&s, &out.Spec)
	renderTraffic(&s, &out.Spec)
	for _, a := range s.LoadBalancerIPs {
		out.Status.LoadBalancer.Ingress = append(out.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
	}
	renderPorts(&s, &out.Spec)
	return out
}

func texts(list []netip.Addr) (out []string) {
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func renderAddresses(s *registry.Service, spec *corev1.ServiceSpec) {
	if s.Type == registry.TypeExternalName {
		return
	}
	families, wanted := s.Families, s.FamilyPolicy
	if s.Headless {
		spec.ClusterIPs = []string{corev1.ClusterIPNone}
	}
	for i, a := range s.VIPs {
		spec.ClusterIPs = append(spec.ClusterIPs, a.String())
		if i >= len(families) {
			families = append(families[:i:i], registry.FamilyOf(a))
		}
	}
	for _, f := range families {
		spec.IPFamilies = append(spec.IPFamilies, corev1.IPFamily(f.String()))
	}
	if len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if len(s.VIPs) > 1 && wanted == registry.SingleStack {
		wanted = registry.RequireDualStack // stored by an agent that did not keep the policy
	}
	policy := corev1.IPFamilyPolicy(wanted.String())
	spec.IPFamilyPolicy = &policy
}

// renderTraffic leaves out what is Kubernetes' default.
func renderTraffic(s *registry.Service, spec *corev1.ServiceSpec) {
	if s.AffinityTimeout > 0 {
		timeout := int32(s.AffinityTimeout)
		spec.SessionAffinity = corev1.ServiceAffinityClientIP
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
	}
	if s.InternalLocal {
		local := corev1.ServiceInternalTrafficPolicyLocal
		spec.InternalTrafficPolicy = &local
	}
	if s.ExternalLocal {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if s.Distribution != registry.DistributeEvenly {
		distribution := string(s.Distribution)
		spec.TrafficDistribution = &distribution
	}
}

func renderPorts(s *registry.Service, spec *corev1.ServiceSpec) {
	without := slices.ContainsFunc(s.Ports, func(p registry.ServicePort) bool { return p.NodePort == 0 })
	if s.Type == registry.TypeLoadBalancer && without {
		spec.AllocateLoadBalancerNodePorts = new(bool)
	}
	for _, p := range s.Ports {
		port := corev1.ServicePort{
			Name: p.Name, Protocol: corev1.Protocol(p.Protocol.String()), Port: int32(p.Port),
			TargetPort: intstr.FromInt32(int32(p.TargetPort)), NodePort: int32(p.NodePort),
		}
		if p.TargetName != "" {
			port.TargetPort = intstr.FromString(p.TargetName)
		}
		spec.Ports = append(spec.Ports, port)
	}
}
