// Package control measures how soon the kernel knows what the registry is told, and how fast containers, names
// and agents come and go.
package control

import (
	"context"

	"github.com/sluice-net/sluice/tests/bench/part"
)

// Name is what the part's cases begin with.
const Name = "Control"

// Run measures the part.
func Run(ctx context.Context, env part.Env) error {
	return nil
}
