package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
)

// wires measures ADD and DEL as a runtime sees them: the plugin's process from start to end.
func wires(ctx context.Context, node *nstest.Node, rounds int) error {
	var adds, dels []time.Duration
	for i := range rounds * 4 {
		c, err := node.NewContainer(nstest.Spec{Name: fmt.Sprintf("wire%d", i), Empty: true})
		if err != nil {
			return err
		}
		start := time.Now()
		if err := c.Add(ctx); err != nil {
			return err
		}
		adds = append(adds, time.Since(start))
		start = time.Now()
		if err := c.Del(ctx); err != nil {
			return err
		}
		dels = append(dels, time.Since(start))
		if err := c.Delete(ctx); err != nil {
			return err
		}
	}
	millis := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	fmt.Printf("\nCNI verbs, p50: ADD %.1f ms, DEL %.1f ms\n", median(adds, millis), median(dels, millis))
	return nil
}
