package registry

import (
	"encoding/json"
	"maps"
	"testing"
)

func TestPolicySelects(t *testing.T) {
	e := Endpoint{
		Name: Name{Namespace: "shop", Name: "web-0"}, Network: "blue",
		Labels: map[string]string{"app": "web", NetworkLabel: "forged"},
	}
	given := maps.Clone(e.Labels)
	named := func(s Selector) *Selector { return &s }
	for _, c := range []struct {
		name   string
		policy Policy
		want   bool
	}{
		{"all of its namespace", Policy{PolicyID: PolicyID{Name: Name{"shop", "p"}}}, true},
		{"another namespace's", Policy{PolicyID: PolicyID{Name: Name{"x", "p"}}}, false},
		{"by label", Policy{PolicyID: PolicyID{Name: Name{"shop", "p"}},
			Subject: PodSelector{Pods: Selector{MatchLabels: map[string]string{"app": "web"}}}}, true},
		{"by another label", Policy{PolicyID: PolicyID{Name: Name{"shop", "p"}},
			Subject: PodSelector{Pods: Selector{MatchLabels: map[string]string{"app": "db"}}}}, false},
		{"by network", Policy{PolicyID: PolicyID{Name: Name{"shop", "p"}},
			Subject: PodSelector{Pods: Selector{MatchLabels: map[string]string{NetworkLabel: "blue"}}}}, true},
		{"by a forged network", Policy{PolicyID: PolicyID{Name: Name{"shop", "p"}},
			Subject: PodSelector{Pods: Selector{MatchLabels: map[string]string{NetworkLabel: "forged"}}}}, false},
		{"cluster-wide", Policy{PolicyID: PolicyID{Tier: TierAdmin, Name: Name{Name: "p"}}}, true},
		{"cluster-wide, by the name of the namespace", Policy{PolicyID: PolicyID{Tier: TierAdmin, Name: Name{Name: "p"}},
			Subject: PodSelector{Namespaces: named(Selector{MatchLabels: map[string]string{NamespaceLabel: "shop"}})}}, true},
		{"cluster-wide, by what the namespace has not", Policy{PolicyID: PolicyID{Tier: TierBaseline, Name: Name{Name: "default"}},
			Subject: PodSelector{Namespaces: named(Selector{Expressions: []Requirement{{Key: "env", Operator: Exists}}})}}, false},
		{"cluster-wide, by what the namespace has", Policy{PolicyID: PolicyID{Tier: TierBaseline, Name: Name{Name: "default"}},
			Subject: PodSelector{Namespaces: named(Selector{Expressions: []Requirement{{Key: "tier", Operator: NotIn, Values: []string{"back"}}}})}}, true},
	} {
		labels := NamespaceLabels(&Namespace{Name: "shop", Labels: map[string]string{"tier": "front"}})
		if got := c.policy.Selects(&e, labels); got != c.want {
			t.Errorf("%s: selected %t, want %t", c.name, got, c.want)
		}
	}
	if !maps.Equal(e.Labels, given) {
		t.Errorf("the endpoint's labels became %v", e.Labels)
	}
}

func TestRequirement(t *testing.T) {
	labels := map[string]string{"a": "1", "empty": ""}
	for _, c := range []struct {
		r    Requirement
		want bool
	}{
		{Requirement{"a", In, []string{"0", "1"}}, true}, {Requirement{"a", In, []string{"0"}}, false},
		{Requirement{"b", In, []string{""}}, false}, {Requirement{"empty", In, []string{""}}, true},
		{Requirement{"a", NotIn, []string{"1"}}, false}, {Requirement{"b", NotIn, []string{"1"}}, true},
		{Requirement{"empty", Exists, nil}, true}, {Requirement{"b", Exists, nil}, false},
		{Requirement{"empty", DoesNotExist, nil}, false}, {Requirement{"b", DoesNotExist, nil}, true},
		{Requirement{"a", "Like", []string{"1"}}, false},
	} {
		if got := c.r.Matches(labels); got != c.want {
			t.Errorf("%+v matches %v: %t, want %t", c.r, labels, got, c.want)
		}
	}
}

// TestIsolationWords: what is written as a word is read back, and other words are refused.
func TestIsolationWords(t *testing.T) {
	for _, tier := range []Tier{TierNamespaced, TierAdmin, TierBaseline} {
		for _, d := range []Direction{Ingress, Egress} {
			p := Policy{PolicyID: PolicyID{Tier: tier, Name: Name{Name: "p"}}, Isolates: []Direction{d}}
			b, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			var again Policy
			if err := json.Unmarshal(b, &again); err != nil || again.PolicyID != p.PolicyID || again.Isolates[0] != d {
				t.Errorf("%s is read as %+v, %v", b, again, err)
			}
		}
	}
	for _, text := range []string{`{"kind":"Policy"}`, `{"kind":""}`, `{"isolates":["both"]}`} {
		if err := json.Unmarshal([]byte(text), new(Policy)); err == nil {
			t.Errorf("%s was read", text)
		}
	}
}

func TestRequires(t *testing.T) {
	for _, c := range []struct {
		s    Selector
		want bool
	}{
		{Selector{}, false},
		{Selector{MatchLabels: map[string]string{"a": ""}}, true},
		{Selector{MatchLabels: map[string]string{"b": "x"}}, false},
		{Selector{Expressions: []Requirement{{"a", In, []string{"x"}}}}, true},
		{Selector{Expressions: []Requirement{{"b", In, []string{"x"}}}}, false},
		{Selector{Expressions: []Requirement{{"a", NotIn, []string{"x"}}, {"a", Exists, nil}, {"a", DoesNotExist, nil}}}, false},
		{Selector{Expressions: []Requirement{{"a", NotIn, []string{"x"}}, {"a", In, []string{"y"}}}}, true},
	} {
		if got := c.s.Requires("a"); got != c.want {
			t.Errorf("%+v requires a: %t, want %t", c.s, got, c.want)
		}
	}
}
