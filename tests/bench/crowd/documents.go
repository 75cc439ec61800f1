package crowd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
)

// together is how many services a request brings.
const together = 500

// Apply brings the services from one number up to another in documents, as an operator does: a Service and an
// EndpointSlice with so many addresses, those of the Instances of the same numbers. It is faster than to register each
// instance. It tells how long it took.
func Apply(ctx context.Context, node *nstest.Node, from, to, backends int) (time.Duration, error) {
	start := time.Now()
	for ; from < to; from += together {
		results, err := node.API().Apply(ctx, []byte(documents(from, min(from+together, to), backends)))
		if err == nil && !results.Synced {
			err = errors.New(results.Warning)
		}
		if err != nil {
			return 0, fmt.Errorf("apply services: %w", err)
		}
	}
	return time.Since(start), nil
}

func documents(from, to, backends int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, `---
{apiVersion: v1, kind: Service, metadata: {name: s%d}, spec: {ports: [{name: http, port: %d, protocol: TCP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s%[1]d, labels: {kubernetes.io/service-name: s%[1]d}},
  addressType: IPv4, ports: [{name: http, port: %[2]d, protocol: TCP}], endpoints: [`, i, Port)
		for j := range backends {
			fmt.Fprintf(&b, "{addresses: [%s]}, ", Instance(i, j).Addresses[0])
		}
		b.WriteString("]}\n")
	}
	return b.String()
}
