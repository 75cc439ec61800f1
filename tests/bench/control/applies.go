package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
)

// policyDocument is a policy of one rule, which is the argument.
const policyDocument = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: bench},
spec: {podSelector: {matchLabels: {app: bench}}, %s}}`

// applies measures from sending a changed policy to the answer that the maps of the node hold it, and
// its containers' flows have been told: registry, compiler and all. The second kind of change makes one
// direction stricter and the other laxer, which takes the loader several steps.
func (b *bench) applies(ctx context.Context) (err error) {
	node, err := b.Lab.New(ctx, nstest.Settings{MapScale: 1, Attach: b.Attach})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	for i := range 2 {
		spec := nstest.Spec{Name: fmt.Sprint("c", i), Labels: map[string]string{"app": "bench"}, Empty: true}
		if _, err := node.AddContainer(ctx, spec); err != nil {
			return err
		}
	}
	kinds := []struct {
		name  string
		rules [2]string
	}{
		{"changed", [2]string{
			"ingress: [{ports: [{port: 8080}, {port: 9000}]}]", "ingress: [{ports: [{port: 8080}, {port: 9001}]}]",
		}},
		{"turned_over", [2]string{
			"policyTypes: [Ingress, Egress], ingress: [{}], egress: []", "policyTypes: [Ingress, Egress], ingress: [], egress: [{}]",
		}},
	}
	for round := -1; round < b.Rounds; round++ {
		for _, kind := range kinds {
			var took []time.Duration
			for i := range b.times(100, 40) {
				start := time.Now()
				results, err := node.API().Apply(ctx, fmt.Appendf(nil, policyDocument, kind.rules[i%2]))
				if err != nil {
					return err
				}
				if !results.Synced {
					return errors.New("apply a policy: " + results.Warning)
				}
				took = append(took, time.Since(start))
			}
			if round >= 0 {
				b.took.Round(of("kind", "policy", "step", kind.name), round, took)
			}
		}
	}
	_, err = node.Sluice(ctx, "", "check")
	return err
}
