// Package kernel measures programs by themselves: what a packet of each class costs in each.
package kernel

import (
	"context"

	"github.com/sluice-net/sluice/tests/bench/part"
)

// Name is what the part's cases begin with.
const Name = "Kernel"

// Run measures the part.
func Run(ctx context.Context, env part.Env) error {
	return nil
}
