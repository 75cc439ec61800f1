package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// The two sides, as they end the values of cases that are measured on both.
const (
	oldSide = "_old"
	newSide = "_new"
)

// sides in the order of a round: the other one is first in the next, so that none always follows the same.
func sides(round int) []string {
	if round%2 == 1 {
		return []string{newSide, oldSide}
	}
	return []string{oldSide, newSide}
}

// measurement is one run.
type measurement struct {
	options
	sheet *sheet.Sheet
	// lab makes the nodes of both sides, each with the side's binaries: names of nodes are unique within a lab.
	lab      *nstest.Lab
	binaries map[string]nstest.Binaries
}

// all measures everything; what fails does not keep the rest from being measured.
func (m *measurement) all(ctx context.Context) (err error) {
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"paths", m.paths}, {"programs and CNI", m.nodes}} {
		if e := part.run(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("measure %s: %w", part.name, e))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return err
}

// sided is a way of one side.
type sided struct {
	path.Way
	name string
}

func (s sided) Name() string     { return s.name }
func (s sided) Unwrap() path.Way { return s.Way }

// kinds are those of calls that programs have a part in, and what socket hooks add to a connect().
func kinds() []batch.Kind {
	return []batch.Kind{batch.TCPRR, batch.TCPCRR, batch.UDPRR, batch.UDPConnectReused, batch.UDPConnectNew}
}

// paths measures calls from container to container. Direct routing, with no Sluice, is measured as both sides: no change
// of it is one.
func (m *measurement) paths(ctx context.Context) (err error) {
	var ways []path.Way
	defer func() {
		for _, w := range ways {
			err = errors.Join(err, w.Close())
		}
	}()
	m.lab.Binaries = m.binaries[newSide]
	routed, err := path.Routed(m.lab, cpu)
	if err != nil {
		return err
	}
	for _, w := range routed {
		switch w.Name() {
		case path.Direct:
			ways = append(ways, sided{w, path.Direct + oldSide})
		case path.Direct + sheet.Again:
			ways = append(ways, sided{w, path.Direct + newSide})
		default:
			defer func() { err = errors.Join(err, w.Close()) }() // the floor is of no side
		}
	}
	for _, side := range sides(0) {
		m.lab.Binaries = m.binaries[side]
		ours, err := path.Sluice(ctx, m.lab, nstest.Settings{MapScale: 1, Attach: m.attach}, cpu)
		if err != nil {
			return m.blame(side, err)
		}
		for _, w := range ours {
			ways = append(ways, sided{w, w.Name() + side})
		}
	}
	return path.Measure(ctx, m.sheet, path.Plan{
		Kinds:    kinds(),
		Families: []path.Family{path.IPv4, path.IPv6}, Services: []int{m.services},
		Rounds: m.rounds, Batch: path.BatchTime, Log: m.log,
	}, ways...)
}

// blame says which side failed: an older agent may not know a key of the configuration that nodes are given.
func (m *measurement) blame(side string, err error) error {
	if side == newSide {
		return fmt.Errorf("the working tree: %w", err)
	}
	return fmt.Errorf("%s, which may be too old for the configuration of today's test nodes: %w", m.ref, err)
}

// add enters one round of one side.
func (m *measurement) add(c sheet.Case, side string, round, n int, values ...sheet.Value) {
	m.sheet.Add(c.With(sideKey(c), c.Get(sideKey(c))+side), round, n, values...)
}

// cni measures ADD and DEL of a container that has no process, a plugin's process from start to end.
func (m *measurement) cni(ctx context.Context, n *nstest.Node, side string, round int) error {
	const times = 5
	took := map[string]time.Duration{}
	for range times {
		c, err := n.NewContainer(nstest.Spec{Name: "guest", Empty: true})
		if err != nil {
			return err
		}
		for _, verb := range []struct {
			name string
			call func(context.Context) error
		}{{"ADD", c.Add}, {"DEL", c.Del}} {
			start := time.Now()
			if err := verb.call(ctx); err != nil {
				return errors.Join(err, c.Delete(context.WithoutCancel(ctx)))
			}
			took[verb.name] += time.Since(start)
		}
		if err := c.Delete(ctx); err != nil {
			return err
		}
	}
	for _, verb := range []string{"ADD", "DEL"} {
		m.add(sheet.Of("CNI", "step", verb), side, round, times,
			sheet.Value{Unit: "ns/op", Value: float64(took[verb].Nanoseconds()) / times})
	}
	return nil
}
