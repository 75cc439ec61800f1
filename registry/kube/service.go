package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
)

const (
	defaultNamespace = "default"
	maxPorts         = 1024
)

// validator turns a decoded object into one of the model, and notes what it cannot honour.
type validator struct {
	object Object
	faults Errors
}

func (v *validator) fault(field, format string, args ...any) {
	v.faults = append(v.faults, Error{
		Document: v.object.Document, Line: v.object.Line(field),
		Field: join2(v.object.path, field), Reason: fmt.Sprintf(format, args...),
	})
}

// reasons adds what a validation function of Kubernetes says.
func (v *validator) reasons(field, value string, reasons []string) {
	if len(reasons) > 0 {
		v.fault(field, "%q: %s", shorten(value), Explain(reasons))
	}
}

// Explain joins what a validation function of Kubernetes says, and leaves out the regular
// expressions: the examples beside them are clearer.
func Explain(reasons []string) string {
	list := make([]string, len(reasons))
	for i, r := range reasons {
		if text, _, cut := strings.Cut(r, ", regex used"); cut {
			r = strings.ReplaceAll(text, "',  or", "', or") + ")"
		}
		list[i] = r
	}
	return strings.Join(list, "; ")
}

func (v *validator) service(s *corev1.Service) registry.ServiceRequest {
	var req registry.ServiceRequest
	req.Name = v.metadata(&s.ObjectMeta, true, validation.IsDNS1035Label)
	req.Labels = maps.Clone(s.Labels)
	v.unsupported(&s.Spec)
	if len(s.Spec.Selector) == 0 {
		v.fault("spec.selector", "required: a service without a selector would need endpoints written by hand, which is not supported")
	}
	v.labels("spec.selector", s.Spec.Selector)
	req.Selector = maps.Clone(s.Spec.Selector)
	v.addresses(&s.Spec, &req)
	v.ports(&s.Spec, &req)
	return req
}

// metadata reads an object's name and checks what else is said about the object.
func (v *validator) metadata(m *metav1.ObjectMeta, namespaced bool, validName func(string) []string) registry.Name {
	n := registry.Name{Namespace: m.Namespace, Name: m.Name}
	switch {
	case !namespaced && n.Namespace != "":
		v.fault("metadata.namespace", "not allowed: objects of this kind are the whole cluster's")
	case namespaced && n.Namespace == "":
		n.Namespace = defaultNamespace
	case namespaced:
		v.reasons("metadata.namespace", n.Namespace, validation.IsDNS1123Label(n.Namespace))
	}
	switch {
	case m.GenerateName != "":
		v.fault("metadata.generateName", "not supported: give metadata.name")
	case m.Name == "":
		v.fault("metadata.name", "required")
	default:
		v.reasons("metadata.name", m.Name, validName(m.Name))
	}
	if len(m.Finalizers) > 0 {
		v.fault("metadata.finalizers", "not supported")
	}
	v.labels("metadata.labels", m.Labels)
	return n
}

func (v *validator) labels(field string, set map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(set)) {
		at := join(field, k)
		v.reasons(at, k, validation.IsQualifiedName(k))
		v.reasons(at, set[k], validation.IsValidLabelValue(set[k]))
	}
}

// unsupported refuses what Kubernetes knows and this system does not do.
func (v *validator) unsupported(s *corev1.ServiceSpec) {
	refuse := func(set bool, field, format string, args ...any) {
		if set {
			v.fault(field, format, args...)
		}
	}
	switch s.Type {
	case "", corev1.ServiceTypeClusterIP:
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName:
		v.fault("spec.type", "%s is not supported: want ClusterIP", s.Type)
	default:
		v.fault("spec.type", "%q: want ClusterIP", shorten(string(s.Type)))
	}
	const no = "not supported"
	refuse(len(s.ExternalIPs) > 0, "spec.externalIPs", no)
	refuse(s.ExternalName != "", "spec.externalName", no)
	refuse(s.LoadBalancerIP != "", "spec.loadBalancerIP", no)
	refuse(len(s.LoadBalancerSourceRanges) > 0, "spec.loadBalancerSourceRanges", no)
	refuse(s.LoadBalancerClass != nil, "spec.loadBalancerClass", no)
	refuse(s.AllocateLoadBalancerNodePorts != nil, "spec.allocateLoadBalancerNodePorts", no)
	refuse(s.ExternalTrafficPolicy != "", "spec.externalTrafficPolicy", no)
	refuse(s.HealthCheckNodePort != 0, "spec.healthCheckNodePort", no)
	refuse(s.TrafficDistribution != nil, "spec.trafficDistribution", no)
	refuse(s.SessionAffinityConfig != nil, "spec.sessionAffinityConfig", no)
	refuse(s.SessionAffinity != "" && s.SessionAffinity != corev1.ServiceAffinityNone,
		"spec.sessionAffinity", "%s is not supported: want None", shorten(string(s.SessionAffinity)))
	if p := s.InternalTrafficPolicy; p != nil {
		refuse(*p != corev1.ServiceInternalTrafficPolicyCluster,
			"spec.internalTrafficPolicy", "%s is not supported: want Cluster", shorten(string(*p)))
	}
}

// addresses reads clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy.
func (v *validator) addresses(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	wanted, field := s.ClusterIPs, "spec.clusterIPs"
	if len(wanted) == 0 && s.ClusterIP != "" {
		wanted = []string{s.ClusterIP}
		field = "spec.clusterIP"
	} else if len(wanted) > 0 && s.ClusterIP != "" && s.ClusterIP != wanted[0] {
		v.fault("spec.clusterIPs[0]", "%q differs from spec.clusterIP %q", shorten(wanted[0]), shorten(s.ClusterIP))
	}
	v.families(s, req)
	if len(wanted) == 1 && wanted[0] == corev1.ClusterIPNone {
		req.Headless = true
		return
	}
	if len(wanted) > 2 {
		v.fault(field, "%d addresses: want at most one of each IP family", len(wanted))
		return
	}
	for i, text := range wanted {
		at := field
		if field == "spec.clusterIPs" {
			at = fmt.Sprintf("%s[%d]", field, i)
		}
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil || a.Zone() != "" || a.Is4In6():
			v.fault(at, "%q is not an IP address", shorten(text))
			continue
		case i < len(req.Families) && req.Families[i] != registry.FamilyOf(a):
			v.fault(at, "%s is not of the family %s that spec.ipFamilies[%d] asks for", a, req.Families[i], i)
		case i > 0 && len(req.VIPs) > 0 && registry.FamilyOf(req.VIPs[0]) == registry.FamilyOf(a):
			v.fault(at, "%s and %s are of one IP family", req.VIPs[0], a)
		}
		req.VIPs = append(req.VIPs, a)
	}
	v.policy(s, req)
}

func (v *validator) families(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	for i, f := range s.IPFamilies {
		at := fmt.Sprintf("spec.ipFamilies[%d]", i)
		var family registry.Family
		switch f {
		case corev1.IPv4Protocol:
			family = registry.IPv4
		case corev1.IPv6Protocol:
			family = registry.IPv6
		default:
			v.fault(at, "%q: want IPv4 or IPv6", shorten(string(f)))
			continue
		}
		if slices.Contains(req.Families, family) {
			v.fault(at, "%s is given twice", family)
			continue
		}
		req.Families = append(req.Families, family)
	}
}

// policy reads ipFamilyPolicy. Two addresses or families without a policy mean both, as in
// Kubernetes.
func (v *validator) policy(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	two := len(req.VIPs) > 1 || len(req.Families) > 1
	if s.IPFamilyPolicy == nil {
		if two {
			req.Policy = registry.RequireDualStack
		}
		return
	}
	switch *s.IPFamilyPolicy {
	case corev1.IPFamilyPolicySingleStack:
		if two {
			v.fault("spec.ipFamilyPolicy", "SingleStack allows one IP family; want PreferDualStack or RequireDualStack for two")
		}
	case corev1.IPFamilyPolicyPreferDualStack:
		req.Policy = registry.PreferDualStack
	case corev1.IPFamilyPolicyRequireDualStack:
		req.Policy = registry.RequireDualStack
	default:
		v.fault("spec.ipFamilyPolicy", "%q: want SingleStack, PreferDualStack or RequireDualStack", shorten(string(*s.IPFamilyPolicy)))
	}
}

func (v *validator) ports(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	switch {
	case len(s.Ports) == 0 && !req.Headless:
		v.fault("spec.ports", "required")
	case len(s.Ports) > maxPorts:
		v.fault("spec.ports", "%d ports, more than the %d allowed", len(s.Ports), maxPorts)
		return
	}
	type pair struct {
		port     int32
		protocol registry.Protocol
	}
	names, pairs := map[string]bool{}, map[pair]bool{}
	for i := range s.Ports {
		at := fmt.Sprintf("spec.ports[%d]", i)
		p := &s.Ports[i]
		out := v.port(at, p)
		switch {
		case p.Name == "" && len(s.Ports) > 1:
			v.fault(at+".name", "required when there are several ports")
		case p.Name != "" && names[p.Name]:
			v.fault(at+".name", "%q is given twice", p.Name)
		}
		key := pair{p.Port, out.Protocol}
		if pairs[key] {
			v.fault(at+".port", "port %d/%s is given twice", p.Port, out.Protocol)
		}
		names[p.Name], pairs[key] = true, true
		req.Ports = append(req.Ports, out)
	}
}

func (v *validator) port(at string, p *corev1.ServicePort) registry.ServicePort {
	out := registry.ServicePort{Name: p.Name, Port: uint16(p.Port), TargetPort: uint16(p.Port)}
	if p.Name != "" {
		v.reasons(at+".name", p.Name, validation.IsDNS1123Label(p.Name))
	}
	if len(validation.IsValidPortNum(int(p.Port))) > 0 {
		v.fault(at+".port", "%d: want a number from 1 to 65535", p.Port)
	}
	switch p.Protocol {
	case "", corev1.ProtocolTCP:
		out.Protocol = registry.TCP
	case corev1.ProtocolUDP:
		out.Protocol = registry.UDP
	case corev1.ProtocolSCTP:
		out.Protocol = registry.SCTP
	default:
		v.fault(at+".protocol", "%q: want TCP, UDP or SCTP", shorten(string(p.Protocol)))
	}
	switch t := p.TargetPort; {
	case t.Type == intstr.String && t.StrVal != "":
		v.reasons(at+".targetPort", t.StrVal, validation.IsValidPortName(t.StrVal))
		out.TargetPort, out.TargetName = 0, t.StrVal
	case t.Type == intstr.Int && t.IntVal != 0:
		if len(validation.IsValidPortNum(int(t.IntVal))) > 0 {
			v.fault(at+".targetPort", "%d: want a number from 1 to 65535, or a name", t.IntVal)
		}
		out.TargetPort = uint16(t.IntVal)
	}
	if p.NodePort != 0 {
		v.fault(at+".nodePort", "not supported")
	}
	return out
}
