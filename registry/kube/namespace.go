package kube

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
)

// namespace reads a namespace's labels; its spec says nothing of interest.
func (v *validator) namespace(n *corev1.Namespace) registry.Namespace {
	out := registry.Namespace{Name: v.metadata(&n.ObjectMeta, false, validation.IsDNS1123Label).Name}
	if name, given := n.Labels[registry.NamespaceLabel]; given && name != out.Name {
		v.fault(join("metadata.labels", registry.NamespaceLabel), "%q: want %s, the namespace's name, or nothing", shorten(name), out.Name)
	}
	labels := maps.Clone(n.Labels)
	delete(labels, registry.NamespaceLabel) // every namespace has it
	if len(labels) > 0 {
		out.Labels = labels
	}
	return out
}

// ToNamespace renders a namespace as Kubernetes would show it. Parse reads it back as the same.
func ToNamespace(n registry.Namespace) *corev1.Namespace {
	return &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: version(Namespace), Kind: Namespace},
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: registry.NamespaceLabels(&n)},
	}
}
