// Package control measures how soon the kernel knows what the registry is told, and how fast containers, names
// and agents come and go.
package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Name is what the part's cases begin with.
const Name = "Control"

// bench is where the steps of the part enter what they measure.
type bench struct {
	part.Env
	took *part.Latencies
}

// of makes a case of this part.
func of(keyValues ...any) sheet.Case { return sheet.Of(Name, keyValues...) }

// Run measures the part, in steps that need nothing of each other: one that fails does not keep the others back.
func Run(ctx context.Context, env part.Env) (err error) {
	b := &bench{Env: env, took: part.NewLatencies(env.Sheet)}
	for _, step := range []struct {
		name string
		full bool // left out when it has to be quick
		run  func(context.Context) error
	}{
		{"writes to maps on one node", false, b.nodeSpread},
		{"writes to maps on two nodes with a cluster of three", true, b.clusterSpread},
		{"policies applied", false, b.applies},
		{"containers wired", false, b.wires},
		{"health checks", false, b.health},
		{"names asked", false, b.names},
		{"Eureka", false, b.eureka},
		{"agents started", false, b.starts},
	} {
		if step.full && env.Quick {
			env.Sheet.Note(Name, "Not measured in a quick run: %s.", step.name)
			continue
		}
		if ctx.Err() != nil {
			break
		}
		start := time.Now()
		env.Log("control: %s", step.name)
		if e := step.run(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", step.name, e))
			env.Sheet.Note(Name, "Not all measured: %s, because of an error.", step.name)
		}
		env.Log("control: %s took %.1f s", step.name, time.Since(start).Seconds())
	}
	b.took.Done()
	judge(env.Sheet)
	explain(env.Sheet)
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// few are the services of the smaller case, many those of the larger.
const few = 10

func (b *bench) many() int {
	if b.Quick {
		return 1000
	}
	return 10_000
}

// times chooses how often something is done in a round.
func (b *bench) times(full, quick int) int {
	if b.Quick {
		return quick
	}
	return full
}
