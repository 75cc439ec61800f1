package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
)

const (
	defaultNamespace = "default"
	ownDomain        = "sluice.net/" // of annotations that nobody else defines
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

// annotations reads those that are ours. Of the others nobody here knows what they ask for, and they are left
// alone; one that only looks like ours is a mistake.
func (v *validator) annotations(set map[string]string, known map[string]func(at, value string)) {
	var ours []string
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if strings.HasPrefix(key, ownDomain) {
			ours = append(ours, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		at := join("metadata.annotations", key)
		if read, ok := known[key]; ok {
			read(at, set[key])
		} else if strings.HasPrefix(key, ownDomain) {
			v.fault(at, "unknown annotation (did you mean %s?)", or(ours))
		}
	}
}
