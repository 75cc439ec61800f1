// Package path measures calls from one container to another, by every way that there is, as ratios to the
// kernel's own routing.
package path

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/nstest"
)

// Name is what the part's cases begin with.
const Name = "Path"

// Run measures the part, with ways of other packages besides its own.
func Run(ctx context.Context, env part.Env, others ...Maker) (err error) {
	ways, err := Routed(env.Lab, env.CPU)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(ways)) }()
	// Maps as large as they are by default: their misses in the CPU's caches are part of the cost.
	ours, err := Sluice(ctx, env.Lab, nstest.Settings{MapScale: 1, Attach: env.Attach}, env.CPU)
	if err != nil {
		return err
	}
	ways = append(ways, ours...)
	r := &run{sheet: env.Sheet}
	for _, other := range others {
		w, err := other(ctx, env)
		switch {
		case errors.Is(err, ErrAbsent):
			env.Sheet.Note(Name, "Not measured: %v.", err)
		case err != nil:
			env.Sheet.Note(Name, "Not measured because of an error: %v.", err)
			r.failed = errors.Join(r.failed, fmt.Errorf("make a way: %w", err))
		default:
			ways = append(ways, w)
		}
	}
	r.ways = ways
	for _, p := range plans(env) {
		if err := r.measure(ctx, p); err != nil {
			return errors.Join(r.failed, err)
		}
	}
	Explain(env.Sheet)
	return r.failed
}

// plans are the part's matrix.
func plans(env part.Env) []Plan {
	kinds := Kinds()
	var list []Plan
	sizes := []int{1, 100, 10_000}
	if env.Quick {
		sizes = []int{1, 1000}
	}
	for _, n := range sizes {
		plan := Plan{
			Kinds: kinds, Families: []Family{IPv4, IPv6}, Services: []int{n},
			Rounds: env.Rounds, Batch: BatchTime, Log: env.Log,
		}
		if env.Quick {
			plan.Families = []Family{IPv4}
			six := plan
			six.Families, six.Kinds = []Family{IPv6}, []batch.Kind{batch.TCPRR, batch.UDPRR, batch.UDPConnectReused, batch.UDPConnectNew}
			list = append(list, plan, six)
			continue
		}
		list = append(list, plan)
	}
	return list
}

// Kinds are all that the part measures.
func Kinds() []batch.Kind {
	return []batch.Kind{batch.TCPRR, batch.UDPRR, batch.TCPCRR, batch.TCPConnect, batch.TCPStream, batch.TCPStreams,
		batch.UDPConnectReused, batch.UDPConnectNew}
}
