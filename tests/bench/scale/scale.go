// Package scale measures what grows with services, backends, policies, containers and flows, and what does not.
package scale

import (
	"context"

	"github.com/sluice-net/sluice/tests/bench/part"
)

// Name is what the part's cases begin with.
const Name = "Scale"

// Run measures the part.
func Run(ctx context.Context, env part.Env) error {
	return nil
}
