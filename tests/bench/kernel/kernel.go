// Package kernel measures programs by themselves: what a packet of each class costs in each.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Name is what the part's cases begin with.
const Name = "Kernel"

// Run measures the part.
func Run(ctx context.Context, env part.Env) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it dies with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		done <- runIsolated(ctx, env)
	}()
	return <-done
}

// runIsolated measures on a thread of its own, in a network namespace of its own.
func runIsolated(ctx context.Context, env part.Env) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	// A signal ends a test run early, and the runtime sends some to whatever goroutine runs for long.
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	var set unix.CPUSet
	set.Set(env.CPU - 1)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("run on CPU %d: %w", env.CPU, err)
	}
	services := []int{10, 1000}
	if !env.Quick {
		services = append(services, 100_000)
	}
	var subjects []*subject
	for _, n := range services {
		env.Log("kernel: a dataplane of %d services", n)
		w, err := newWorld(n)
		if err != nil {
			return err
		}
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
func measure(ctx context.Context, env part.Env, all []*subject) error {
	for round := range env.Rounds {
		for _, s := range all {
			if err := ctx.Err(); err != nil {
				return err
			}
			ns, n, err := s.warm()
			if err != nil {
				return fmt.Errorf("%s: %w", s.name(), err)
			}
			env.Sheet.Add(s.name(), round, n, sheet.Value{Unit: "ns/op", Value: ns})
		}
	}
	for _, s := range all {
		env.Log("%s: %.1f ns", s.name(), env.Sheet.Median(s.name(), "ns/op").Center)
	}
	return nil
}

// subject is a class that is measured.
type subject struct {
	stage
	class
	harness *harness
}

func newSubject(s stage, c class) (_ *subject, err error) {
	for _, b := range c.before {
		if _, err := s.w.send(b); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", c.name, err)
		}
	}
	sub := &subject{stage: s, class: c}
	probe := s.w.probes[c.at]
	port := 0
	if c.fresh {
		port = c.packet.l4()
	}
	sub.harness, err = newHarness(probe.FromPod, c.packet.bytes(), skb{Ifindex: uint32(probe.Ifindex)}, port)
	return sub, err
}

func (s *subject) close() { s.harness.close() }

// name is the subject's case.
func (s *subject) name() sheet.Case {
	return sheet.Of(Name, "program", "from_pod", "class", s.class.name, "protocol", protocol(s.proto),
		"family", [2]string{"IPv4", "IPv6"}[s.family], "services", s.w.services, "step", "warm")
}

const (
	runs    = 10_000 // a sample: below 2 ms
	samples = 20     // a round
)

// warm measures one round: what a run takes when code and data are in the CPU's caches, and how many runs
// there were.
func (s *subject) warm() (float64, int, error) {
	var full, bare []float64
	before, err := s.w.counters()
	if err != nil {
		return 0, 0, err
	}
	for range samples {
		ns, _, err := s.harness.run(s.harness.bare, runs)
		if err != nil {
			return 0, 0, err
		}
		bare = append(bare, ns)
		ns, verdict, err := s.harness.run(s.harness.full, runs)
		if err != nil {
			return 0, 0, err
		}
		if verdict != s.verdict {
			return 0, 0, fmt.Errorf("the program returned %#x, want %#x", verdict, s.verdict)
		}
		full = append(full, ns)
	}
	after, err := s.w.counters()
	if err != nil {
		return 0, 0, err
	}
	return low(full) - low(bare), runs * samples, s.check(before, after, runs*samples)
}

// check tells whether the packets did what those of the class do.
func (s *subject) check(before, after map[string]uint64, packets uint64) error {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		want := uint64(0)
		if slices.Contains(s.counts, name) {
			want = packets
		}
		if got := after[name] - before[name]; got != want {
			return fmt.Errorf("%d packets added %d to %s, want %d", packets, got, name, want)
		}
	}
	return nil
}

// counters returns what the programs count, by name.
func (w *world) counters() (map[string]uint64, error) {
	list, err := w.loader.Counters()
	if err != nil {
		return nil, err
	}
	counters := map[string]uint64{}
	for _, c := range list {
		counters[c.Name] = c.Value
	}
	return counters, nil
}

// send gives from_pod one packet, and returns what it said.
func (w *world) send(s sent) (uint32, error) {
	p := w.probes[s.from]
	t := testRun{repeat: 1}
	_, err := t.do(p.FromPod, s.packet.bytes(), skb{Ifindex: uint32(p.Ifindex)})
	return t.retval, err
}
