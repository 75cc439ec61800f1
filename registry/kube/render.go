package kube

import (
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
			Type:     corev1.ServiceTypeClusterIP,
			Selector: s.Selector,
		},
	}
	spec := &out.Spec
	if s.Headless {
		spec.ClusterIP = corev1.ClusterIPNone
		spec.ClusterIPs = []string{corev1.ClusterIPNone}
	}
	for _, a := range s.VIPs {
		spec.ClusterIPs = append(spec.ClusterIPs, a.String())
		spec.IPFamilies = append(spec.IPFamilies, corev1.IPFamily(registry.FamilyOf(a).String()))
	}
	if len(s.VIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
		policy := corev1.IPFamilyPolicySingleStack
		if len(s.VIPs) > 1 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	for _, p := range s.Ports {
		port := corev1.ServicePort{
			Name: p.Name, Protocol: corev1.Protocol(p.Protocol.String()), Port: int32(p.Port),
			TargetPort: intstr.FromInt32(int32(p.TargetPort)),
		}
		if p.TargetName != "" {
			port.TargetPort = intstr.FromString(p.TargetName)
		}
		spec.Ports = append(spec.Ports, port)
	}
	return out
}
