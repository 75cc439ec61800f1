package tests

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/tests/nstest"
)

// TestTwoHundredContainers wires and removes many containers at a time, and finds nothing of them
// afterwards, with the agent restarted in between.
func TestTwoHundredContainers(t *testing.T) {
	const many = 200
	n := newNode(t, nstest.Settings{MapScale: 1})
	apply(t, n, "web", web("web", "web"))
	before := wires(t, n)
	containers := make([]*nstest.Container, many)
	var group errgroup.Group
	group.SetLimit(8)
	for i := range containers {
		group.Go(func() (err error) {
			spec := nstest.Spec{Name: fmt.Sprintf("c%d", i), Labels: map[string]string{"app": "web"}, Empty: true}
			containers[i], err = n.AddContainer(t.Context(), spec)
			return err
		})
	}
	err := group.Wait()
	var addrs []string
	for _, c := range containers {
		if c != nil {
			addrs = append(addrs, c.V4.String(), c.V6.String())
		}
	}
	slices.Sort(addrs)
	if unique := len(slices.Compact(addrs)); err == nil && unique != 2*many {
		err = fmt.Errorf("%d containers have %d addresses", many, unique)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := len(wires(t, n)) - len(before); got < 3*many {
		t.Errorf("%d containers are only %d things", many, got)
	}
	check(t, n)
	if err := errors.Join(n.StopAgent(), n.StartAgent(t.Context())); err != nil {
		t.Fatal(err)
	}
	check(t, n)
	for _, c := range containers {
		group.Go(func() error { return c.Delete(t.Context()) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if after := wires(t, n); !slices.Equal(before, after) {
		t.Errorf("wired before: %v, after: %v", before, after)
	}
}
