package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-net/sluice/tests/bench/crowd"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// wires measures ADD and DEL as a runtime sees them, the plugin's process from start to end, one after the other and
// several at a time; and beside them VERSION, for which the plugin does nothing but start and end.
func (b *bench) wires(ctx context.Context) (err error) {
	node, err := b.Lab.New(ctx, nstest.Settings{MapScale: 1, Attach: b.Attach})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	for round := -1; round < b.Rounds; round++ {
		for _, atOnce := range []int{1, 4, 8} {
			if err := b.wire(ctx, node, round, atOnce); err != nil {
				return fmt.Errorf("%d at a time: %w", atOnce, err)
			}
		}
	}
	_, err = node.Sluice(ctx, "", "check")
	return err
}

// wire is one round. Namespaces are made before and removed after what is timed.
func (b *bench) wire(ctx context.Context, node *nstest.Node, round, atOnce int) (err error) {
	containers := make([]*nstest.Container, b.times(12, 8))
	for i := range containers {
		if containers[i], err = node.NewContainer(nstest.Spec{Name: fmt.Sprintf("wire%d", i), Empty: true}); err != nil {
			return err
		}
	}
	for _, verb := range []struct {
		name string
		do   func(*nstest.Container) error
	}{
		{"VERSION", func(*nstest.Container) error {
			_, err := node.Plugin(ctx, `{"cniVersion": "1.0.0"}`, "CNI_COMMAND=VERSION")
			return err
		}},
		{"ADD", func(c *nstest.Container) error { return c.Add(ctx) }},
		{"DEL", func(c *nstest.Container) error { return c.Del(ctx) }},
	} {
		before, err := part.UsageOf(node.AgentPID())
		if err != nil {
			return err
		}
		took := make([]time.Duration, len(containers))
		all, err := crowd.InParallel(ctx, atOnce, len(containers), func(_ context.Context, n int) error {
			start := time.Now()
			err := verb.do(containers[n])
			took[n] = time.Since(start)
			return err
		})
		if err != nil {
			return err
		}
		after, err := part.UsageOf(node.AgentPID())
		if err != nil {
			return err
		}
		if round >= 0 {
			b.took.Round(of("kind", "CNI", "step", verb.name, "parallel", atOnce), round, took,
				sheet.Value{Unit: "ops/s", Value: float64(len(took)) / all.Seconds()},
				sheet.Value{Unit: "agent-cpu-ns/op", Value: float64(after.CPU-before.CPU) / float64(len(took))})
		}
	}
	for _, c := range containers {
		err = errors.Join(err, c.Delete(ctx))
	}
	return err
}
