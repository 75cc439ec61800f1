package kernel

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
	"unsafe"

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
	done    int // packets so far, which the harness counts on
	// executed is what a run does; empty: that could not be counted.
	executed []sheet.Value
}

const (
	sampleTime      = time.Millisecond // about
	samples         = 12               // a round
	coldRuns        = 200              // a round
	calibrationRuns = 500
	// countedRuns are those of which the instructions are counted.
	countedRuns = 100
	// freshRuns is how many new flows there are at a time, at most.
	freshRuns = 2000
)

func newSubject(s stage, c class) (_ *subject, err error) {
	probe := s.on.probes[c.at]
	sub := &subject{stage: s, class: c, prog: probe.program(c.program)}
	var v vary
	if c.fresh != nil {
		v.port = c.packet.l4()
	}
	if c.spread {
		v.addr = addrVary{c.packet.daddr(), uint32(s.on.others()), c.packet.bytes()[c.packet.daddr()]}
	}
	sub.harness, err = newHarness(sub.prog, c.packet.bytes(), s.on.context(c.program, c.at), v)
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
	if s.packet.ethertype != 0 {
		return sheet.Of(Name, "program", s.program, "class", s.class.name, "services", s.on.services, "step", step)
	}
	return sheet.Of(Name, "program", s.program, "class", s.class.name, "protocol", protocol(s.packet.proto),
		"family", [2]string{"IPv4", "IPv6"}[s.family], "services", s.on.services, "step", step)
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
	if !s.spread {
		if err := s.look(); err != nil {
			return err
		}
	}
	best := math.Inf(1)
	for range 3 {
		took, err := s.sample(s.harness, calibrationRuns)
		if err != nil {
			return err
		}
		best = min(best, took)
	}
	s.runs = int(float64(sampleTime) / best)
	if s.fresh != nil {
		s.runs = min(s.runs, freshRuns)
	}
	return nil
}

// look gives the program one packet and tells whether it did with it what it does with the class.
func (s *subject) look() error {
	before, err := s.on.counters()
	if err != nil {
		return err
	}
	frame, out := s.harness.at(s.done+1), make([]byte, len(s.harness.frame))
	t := testRun{repeat: 1, dataOut: unsafe.Pointer(&out[0]), dataSizeOut: uint32(len(out))}
	if _, err := t.do(s.prog, frame, s.harness.ctx); err != nil {
		return err
	}
	if err := s.check(before, t.retval, 1); err != nil {
		return err
	}
	if s.packet.ethertype == 0 {
		src, dst := s.packet.endsOf(frame)
		if s.becomes.src.IsValid() {
			src = netip.AddrPortFrom(s.becomes.src.Addr(), min(src.Port(), 1)*s.becomes.src.Port())
		}
		if s.becomes.dst.IsValid() {
			dst = netip.AddrPortFrom(s.becomes.dst.Addr(), min(dst.Port(), 1)*s.becomes.dst.Port())
		}
		if from, to := s.packet.endsOf(out); from != src || to != dst {
			return fmt.Errorf("the packet became one from %s to %s, want %s and %s", from, to, src, dst)
		}
	}
	return s.forget(1)
}

// prepare makes what the class needs to be there. Flows that are spread have a packet each: the first after a second
// of silence would do more than others.
func (s *subject) prepare() error {
	for _, b := range s.before {
		if _, err := s.on.send(b); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	if !s.spread || s.fresh != nil {
		return nil
	}
	_, err := s.sample(s.harness, s.on.others())
	return err
}

// sample returns how long a run with the harness takes, and fails when the packets did not do what those of
// the class do.
func (s *subject) sample(h *harness, runs int) (ns float64, err error) {
	before, err := s.on.counters()
	if err != nil {
		return 0, err
	}
	if err := h.rewind(s.done); err != nil {
		return 0, err
	}
	ns, verdict, err := h.run(h.full, runs)
	if err != nil {
		return 0, err
	}
	if err := s.check(before, verdict, runs); err != nil {
		return 0, err
	}
	return ns, s.forget(runs)
}

// count finds what a run executes, in a counted copy of the program. Once a second a flow's packet does more than
// others: of three attempts the median has none of those.
func (s *subject) count(t *twin) error {
	h, err := newHarness(t.prog, s.harness.frame, s.harness.ctx, s.harness.vary)
	if err != nil {
		return err
	}
	defer h.close()
	if err := s.prepare(); err != nil {
		return err
	}
	var attempts []Counts
	for range 3 {
		before, err := t.read()
		if err != nil {
			return err
		}
		if _, err := s.sample(h, countedRuns); err != nil {
			return err
		}
		after, err := t.read()
		if err != nil {
			return err
		}
		attempts = append(attempts, after.minus(before))
	}
	slices.SortFunc(attempts, func(a, b Counts) int { return cmp.Compare(a.Instructions, b.Instructions) })
	s.executed = attempts[1].values(countedRuns)
	return nil
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
		if ns, err = s.sample(s.harness, s.runs); err != nil {
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
	before, err := s.on.counters()
	if err != nil {
		return 0, 0, err
	}
	var full, bare []float64
	for i := range coldRuns {
		frame := s.harness.at(s.done + 1 + i)
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
func (s *subject) check(before []uint64, verdict uint32, packets int) error {
	if verdict != s.verdict {
		return fmt.Errorf("the program returned %#x, want %#x", verdict, s.verdict)
	}
	after, err := s.on.counters()
	if err != nil {
		return err
	}
	for i, name := range s.on.names {
		want := 0
		if slices.Contains(s.counts, name) {
			want = packets
		}
		if got := after[i] - before[i]; got != uint64(want) && !slices.Contains(s.may, name) {
			return fmt.Errorf("%d packets added %d to %s, want %d", packets, got, name, want)
		}
	}
	return nil
}

// forget counts so many packets as done, and deletes the flows that they have made.
func (s *subject) forget(runs int) error {
	first := s.done + 1
	s.done += runs
	if s.fresh == nil {
		return nil
	}
	keys := make([]flowKey, 0, 2*runs)
	for i := first; i <= s.done; i++ {
		client := netip.AddrPortFrom(s.fresh.client.Addr(), portAt(i))
		asked, answers := s.fresh.asked, s.fresh.answers
		if s.spread {
			n := i % s.on.others()
			asked = netip.AddrPortFrom(vipOf(n)[s.family], asked.Port())
			answers = netip.AddrPortFrom(backendOf(n)[s.family], answers.Port())
		}
		keys = append(keys, key(client, asked, s.packet.proto), key(answers, client, s.packet.proto))
	}
	if n, err := s.on.flows.BatchDelete(keys, nil); err != nil {
		return fmt.Errorf("forget new flows: %d of %d entries were there: %w", n, len(keys), err)
	}
	return nil
}
