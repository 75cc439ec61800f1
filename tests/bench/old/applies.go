package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
)

// applies measures from sending a changed policy to the answer that the maps of the node hold it, and
// its containers' flows have been told: registry, compiler and all. The second kind of change makes one
// direction stricter and the other laxer, which takes the loader several steps.
func applies(ctx context.Context, node *nstest.Node, rounds int) error {
	fmt.Println()
	for _, kind := range []struct {
		name  string
		rules [2]string
	}{
		{"a changed policy", [2]string{
			"ingress: [{ports: [{port: 8080}, {port: 9000}]}]", "ingress: [{ports: [{port: 8080}, {port: 9001}]}]",
		}},
		{"one that turns over", [2]string{
			"policyTypes: [Ingress, Egress], ingress: [{}], egress: []", "policyTypes: [Ingress, Egress], ingress: [], egress: [{}]",
		}},
	} {
		var took []time.Duration
		for i := range rounds * 40 {
			document := fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: bench},
spec: {podSelector: {matchLabels: {app: bench}}, %s}}`, kind.rules[i%2])
			start := time.Now()
			results, err := node.API().Apply(ctx, []byte(document))
			if err != nil {
				return err
			}
			if !results.Synced {
				return errors.New("apply a policy: " + results.Warning)
			}
			took = append(took, time.Since(start))
		}
		fmt.Printf("%s, from apply to the maps: p50 %.1f ms, p99 %.1f ms\n", kind.name,
			quantile(took, 0.5).Seconds()*1e3, quantile(took, 0.99).Seconds()*1e3)
	}
	_, err := node.Sluice(ctx, "", "delete", "networkpolicy", "bench")
	return err
}
