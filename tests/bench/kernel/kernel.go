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
	err := alone(env.CPU, func() error { return programs(ctx, env) })
	if ctx.Err() != nil {
		return err
	}
	if e := inSitu(ctx, env); e != nil {
		err = errors.Join(err, fmt.Errorf("measure traffic: %w", e))
	}
	return err
}

// alone calls f on a thread of its own: on one CPU, in a new network namespace, undisturbed by signals.
func alone(cpu int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it dies with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make namespace: %w", err)
			return
		}
		done <- undisturbed(cpu, f)
	}()
	return <-done
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
		families := 2
		if env.Quick && n != services[0] {
			families = 1
		}
		list, err := subjectsOf(&w.plane, families)
		defer closeAll(list)
		if err == nil {
			err = countAll(env, &w.plane, list)
		}
		if err != nil {
			return err
		}
		subjects = append(subjects, list...)
	}
	for _, name := range []string{fromPod, toPod} {
		if err := static(env, name, subjects[0].on.probes[client].program(name)); err != nil {
			return err
		}
	}
	if err := measure(ctx, env, subjects); err != nil {
		return err
	}
	notes(env.Sheet)
	return nil
}

// subjectsOf returns those of a dataplane, of IPv4 or of both families, also beside an error.
func subjectsOf(p *plane, families int) (list []*subject, err error) {
	for family := range families {
		s := stage{p, family}
		for _, c := range s.classes() {
			sub, err := newSubject(s, c)
			if err != nil {
				return list, err
			}
			list = append(list, sub)
		}
	}
	return list, nil
}

func closeAll(list []*subject) {
	for _, s := range list {
		s.close()
	}
}

// countAll counts what the subjects of a dataplane execute. A program of which the kernel takes no counted copy is
// noted.
func countAll(env part.Env, p *plane, list []*subject) error {
	specs, err := objects()
	if err != nil {
		return err
	}
	for _, name := range []string{fromPod, toPod} {
		t, err := newTwin(p.probes[client].program(name), specs[name], name)
		if err != nil {
			env.Sheet.Note(Name, "What %s executes could not be counted: %v.", name, err)
			continue
		}
		defer t.close()
		for _, s := range list {
			if s.program != name {
				continue
			}
			if err := s.count(t); err != nil {
				return fmt.Errorf("count what %s executes: %w", s.name(s.step()), err)
			}
		}
	}
	return nil
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
	return nil
}

// round measures a subject once.
func (s *subject) round(to *sheet.Sheet, round int) error {
	ns, n, err := s.warm()
	if err != nil {
		return err
	}
	to.Add(s.name(s.step()), round, n, append([]sheet.Value{{Unit: "ns/op", Value: ns}}, s.executed...)...)
	if s.spread {
		return nil
	}
	if ns, n, err = s.cold(); err != nil {
		return err
	}
	to.Add(s.name("cold"), round, n, sheet.Value{Unit: "ns/op", Value: ns})
	return nil
}
