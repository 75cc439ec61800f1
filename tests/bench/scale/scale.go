// Package scale measures what grows with services, backends, policies, containers and flows, and what does not.
package scale

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-net/sluice/tests/bench/part"
)

// Name is what the part's cases begin with.
const Name = "Scale"

// axes are what there is more and more of.
func axes() []axis {
	return []axis{
		{
			grow: "services", sizes: []int{10, 100, 1000, 10_000, 100_000}, changes: []string{"random", "maglev"},
			packets: []string{"established", "new_random", "new_maglev", "new_few_in_turn", "new_all_in_turn"},
		},
		{
			grow: "backends", sizes: []int{10, 100, 1000, 10_000, 100_000}, changes: []string{"random"},
			packets: []string{"established", "new_random"},
		},
		{
			grow: "policies", sizes: []int{10, 100, 1000, 10_000}, changes: []string{"policy"},
			packets: []string{"established", "new_local", "new_all_in_turn"},
		},
		{
			grow: "containers", sizes: []int{10, 100, 1000, 10_000}, changes: []string{"container"},
			packets: []string{"established", "new_local", "new_all_in_turn"},
		},
		{
			grow: "flows", sizes: []int{1000, 10_000, 100_000, 1_000_000},
			packets: []string{"established", "new_random"},
		},
	}
}

// Run measures the part. Its process is started again for each dataplane: see Main.
func Run(ctx context.Context, env part.Env) error {
	var errs []error
	measure := func(name string, run func(context.Context, part.Env) error) {
		if err := context.Cause(ctx); err != nil {
			return
		}
		if err := run(ctx, env); err != nil {
			env.Sheet.Note(Name, "What grows with %s could not be measured whole: %v", name, err)
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	for _, a := range axes() {
		measure(a.grow, a.run)
	}
	measure("Maglev tables", maglevTables)
	measure("agents", agents)
	measure("instances", heartbeat)
	env.Sheet.Note(Name, "The containers that there are more and more of are registered and stand in the maps as any others, but share one veth.")
	return errors.Join(append(errs, context.Cause(ctx))...)
}
