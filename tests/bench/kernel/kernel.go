// Package kernel measures programs by themselves: what a packet of each class costs in each.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Name is what the part's cases begin with.
const Name = "Kernel"

// Run measures the part.
func Run(ctx context.Context, env part.Env) error {
	return alone(env.CPU, func() error { return programs(ctx, env) })
}

// alone calls f on a thread of its own: on one CPU, in a new network namespace, undisturbed by signals.
func alone(cpu int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it dies with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		if err := seclude(cpu); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func seclude(cpu int) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	// A signal ends a test run early, and the runtime sends some to whatever goroutine runs for long.
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	var set unix.CPUSet
	set.Set(cpu - 1)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("run on CPU %d: %w", cpu, err)
	}
	return nil
}

// programs measures what tc programs do with packets.
func programs(ctx context.Context, env part.Env) (err error) {
	services := []int{10, 1000}
	if !env.Quick {
		services = append(services, 100_000)
	}
	var subjects []*subject
	for _, n := range services {
		start := time.Now()
		w, err := newWorld(n)
		if err != nil {
			return fmt.Errorf("make dataplane of %d services: %w", n, err)
		}
		env.Log("kernel: a dataplane of %d services, made in %.1f s", n, time.Since(start).Seconds())
		defer func() { err = errors.Join(err, w.close()) }()
		for family := range 2 {
			s := stage{w, family}
			for _, c := range s.classes() {
				sub, err := newSubject(s, c)
				if err != nil {
					return err
				}
				defer sub.close()
				subjects = append(subjects, sub)
			}
		}
	}
	return measure(ctx, env, subjects)
}

// measure gives every subject its rounds, all in turn.
func measure(ctx context.Context, env part.Env, subjects []*subject) error {
	for round := range env.Rounds {
		for _, s := range subjects {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.round(env.Sheet, round); err != nil {
				return fmt.Errorf("%s: %w", s.name(s.step()), err)
			}
		}
		env.Log("kernel: round %d of %d", round+1, env.Rounds)
	}
	for _, s := range subjects {
		env.Log("%s: %.1f ns", s.name(s.step()), env.Sheet.Median(s.name(s.step()), "ns/op").Center)
	}
	return nil
}

// round measures a subject once.
func (s *subject) round(to *sheet.Sheet, round int) error {
	ns, n, err := s.warm()
	if err != nil {
		return err
	}
	to.Add(s.name(s.step()), round, n, sheet.Value{Unit: "ns/op", Value: ns})
	if s.spread {
		return nil
	}
	if ns, n, err = s.cold(); err != nil {
		return err
	}
	to.Add(s.name("cold"), round, n, sheet.Value{Unit: "ns/op", Value: ns})
	return nil
}
