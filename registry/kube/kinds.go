package kube

import (
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha1"

	"github.com/sluice-net/sluice/registry"
)

// The kinds of objects that Parse reads.
const (
	Service                    = "Service"
	EndpointSlice              = "EndpointSlice"
	Namespace                  = "Namespace"
	NetworkPolicy              = "NetworkPolicy"
	AdminNetworkPolicy         = "AdminNetworkPolicy"
	BaselineAdminNetworkPolicy = "BaselineAdminNetworkPolicy"
)

func kinds() []string {
	return []string{Service, EndpointSlice, Namespace, NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy}
}

// ID names an object. Those of the whole cluster have no namespace.
type ID struct {
	Kind string
	registry.Name
}

// String returns the kind in lower case and then [NAMESPACE/]NAME.
func (id ID) String() string { return strings.ToLower(id.Kind) + " " + id.Name.String() }

// Policy returns the same as a policy's id, if it is one.
func (id ID) Policy() (registry.PolicyID, bool) {
	var tier registry.Tier
	if err := tier.UnmarshalText([]byte(id.Kind)); err != nil {
		return registry.PolicyID{}, false
	}
	return registry.PolicyID{Tier: tier, Name: id.Name}, true
}

// Namespaced reports whether objects of a kind lie in a namespace.
func Namespaced(kind string) bool {
	return kind == Service || kind == EndpointSlice || kind == NetworkPolicy
}

// version returns the apiVersion of a kind, "" of an unknown one.
func version(kind string) string {
	switch kind {
	case Service, Namespace:
		return "v1"
	case EndpointSlice:
		return discoveryv1.SchemeGroupVersion.String()
	case NetworkPolicy:
		return networkingv1.SchemeGroupVersion.String()
	case AdminNetworkPolicy, BaselineAdminNetworkPolicy:
		return v1alpha1.GroupVersion.String()
	}
	return ""
}

// empty returns the Go type of a kind.
func empty(kind string) any {
	switch kind {
	case Service:
		return new(corev1.Service)
	case EndpointSlice:
		return new(discoveryv1.EndpointSlice)
	case Namespace:
		return new(corev1.Namespace)
	case NetworkPolicy:
		return new(networkingv1.NetworkPolicy)
	case AdminNetworkPolicy:
		return new(v1alpha1.AdminNetworkPolicy)
	}
	return new(v1alpha1.BaselineAdminNetworkPolicy)
}

// known returns the kind of the object if it is one of ours; otherwise faults say why not.
func (r *raw) known() (string, bool) {
	n := target(r.node)
	if n.Kind != yaml.MappingNode {
		r.fault(r.node, r.path, "want an object, got %s", describe(n))
		return "", false
	}
	kindNode, versionNode := lookup(n, "kind"), lookup(n, "apiVersion")
	kind, got, want := text(kindNode), text(versionNode), version(text(kindNode))
	field, at := "apiVersion", versionNode
	if want == "" {
		field, at = "kind", kindNode
	}
	if at.Line == 0 {
		at = n
	}
	field = join2(r.path, field)
	list := strings.Join(kinds(), ", ")
	switch {
	case kind == "":
		r.fault(at, field, "required: one of %s", list)
	case want == "":
		r.fault(at, field, "%s is not supported: want one of %s", shorten(kind), list)
	case got == "":
		r.fault(at, field, "required: want %s", want)
	case got != want:
		r.fault(at, field, "%s is not supported: want %s", shorten(got), want)
	default:
		return kind, true
	}
	return "", false
}

// read fills the object from what was decoded.
func (v *validator) read(decoded any, o *Object) {
	switch d := decoded.(type) {
	case *corev1.Service:
		req := v.service(d)
		o.Service = &req
	case *discoveryv1.EndpointSlice:
		s := v.slice(d)
		o.Slice = &s
	case *corev1.Namespace:
		n := v.namespace(d)
		o.Namespace = &n
	case *networkingv1.NetworkPolicy:
		p := v.networkPolicy(d)
		o.Policy = &p
	case *v1alpha1.AdminNetworkPolicy:
		p := v.adminPolicy(d)
		o.Policy = &p
	case *v1alpha1.BaselineAdminNetworkPolicy:
		p := v.baselinePolicy(d)
		o.Policy = &p
	}
}
