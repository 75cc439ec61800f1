package kernel

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// establishedAim is what from_pod may take for a packet of an established flow, in ns.
const establishedAim = 80

// few is the number of services with which others are compared.
const few = "10"

// notes explain the figures of the programs that were given packets.
func notes(s *sheet.Sheet) {
	s.Note(Name, "A run is a packet: ns/op is what the program takes beyond an empty one that is called in the same way. Of the %d "+
		"samples of a round the second shortest counts, for what interrupts one only adds to it. "+
		"Warm, the packet comes again and again, and all it needs is in the CPU's caches; spread, each packet goes to another "+
		"of the services; cold, each comes by a system call of its own.", samples)
	s.Note(Name, "Instructions and look-ups are counted exactly, by a copy of each program in which every basic block has "+
		"a counter: instructions as compiled, before the JIT; look-ups in arrays apart, of which it makes loads.")
	counters(s)
	aim(s)
	bends(s)
}

// counters says whether the CPU's own could be used beside.
func counters(s *sheet.Sheet) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS, Size: unix.PERF_ATTR_SIZE_VER0,
	}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		s.Note(Name, "The CPU's counters (instructions, cycles, cache misses) cannot be read here: %v.", err)
		return
	}
	unix.Close(fd)
}

// aim tells which established packets take longer in from_pod than they may.
func aim(s *sheet.Sheet) {
	judged := sheet.Aim{
		Part: Name, What: fromPod + ", established TCP flows, " + few + " services, warm", Unit: "ns/op", Most: establishedAim,
	}
	for _, c := range s.Cases(Name) {
		class := c.Get("class")
		if c.Get("program") != fromPod || c.Get("step") != "warm" || c.Get("protocol") != "TCP" || c.Get("services") != few ||
			class != "established_vip" && class != "established_direct" && class != "established_uplink" {
			continue
		}
		took := s.Median(c, "ns/op")
		if judged.Found(took); took.Center > establishedAim {
			text := fmt.Sprintf("Aim missed: %s over %s takes from_pod %.0f ns, above %d", class, c.Get("family"), took.Center, establishedAim)
			if took.Lo <= establishedAim {
				text += " (it may be chance: the interval reaches the aim)"
			}
			if insns := s.Median(c, "insns/op"); insns.Rounds > 0 {
				text += fmt.Sprintf("; %.0f instructions, look-ups: %.0f, in arrays: %.0f",
					insns.Center, s.Median(c, "lookups/op").Center, s.Median(c, "array-lookups/op").Center)
			}
			s.Note(Name, "%s.", text)
		}
	}
	s.Judge(judged)
}

// bends tells which figures grow with the number of services by more than chance: those that do so alike in one note.
func bends(s *sheet.Sheet) {
	type bent struct {
		what    []string
		least   float64
		most    float64
		figures int
	}
	found, of := map[string]*bent{}, map[string]int{}
	var order []string
	for _, c := range s.Cases(Name) {
		base := c.With("services", few)
		if c.Get("step") == "cold" || c == base || c.Get("services") == "" {
			continue
		}
		e := s.Ratio(c, base, "ns/op")
		if e.Rounds == 0 {
			continue
		}
		at := fmt.Sprintf("%s, %s services and as many flows", c.Get("step"), c.Get("services"))
		of[at]++
		if math.IsInf(e.Lo, 0) || e.Center < 1 || !e.Shows(bend) {
			continue
		}
		b := found[at]
		if b == nil {
			b = &bent{least: e.Center}
			found[at], order = b, append(order, at)
		}
		b.least, b.most, b.figures = min(b.least, e.Center), max(b.most, e.Center), b.figures+1
		what := c.Get("class") + " in " + c.Get("program")
		if a, b := s.Median(c, "insns/op").Center, s.Median(base, "insns/op").Center; math.Abs(a-b) > 0.01*b {
			what += fmt.Sprintf(" (%.0f instructions instead of %.0f)", a, b)
		}
		if !slices.Contains(b.what, what) {
			b.what = append(b.what, what)
		}
	}
	for _, at := range order {
		b := found[at]
		s.Note(Name, "%s: %d of %d figures are %.2f to %.2f times those of %s services: %s. Unless it says otherwise here, they are of as "+
			"many instructions: more of what these look up is not in the CPU's caches.",
			at, b.figures, of[at], b.least, b.most, few, strings.Join(b.what, ", "))
	}
}

// bend is by how much a figure may grow with the number of services before it is worth a word.
const bend = 0.15

// short names a case in a sentence.
func short(c sheet.Case) string {
	text := c.Get("class") + " in " + c.Get("program")
	for _, key := range []string{"protocol", "family", "step"} {
		if v := c.Get(key); v != "" {
			text += ", " + v
		}
	}
	return text
}

// static enters what is known of a program without running it.
func static(env part.Env, name string, prog *ebpf.Program) error {
	info, err := prog.Info()
	if err != nil {
		return err
	}
	translated, err := info.TranslatedSize()
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	jited, err := info.JitedSize()
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	verified, _ := info.VerifiedInstructions()
	env.Sheet.Add(sheet.Of(Name, "program", name, "step", "loaded"), 0, 1,
		sheet.Value{Unit: "xlated-insns", Value: float64(translated / 8)}, // 8 bytes each
		sheet.Value{Unit: "jited-B", Value: float64(jited)},
		sheet.Value{Unit: "verified-insns", Value: float64(verified)})
	return nil
}
