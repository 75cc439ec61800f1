package policy

import (
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/kube"
)

// TestTwoSides changes both sides of a flow at once, and looks at it after every single write.
func TestTwoSides(t *testing.T) {
	const (
		closed = `{podSelector: {matchLabels: {pod: a}}}`
		open   = `{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}`
		joins  = `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: sluice.net/network, operator: In, values: [net, other]}]}}]}]}`

		egressClosed = `{podSelector: {matchLabels: {pod: o}}, policyTypes: [Egress]}`
		egressOpen   = `{podSelector: {matchLabels: {pod: o}}, policyTypes: [Egress], egress: [{}]}`
		egressJoins  = `{podSelector: {matchLabels: {pod: o}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchExpressions: [{key: sluice.net/network, operator: In, values: [net, other]}]}}]}]}`
		egressOfB    = `{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress], egress: [{}]}`
		egressNoB    = `{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress]}`
	)
	tests := map[string]struct {
		from          string
		before, after [2]string // of ingress and egress
		pass          bool
	}{
		"the closed side is the other one":          {"x/b", [2]string{closed, egressOfB}, [2]string{open, egressNoB}, false},
		"and the other way round":                   {"x/b", [2]string{open, egressNoB}, [2]string{closed, egressOfB}, false},
		"the joining side is the other one":         {"x/o", [2]string{joins, egressOpen}, [2]string{open, egressJoins}, true},
		"and back":                                  {"x/o", [2]string{open, egressJoins}, [2]string{joins, egressOpen}, true},
		"one side joins while the other one closes": {"x/o", [2]string{closed, egressJoins}, [2]string{open, egressOpen}, false},
		"one side opens while the other one parts":  {"x/o", [2]string{closed, egressJoins}, [2]string{joins, egressClosed}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e, m := New(thisNode), newMirror(t)
			p := probe{
				subject: specAddresses(t, test.from)[0], peer: specAddresses(t, "x/a")[0],
				direction: registry.Egress, proto: 6, port: 80,
			}
			for _, d := range e.Apply(append(specCluster(), twoSides(t, test.before)...), true) {
				m.apply(d)
			}
			m.look = func() {
				if got := m.passes(p); got != test.pass {
					t.Errorf("passes meanwhile: %v", got)
				}
			}
			m.look()
			for _, d := range e.Apply(twoSides(t, test.after), false) {
				m.apply(d)
			}
			m.agree(e)
		})
	}
}

// twoSides makes changes that write a policy for ingress and one for egress.
func twoSides(t *testing.T, specs [2]string) []registry.Change {
	t.Helper()
	var list []registry.Change
	for i, name := range []string{"ingress", "egress"} {
		objects, err := kube.Parse([]byte(strings.Replace(np("x", specs[i]), "NAME", name, 1)))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, registry.Change{Policy: objects[0].Policy})
	}
	return list
}
