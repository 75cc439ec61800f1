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
	var failed, ended []error
	var subjects []*subject
	defer func() {
		closeAll(subjects)
		err = errors.Join(append(ended, err)...)
	}()
	for i, n := range services {
		if err := ctx.Err(); err != nil {
			return err
		}
		start := time.Now()
		w, err := newWorld(n)
		if err != nil {
			return fmt.Errorf("make dataplane of %d services: %w", n, err)
		}
		env.Log("kernel: a dataplane of %d services, made in %.1f s", n, time.Since(start).Seconds())
		defer func() { ended = append(ended, w.close()) }()
		families := 2
		if env.Quick && i > 0 {
			families = 1
		}
		list, err := subjectsOf(&w.plane, families)
		subjects = append(subjects, list...)
		failed = append(failed, err, countAll(env, &w.plane, list))
		if i == 0 {
			failed = append(failed, static(env, fromPod, w.probes[client].FromPod), static(env, toPod, w.probes[client].ToPod))
		}
	}
	failed = append(failed, measure(ctx, env, subjects))
	notes(env.Sheet)
	return errors.Join(failed...)
}

// subjectsOf returns those of a dataplane, of IPv4 or of both families, and beside an error those that can be
// measured.
func subjectsOf(p *plane, families int) (list []*subject, err error) {
	for family := range families {
		s := stage{p, family}
		for _, c := range s.classes() {
			sub, e := newSubject(s, c)
			if e != nil {
				err = errors.Join(err, e)
				continue
			}
			list = append(list, sub)
		}
	}
	return list, err
}

func closeAll(list []*subject) {
	for _, s := range list {
		s.close()
	}
}

// countAll counts what the subjects of a dataplane execute. A program of which the kernel takes no counted copy is
// noted.
func countAll(env part.Env, p *plane, list []*subject) (err error) {
	specs, err := objects()
	if err != nil {
		return err
	}
	for _, name := range []string{fromPod, toPod} {
		t, e := newTwin(p.probes[client].program(name), specs[name], name)
		if e != nil {
			env.Sheet.Note(Name, "What %s executes could not be counted: %v.", name, e)
			continue
		}
		defer t.close()
		for _, s := range list {
			if s.program != name {
				continue
			}
			if e := s.count(t); e != nil {
				err = errors.Join(err, fmt.Errorf("count what %s executes: %w", s.name(s.step()), e))
			}
		}
	}
	return err
}

// measure gives every subject its rounds, all in turn. One that fails gets no more of them.
func measure(ctx context.Context, env part.Env, subjects []*subject) (err error) {
	failed := map[*subject]bool{}
	for round := range env.Rounds {
		for _, s := range subjects {
			if e := ctx.Err(); e != nil {
				return errors.Join(err, e)
			}
			if failed[s] {
				continue
			}
			if e := s.round(env.Sheet, round); e != nil {
				failed[s] = true
				err = errors.Join(err, fmt.Errorf("%s: %w", s.name(s.step()), e))
				env.Sheet.Note(Name, "%s was measured in %d rounds only: %v.", short(s.name(s.step())), round, e)
			}
		}
		env.Log("kernel: round %d of %d", round+1, env.Rounds)
	}
	return err
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
