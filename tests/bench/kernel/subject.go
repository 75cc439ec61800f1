package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// subject is a class in a dataplane: what is measured.
type subject struct {
	stage
	class
	prog    *ebpf.Program
	harness *harness
	runs    int // a sample of the harness
}

const (
	sampleTime = time.Millisecond // about
	samples    = 12               // a round
	coldRuns   = 200              // a round
	// freshRuns is how many new flows there are at a time, at most.
	freshRuns = 2000
	freshPort = 10_000 // the source port before that of the first
)

func newSubject(s stage, c class) (_ *subject, err error) {
	probe := s.w.probes[c.at]
	sub := &subject{stage: s, class: c, prog: probe.program(c.program), runs: freshRuns}
	var v vary
	if c.fresh != nil {
		v.port = c.packet.l4()
	}
	if c.spread {
		v.addr = addrVary{c.packet.daddr(), uint32(s.w.others()), c.packet.bytes()[c.packet.daddr()]}
	}
	sub.harness, err = newHarness(sub.prog, c.packet.bytes(), s.w.context(c.program, c.at), v)
	if err != nil {
		return nil, err
	}
	if err := sub.calibrate(); err != nil {
		sub.close()
		return nil, fmt.Errorf("%s: %w", sub.name(sub.step()), err)
	}
	return sub, nil
}

func (s *subject) close() { s.harness.close() }

// name is the subject's case.
func (s *subject) name(step string) sheet.Case {
	return sheet.Of(Name, "program", s.program, "class", s.class.name, "protocol", protocol(s.packet.proto),
		"family", [2]string{"IPv4", "IPv6"}[s.family], "services", s.w.services, "step", step)
}

// step says what is in the CPU's caches when a packet comes: all that it needs, or only what services share.
func (s *subject) step() string {
	if s.spread {
		return "spread"
	}
	return "warm"
}

// calibrate finds how many runs a sample has.
func (s *subject) calibrate() error {
	if err := s.prepare(); err != nil {
		return err
	}
	took, err := s.sample()
	if err != nil {
		return err
	}
	s.runs = max(1, int(float64(sampleTime)/took))
	if s.fresh != nil {
		s.runs = min(s.runs, freshRuns)
	}
	return nil
}

// prepare makes what the class needs to be there.
func (s *subject) prepare() error {
	for _, b := range s.before {
		if _, err := s.w.send(b); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	return nil
}

// sample returns how long a run with the harness takes, and fails when the packets did not do what those of
// the class do.
func (s *subject) sample() (ns float64, err error) {
	before, err := s.w.counters()
	if err != nil {
		return 0, err
	}
	if err := s.harness.rewind(freshPort); err != nil {
		return 0, err
	}
	ns, verdict, err := s.harness.run(s.harness.full, s.runs)
	if err != nil {
		return 0, err
	}
	if err := s.check(before, verdict, s.runs); err != nil {
		return 0, err
	}
	return ns, s.forget(s.runs)
}

// warm measures one round: what a run takes when code and data are in the CPU's caches, and how many runs
// there were.
func (s *subject) warm() (float64, int, error) {
	var full, bare []float64
	if err := s.prepare(); err != nil {
		return 0, 0, err
	}
	for range samples {
		ns, _, err := s.harness.run(s.harness.bare, s.runs)
		if err != nil {
			return 0, 0, err
		}
		bare = append(bare, ns)
		if ns, err = s.sample(); err != nil {
			return 0, 0, err
		}
		full = append(full, ns)
	}
	return low(full) - low(bare), s.runs * samples, nil
}

// cold measures one round of packets that are given to the program one a system call, each beside the same packet
// for a program that does nothing.
func (s *subject) cold() (float64, int, error) {
	if err := s.prepare(); err != nil {
		return 0, 0, err
	}
	before, err := s.w.counters()
	if err != nil {
		return 0, 0, err
	}
	var full, bare []float64
	for i := range coldRuns {
		frame := s.harness.at(freshPort + 1 + i)
		for _, p := range []struct {
			prog *ebpf.Program
			took *[]float64
		}{{s.harness.empty, &bare}, {s.prog, &full}} {
			t := testRun{repeat: 1}
			if _, err := t.do(p.prog, frame, s.harness.ctx); err != nil {
				return 0, 0, err
			}
			if p.prog == s.prog && t.retval != s.verdict {
				return 0, 0, fmt.Errorf("the program returned %#x, want %#x", t.retval, s.verdict)
			}
			*p.took = append(*p.took, float64(t.duration))
		}
	}
	if err := s.check(before, s.verdict, coldRuns); err != nil {
		return 0, 0, err
	}
	return middle(full) - middle(bare), coldRuns, s.forget(coldRuns)
}

// middle is the mean of the middle half: single runs are timed in steps of nanoseconds, which a median would
// show.
func middle(samples []float64) (mean float64) {
	slices.Sort(samples)
	half := samples[len(samples)/4 : len(samples)-len(samples)/4]
	for _, ns := range half {
		mean += ns / float64(len(half))
	}
	return mean
}

// check tells whether the packets since before did what those of the class do.
func (s *subject) check(before map[string]uint64, verdict uint32, packets int) error {
	if verdict != s.verdict {
		return fmt.Errorf("the program returned %#x, want %#x", verdict, s.verdict)
	}
	after, err := s.w.counters()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		want := 0
		if slices.Contains(s.counts, name) {
			want = packets
		}
		if got := after[name] - before[name]; got != uint64(want) && !slices.Contains(s.may, name) {
			return fmt.Errorf("%d packets added %d to %s, want %d", packets, got, name, want)
		}
	}
	return nil
}

// forget deletes the flows that so many runs have made.
func (s *subject) forget(runs int) error {
	if s.fresh == nil {
		return nil
	}
	keys := make([]flowKey, 0, 2*runs)
	for i := freshPort + 1; i <= freshPort+runs; i++ {
		client := netip.AddrPortFrom(s.fresh.client.Addr(), uint16(i))
		asked, answers := s.fresh.asked, s.fresh.answers
		if s.spread {
			n := i % s.w.others()
			asked = netip.AddrPortFrom(vipOf(n)[s.family], asked.Port())
			answers = netip.AddrPortFrom(backendOf(n)[s.family], answers.Port())
		}
		keys = append(keys, key(client, asked, s.packet.proto), key(answers, client, s.packet.proto))
	}
	if n, err := s.w.flows.BatchDelete(keys, nil); err != nil {
		return fmt.Errorf("forget new flows: %d of %d entries were there: %w", n, len(keys), err)
	}
	return nil
}
