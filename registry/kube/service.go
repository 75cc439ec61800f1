package kube

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
)

const defaultAffinity = uint32(corev1.DefaultClientIPServiceAffinitySeconds)

func (v *validator) service(s *corev1.Service) registry.ServiceRequest {
	var req registry.ServiceRequest
	req.Name = v.metadata(&s.ObjectMeta, true, validation.IsDNS1035Label)
	if len(s.Labels) > 0 {
		req.Labels = maps.Clone(s.Labels)
	}
	v.serviceAnnotations(s.Annotations, &req)
	v.labels("spec.selector", s.Spec.Selector)
	if len(s.Spec.Selector) > 0 {
		req.Selector = maps.Clone(s.Spec.Selector)
	}
	req.PublishNotReady = s.Spec.PublishNotReadyAddresses
	v.serviceType(&s.Spec, &req)
	v.addresses(&s.Spec, &req)
	v.external(s, &req)
	v.ports(&s.Spec, &req)
	v.affinity(&s.Spec, &req)
	v.traffic(&s.Spec, &req)
	v.unsupported(&s.Spec)
	return req
}

func (v *validator) serviceAnnotations(set map[string]string, req *registry.ServiceRequest) {
	topology := func(at, value string) {
		if !strings.EqualFold(value, "disabled") && value != "" {
			v.fault(at, "%q is not supported: want spec.trafficDistribution: %s", shorten(value), registry.PreferSameZone)
		}
	}
	v.annotations(set, map[string]func(at, value string){
		registry.AlgorithmAnnotation: func(at, value string) {
			a := registry.Algorithm(value)
			if !slices.Contains(registry.Algorithms(), a) {
				v.fault(at, "%q: want %s", shorten(value), or(registry.Algorithms()))
				return
			}
			req.Algorithm = a
		},
		registry.EurekaAnnotation: func(at, value string) {
			switch view := registry.EurekaView(value); view {
			case "instances":
			case registry.EurekaVIP:
				req.Eureka = view
			default:
				v.fault(at, "%q: want instances or %s", shorten(value), registry.EurekaVIP)
			}
		},
		corev1.AnnotationTopologyMode:                 topology,
		corev1.DeprecatedAnnotationTopologyAwareHints: topology,
	})
}

// or lists words: a, b or c.
func or[T ~string](words []T) string {
	var text strings.Builder
	for i, w := range words {
		switch {
		case i > 0 && i == len(words)-1:
			text.WriteString(" or ")
		case i > 0:
			text.WriteString(", ")
		}
		text.WriteString(string(w))
	}
	return text.String()
}

// serviceType reads type and externalName.
func (v *validator) serviceType(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	switch s.Type {
	case "", corev1.ServiceTypeClusterIP:
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName:
		req.Type = registry.ServiceType(s.Type)
	default:
		v.fault("spec.type", "%q: want ClusterIP, NodePort, LoadBalancer or ExternalName", shorten(string(s.Type)))
	}
	const field = "spec.externalName"
	// A dot at the end says that the name is complete, as in DNS.
	switch name := strings.TrimSuffix(s.ExternalName, "."); {
	case req.Type != registry.TypeExternalName && s.ExternalName != "":
		v.fault(field, "not allowed for type %s: only for ExternalName", typeName(req.Type))
	case req.Type == registry.TypeExternalName && name == "":
		v.fault(field, "required for type ExternalName: the DNS name that the service stands for")
	case req.Type == registry.TypeExternalName:
		v.reasons(field, s.ExternalName, validation.IsDNS1123Subdomain(name))
		req.ExternalName = s.ExternalName
	}
}

// typeName is a service type's name as Kubernetes shows it.
func typeName(t registry.ServiceType) string {
	if t == registry.TypeClusterIP {
		return string(corev1.ServiceTypeClusterIP)
	}
	return string(t)
}

// hasNodePorts reports whether services of a type can be reached at the nodes' own addresses.
func hasNodePorts(t registry.ServiceType) bool {
	return t == registry.TypeNodePort || t == registry.TypeLoadBalancer
}

// affinity reads sessionAffinity and sessionAffinityConfig.
func (v *validator) affinity(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	config := s.SessionAffinityConfig
	switch s.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
		if config != nil {
			v.fault("spec.sessionAffinityConfig", "not allowed when spec.sessionAffinity is None: want ClientIP there")
		}
		return
	case corev1.ServiceAffinityClientIP:
	default:
		v.fault("spec.sessionAffinity", "%q: want None or ClientIP", shorten(string(s.SessionAffinity)))
		return
	}
	req.AffinityTimeout = defaultAffinity
	switch {
	case config == nil:
	case config.ClientIP == nil:
		v.fault("spec.sessionAffinityConfig.clientIP", "required")
	case config.ClientIP.TimeoutSeconds == nil:
	case *config.ClientIP.TimeoutSeconds < 1 || *config.ClientIP.TimeoutSeconds > registry.MaxAffinityTimeout:
		v.fault("spec.sessionAffinityConfig.clientIP.timeoutSeconds", "%d: want 1 to %d seconds", *config.ClientIP.TimeoutSeconds, registry.MaxAffinityTimeout)
	default:
		req.AffinityTimeout = uint32(*config.ClientIP.TimeoutSeconds)
	}
}

// traffic reads internalTrafficPolicy, externalTrafficPolicy and trafficDistribution.
func (v *validator) traffic(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	if p := s.InternalTrafficPolicy; p != nil {
		switch *p {
		case corev1.ServiceInternalTrafficPolicyCluster:
		case corev1.ServiceInternalTrafficPolicyLocal:
			req.InternalLocal = true
		default:
			v.fault("spec.internalTrafficPolicy", "%q: want Cluster or Local", shorten(string(*p)))
		}
	}
	switch p := s.ExternalTrafficPolicy; {
	case p == "":
	case p != corev1.ServiceExternalTrafficPolicyCluster && p != corev1.ServiceExternalTrafficPolicyLocal:
		v.fault("spec.externalTrafficPolicy", "%q: want Cluster or Local", shorten(string(p)))
	case !hasNodePorts(req.Type) && len(req.ExternalIPs) == 0:
		v.fault("spec.externalTrafficPolicy", "not allowed: nothing outside of the cluster reaches a service of type %s without externalIPs", typeName(req.Type))
	default:
		req.ExternalLocal = p == corev1.ServiceExternalTrafficPolicyLocal
	}
	if d := s.TrafficDistribution; d != nil {
		switch *d {
		case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
			req.Distribution = registry.PreferSameZone
		case corev1.ServiceTrafficDistributionPreferSameNode:
			req.Distribution = registry.PreferSameNode
		default:
			v.fault("spec.trafficDistribution", "%q: want PreferSameZone, PreferSameNode or PreferClose", shorten(*d))
		}
	}
}

// unsupported refuses what Kubernetes knows and this system does not do.
func (v *validator) unsupported(s *corev1.ServiceSpec) {
	if len(s.LoadBalancerSourceRanges) > 0 {
		v.fault("spec.loadBalancerSourceRanges", "not supported: it is about clients outside of the cluster; a NetworkPolicy says whom containers take traffic from")
	}
	if s.LoadBalancerClass != nil {
		v.fault("spec.loadBalancerClass", "not supported: no one here gives out addresses of load balancers; name them in spec.loadBalancerIP or status.loadBalancer.ingress")
	}
	if s.HealthCheckNodePort != 0 {
		v.fault("spec.healthCheckNodePort", "not supported: the node answers no health checks of load balancers")
	}
}
