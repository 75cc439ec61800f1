package kube

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-net/sluice/registry"
)

// addresses reads clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy.
func (v *validator) addresses(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	wanted, field := s.ClusterIPs, "spec.clusterIPs"
	if len(wanted) == 0 && s.ClusterIP != "" {
		wanted = []string{s.ClusterIP}
		field = "spec.clusterIP"
	} else if len(wanted) > 0 && s.ClusterIP != "" && s.ClusterIP != wanted[0] {
		v.fault("spec.clusterIPs[0]", "%q differs from spec.clusterIP %q", shorten(wanted[0]), shorten(s.ClusterIP))
	}
	if req.Type == registry.TypeExternalName {
		v.noAddresses(s, field, len(wanted) > 0)
		return
	}
	v.families(s, req)
	if len(wanted) == 1 && wanted[0] == corev1.ClusterIPNone {
		if hasNodePorts(req.Type) {
			v.fault(field, "None is not allowed for type %s", req.Type)
		}
		req.Headless = true
		v.policy(s, req)
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
	if len(req.VIPs) >= len(req.Families) {
		req.Families = nil // the addresses say the same
	}
}

// noAddresses refuses what a name in DNS has no use for.
func (v *validator) noAddresses(s *corev1.ServiceSpec, field string, wanted bool) {
	for _, f := range []struct {
		set   bool
		field string
	}{{wanted, field}, {len(s.IPFamilies) > 0, "spec.ipFamilies"}, {s.IPFamilyPolicy != nil, "spec.ipFamilyPolicy"}} {
		if f.set {
			v.fault(f.field, "not allowed for type ExternalName: it has no address")
		}
	}
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

// policy reads ipFamilyPolicy. Two addresses or families without a policy mean both, as in Kubernetes, and so does
// a headless service without a selector, whose endpoints may be of either.
func (v *validator) policy(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	two := len(req.VIPs) > 1 || len(req.Families) > 1
	if s.IPFamilyPolicy == nil {
		if two || req.Headless && len(req.Selector) == 0 {
			req.FamilyPolicy = registry.RequireDualStack
		}
		return
	}
	switch *s.IPFamilyPolicy {
	case corev1.IPFamilyPolicySingleStack:
		if two {
			v.fault("spec.ipFamilyPolicy", "SingleStack allows one IP family; want PreferDualStack or RequireDualStack for two")
		}
	case corev1.IPFamilyPolicyPreferDualStack:
		req.FamilyPolicy = registry.PreferDualStack
	case corev1.IPFamilyPolicyRequireDualStack:
		req.FamilyPolicy = registry.RequireDualStack
	default:
		v.fault("spec.ipFamilyPolicy", "%q: want SingleStack, PreferDualStack or RequireDualStack", shorten(string(*s.IPFamilyPolicy)))
	}
}

// external reads the addresses at which the service is reached beside its VIPs: externalIPs, loadBalancerIP, and
// those that the status tells of.
func (v *validator) external(s *corev1.Service, req *registry.ServiceRequest) {
	seen := map[netip.Addr]string{}
	for _, a := range req.VIPs {
		seen[a] = "spec.clusterIPs"
	}
	spec := &s.Spec
	if len(spec.ExternalIPs) > 0 && (req.Headless || req.Type == registry.TypeExternalName) {
		what := "a headless service"
		if !req.Headless {
			what = "type ExternalName"
		}
		v.fault("spec.externalIPs", "not allowed for %s: nothing of it is translated", what)
		return
	}
	for i, text := range spec.ExternalIPs {
		req.ExternalIPs = v.externalIP(req.ExternalIPs, seen, fmt.Sprintf("spec.externalIPs[%d]", i), text)
	}
	if req.Type != registry.TypeLoadBalancer {
		if spec.LoadBalancerIP != "" {
			v.fault("spec.loadBalancerIP", "not allowed for type %s: only for LoadBalancer", typeName(req.Type))
		}
		if spec.AllocateLoadBalancerNodePorts != nil {
			v.fault("spec.allocateLoadBalancerNodePorts", "not allowed for type %s: only for LoadBalancer", typeName(req.Type))
		}
		return
	}
	req.NoNodePorts = spec.AllocateLoadBalancerNodePorts != nil && !*spec.AllocateLoadBalancerNodePorts
	if spec.LoadBalancerIP != "" {
		req.LoadBalancerIPs = v.externalIP(nil, seen, "spec.loadBalancerIP", spec.LoadBalancerIP)
	}
	for i, ingress := range s.Status.LoadBalancer.Ingress {
		// One that has only a host name, or wants to see the traffic itself (ipMode: Proxy), is no address of ours.
		proxy := ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy
		if ingress.IP != "" && !proxy && ingress.IP != spec.LoadBalancerIP {
			req.LoadBalancerIPs = v.externalIP(req.LoadBalancerIPs, seen, fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), ingress.IP)
		}
	}
	if n := len(req.ExternalIPs) + len(req.LoadBalancerIPs); n > registry.MaxExternal {
		v.fault("spec", "%d external addresses and addresses of load balancers, more than the %d allowed", n, registry.MaxExternal)
	}
}

// externalIP adds an address that others may have other ports of.
func (v *validator) externalIP(list []netip.Addr, seen map[netip.Addr]string, at, text string) []netip.Addr {
	a, ok := v.address(at, text)
	if !ok {
		return list
	}
	if before, twice := seen[a]; twice {
		v.fault(at, "%s is given twice, first in %s", a, before)
		return list
	}
	seen[a] = at
	return append(list, a)
}

// address reads an address that packets can be sent to from anywhere.
func (v *validator) address(at, text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || a.Zone() != "":
		v.fault(at, "%q is not an IP address", shorten(text))
	case a.Is4In6():
		v.fault(at, "%s: write an IPv4 address as %s", a, a.Unmap())
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		v.fault(at, "%s: an unspecified, loopback, link-local, multicast or broadcast address cannot be used here", a)
	default:
		return a, true
	}
	return a, false
}
