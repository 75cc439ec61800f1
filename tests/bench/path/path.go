// Package path measures calls from one container to another, by every way that there is, as ratios to the
// kernel's own routing.
package path

import (
	"context"

	"github.com/sluice-net/sluice/tests/bench/part"
)

// Name is what the part's cases begin with.
const Name = "Path"

// Run measures the part.
func Run(ctx context.Context, env part.Env) error {
	return nil
}
