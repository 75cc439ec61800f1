package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
)

// slice reads an EndpointSlice. Its hints are a controller's advice to kube-proxy and are not looked at:
// trafficDistribution of the service is followed directly.
func (v *validator) slice(s *discoveryv1.EndpointSlice) registry.Slice {
	var out registry.Slice
	out.Name = v.metadata(&s.ObjectMeta, true, validation.IsDNS1123Subdomain)
	at := join("metadata.labels", discoveryv1.LabelServiceName)
	if out.Service = s.Labels[discoveryv1.LabelServiceName]; out.Service == "" {
		v.fault(at, "required: the name of the service, in the same namespace")
	} else {
		v.reasons(at, out.Service, validation.IsDNS1035Label(out.Service))
	}
	// Whoever else owns it is not known here, and takes nothing along.
	out.Owned = slices.ContainsFunc(s.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.APIVersion == version(Service) && o.Kind == Service && o.Name == out.Service
	})
	var weight *uint16
	v.annotations(s.Annotations, map[string]func(at, value string){
		registry.WeightLabel: func(at, value string) {
			w, err := registry.ParseWeight(value)
			if err != nil {
				v.fault(at, "%q: want a whole number from 0 to %d", shorten(value), registry.MaxWeight)
			}
			weight = &w
		},
	})
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4:
		out.Family = registry.IPv4
	case discoveryv1.AddressTypeIPv6:
		out.Family = registry.IPv6
	case "":
		v.fault("addressType", "required: IPv4 or IPv6")
	case discoveryv1.AddressTypeFQDN:
		v.fault("addressType", "FQDN is not supported: packets are translated to addresses; want IPv4 or IPv6")
	default:
		v.fault("addressType", "%q: want IPv4 or IPv6", shorten(string(s.AddressType)))
	}
	out.Ports = v.slicePorts(s.Ports)
	if len(s.Endpoints) > registry.MaxSliceEndpoints {
		v.fault("endpoints", "%d endpoints, more than the %d allowed: make several slices", len(s.Endpoints), registry.MaxSliceEndpoints)
		return out
	}
	for i := range s.Endpoints {
		e := v.sliceEndpoint(fmt.Sprintf("endpoints[%d]", i), &s.Endpoints[i], out.Family)
		e.Weight = weight
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}

func (v *validator) sliceEndpoint(at string, e *discoveryv1.Endpoint, family registry.Family) registry.SliceEndpoint {
	out := registry.SliceEndpoint{Ready: e.Conditions.Ready == nil || *e.Conditions.Ready}
	// What an unset condition means is said beside discoveryv1.EndpointConditions.
	out.Serving = out.Ready
	if s := e.Conditions.Serving; s != nil {
		out.Serving = *s
	}
	if t := e.Conditions.Terminating; t != nil {
		out.Terminating = *t
	}
	if e.NodeName != nil {
		v.reasons(at+".nodeName", *e.NodeName, validation.IsDNS1123Subdomain(*e.NodeName))
		out.Node = *e.NodeName
	}
	if e.Zone != nil {
		v.reasons(at+".zone", *e.Zone, validation.IsValidLabelValue(*e.Zone))
		out.Zone = *e.Zone
	}
	if e.Hostname != nil {
		v.reasons(at+".hostname", *e.Hostname, validation.IsDNS1123Label(*e.Hostname))
		out.Hostname = *e.Hostname
	}
	if len(e.DeprecatedTopology) > 0 {
		v.fault(at+".deprecatedTopology", "not supported: want nodeName and zone")
	}
	switch n := len(e.Addresses); {
	case n == 0:
		v.fault(at+".addresses", "required: at least one")
	case n > registry.MaxSliceAddresses:
		v.fault(at+".addresses", "%d addresses, more than the %d allowed", n, registry.MaxSliceAddresses)
		return out
	}
	for i, text := range e.Addresses {
		if a, ok := v.sliceAddress(fmt.Sprintf("%s.addresses[%d]", at, i), text, family); ok {
			out.Addresses = append(out.Addresses, a)
		}
	}
	return out
}

func (v *validator) sliceAddress(at, text string, family registry.Family) (netip.Addr, bool) {
	a, ok := v.address(at, text)
	if ok && family != 0 && registry.FamilyOf(a) != family {
		v.fault(at, "%s is not of the family %s that addressType says", a, family)
		return a, false
	}
	return a, ok
}

func (v *validator) slicePorts(ports []discoveryv1.EndpointPort) []registry.EndpointPort {
	if len(ports) > registry.MaxSlicePorts {
		v.fault("ports", "%d ports, more than the %d allowed", len(ports), registry.MaxSlicePorts)
		return nil
	}
	var list []registry.EndpointPort
	names := map[string]bool{}
	for i := range ports {
		at, p := fmt.Sprintf("ports[%d]", i), &ports[i]
		out := registry.EndpointPort{Protocol: registry.TCP}
		if p.Name != nil && *p.Name != "" {
			out.Name = *p.Name
			v.reasons(at+".name", out.Name, validation.IsDNS1123Label(out.Name))
		}
		if names[out.Name] {
			v.fault(at+".name", "%q is given twice", out.Name)
		}
		names[out.Name] = true
		if p.Protocol != nil {
			out.Protocol = v.protocol(at+".protocol", *p.Protocol)
		}
		switch {
		case p.Port == nil:
			v.fault(at+".port", "required: a slice that leaves it open stands for all ports, which is not supported")
		case len(validation.IsValidPortNum(int(*p.Port))) > 0:
			v.fault(at+".port", "%d: want a number from 1 to 65535", *p.Port)
		default:
			out.Port = uint16(*p.Port)
		}
		if p.AppProtocol != nil {
			v.reasons(at+".appProtocol", *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))
		}
		list = append(list, out)
	}
	return list
}

// ToSlice renders a slice as Kubernetes would show it. Parse reads it back as the same, if all of its
// endpoints have one weight, as those of a slice that Parse has read do.
func ToSlice(s registry.Slice) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: version(EndpointSlice), Kind: EndpointSlice},
		ObjectMeta: metav1.ObjectMeta{
			Name: s.Name.Name, Namespace: s.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: s.Service},
		},
		AddressType: discoveryv1.AddressType(s.Family.String()),
		Endpoints:   []discoveryv1.Endpoint{},
		Ports:       []discoveryv1.EndpointPort{},
	}
	if len(s.Endpoints) > 0 && s.Endpoints[0].Weight != nil {
		out.Annotations = map[string]string{registry.WeightLabel: strconv.Itoa(int(*s.Endpoints[0].Weight))}
	}
	if s.Owned {
		out.OwnerReferences = []metav1.OwnerReference{{APIVersion: version(Service), Kind: Service, Name: s.Service}}
	}
	for _, p := range s.Ports {
		protocol, port := corev1.Protocol(p.Protocol.String()), int32(p.Port)
		out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &protocol, Port: &port})
	}
	for _, e := range s.Endpoints {
		rendered := discoveryv1.Endpoint{
			Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating},
		}
		for _, a := range e.Addresses {
			rendered.Addresses = append(rendered.Addresses, a.String())
		}
		if e.Node != "" {
			rendered.NodeName = &e.Node
		}
		if e.Zone != "" {
			rendered.Zone = &e.Zone
		}
		if e.Hostname != "" {
			rendered.Hostname = &e.Hostname
		}
		out.Endpoints = append(out.Endpoints, rendered)
	}
	return out
}
