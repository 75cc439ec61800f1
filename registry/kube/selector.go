package kube

import (
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
)

// selector reads a label selector.
func (v *validator) selector(at string, s *metav1.LabelSelector) registry.Selector {
	var out registry.Selector
	v.labels(at+".matchLabels", s.MatchLabels)
	if len(s.MatchLabels) > 0 {
		out.MatchLabels = maps.Clone(s.MatchLabels)
	}
	for i := range s.MatchExpressions {
		out.Expressions = append(out.Expressions, v.requirement(fmt.Sprintf("%s.matchExpressions[%d]", at, i), &s.MatchExpressions[i]))
	}
	return out
}

func (v *validator) requirement(at string, r *metav1.LabelSelectorRequirement) registry.Requirement {
	out := registry.Requirement{Key: r.Key, Operator: registry.Operator(r.Operator)}
	v.labelKey(at+".key", r.Key)
	switch r.Operator {
	case metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn:
		if len(r.Values) == 0 {
			v.fault(at+".values", "required: operator %s needs at least one", r.Operator)
		}
	case metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			v.fault(at+".values", "not allowed: operator %s takes none", r.Operator)
		}
	case "":
		v.fault(at+".operator", "required: In, NotIn, Exists or DoesNotExist")
	default:
		v.fault(at+".operator", "%q: want In, NotIn, Exists or DoesNotExist", shorten(string(r.Operator)))
	}
	for i, value := range r.Values {
		v.reasons(fmt.Sprintf("%s.values[%d]", at, i), value, validation.IsValidLabelValue(value))
	}
	if len(r.Values) > 0 {
		out.Values = slices.Clone(r.Values)
	}
	return out
}

func (v *validator) labelKey(at, key string) {
	if key == "" {
		v.fault(at, "required")
		return
	}
	v.reasons(at, key, validation.IsQualifiedName(key))
}

// toSelector renders a selector.
func toSelector(s registry.Selector) metav1.LabelSelector {
	out := metav1.LabelSelector{MatchLabels: s.MatchLabels}
	for _, r := range s.Expressions {
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: r.Key, Operator: metav1.LabelSelectorOperator(r.Operator), Values: r.Values,
		})
	}
	return out
}
