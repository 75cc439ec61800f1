package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// about tells where and of what the sheet is, in the keys of Go's benchmark format. What the machine
// does not tell is left out.
func about(ctx context.Context, root fs.FS, o options) []sheet.About {
	list := []sheet.About{
		{Key: "goos", Value: runtime.GOOS}, {Key: "goarch", Value: runtime.GOARCH},
		{Key: "commit", Value: commit(ctx)}, {Key: "go", Value: runtime.Version()},
		{Key: "date", Value: time.Now().UTC().Format(time.RFC3339)},
		{Key: "attach", Value: o.attach}, {Key: "rounds", Value: strconv.Itoa(o.rounds)},
		{Key: "quick", Value: strconv.FormatBool(o.quick)},
		{Key: "cpus", Value: strconv.Itoa(runtime.NumCPU())},
		{Key: "pinned-cpu", Value: strconv.Itoa(cpu)},
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		list = append(list, sheet.About{Key: "kernel", Value: unix.ByteSliceToString(name.Release[:])})
	}
	return told(append(list, machine(root)...))
}

// told leaves out facts without a value, and makes one line of each: the format's configuration lines
// end with the line, and nothing may be shown that a terminal would obey.
func told(list []sheet.About) (kept []sheet.About) {
	for _, fact := range list {
		if fact.Value = strings.Join(strings.Fields(fact.Value), " "); fact.Value != "" {
			kept = append(kept, fact)
		}
	}
	return kept
}

// machine reads /proc and /sys below a root.
func machine(root fs.FS) []sheet.About {
	read := func(name string) string {
		text, _ := fs.ReadFile(root, name)
		return strings.TrimSpace(string(text))
	}
	info := read("proc/cpuinfo")
	return []sheet.About{
		{Key: "cpu", Value: cmp.Or(field(info, "model name"), field(info, "CPU part"))},
		{Key: "memory", Value: memory(field(read("proc/meminfo"), "MemTotal"))},
		{Key: "hypervisor", Value: hypervisor(info, read)},
		{Key: "hz", Value: hz(root)},
		{Key: "clocksource", Value: read("sys/devices/system/clocksource/clocksource0/current_clocksource")},
		{Key: "bpf-jit", Value: jit(read)},
		{Key: "governor", Value: read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")},
		{Key: "mitigations", Value: mitigations(root)},
	}
}

// field returns what stands behind a name in a file of "name : value" lines; the first such line counts.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// memory makes GiB of meminfo's "16384256 kB".
func memory(total string) string {
	kb, err := strconv.ParseFloat(strings.TrimSuffix(total, " kB"), 64)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%.1f GiB", kb/(1<<20))
}

// hypervisor names what the machine runs on, as far as that tells: some give no names.
func hypervisor(cpuinfo string, read func(string) string) string {
	if kind := read("sys/hypervisor/type"); kind != "" {
		return kind
	}
	virtual := strings.Contains(" "+field(cpuinfo, "flags")+" ", " hypervisor ")
	product := strings.TrimSpace(read("sys/class/dmi/id/sys_vendor") + " " + read("sys/class/dmi/id/product_name"))
	switch {
	case product != "":
		return product
	case virtual:
		return "yes, which does not tell its name"
	default:
		return "none"
	}
}

// hz is the kernel's timer frequency, where its configuration can be read.
func hz(root fs.FS) string {
	release, _ := fs.ReadFile(root, "proc/sys/kernel/osrelease")
	for _, name := range []string{"proc/config.gz", path.Join("boot", "config-"+strings.TrimSpace(string(release)))} {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		var in io.Reader = bytes.NewReader(text)
		if z, err := gzip.NewReader(in); err == nil {
			in = z
		} else {
			in = bytes.NewReader(text)
		}
		for lines := bufio.NewScanner(in); lines.Scan(); {
			if v, ok := strings.CutPrefix(lines.Text(), "CONFIG_HZ="); ok {
				return v
			}
		}
	}
	return ""
}

// jit says whether BPF programs are compiled, and whether their constants are blinded
// (Documentation/admin-guide/sysctl/net.rst).
func jit(read func(string) string) string {
	on := map[string]string{"0": "off", "1": "on", "2": "on, with debugging"}[read("proc/sys/net/core/bpf_jit_enable")]
	if on == "" {
		return ""
	}
	return on + map[string]string{
		"1": ", hardened for the unprivileged", "2": ", hardened",
	}[read("proc/sys/net/core/bpf_jit_harden")]
}

// mitigations lists what the kernel does against the faults that the CPU has.
func mitigations(root fs.FS) string {
	const dir = "sys/devices/system/cpu/vulnerabilities"
	entries, err := fs.ReadDir(root, dir)
	if err != nil {
		return ""
	}
	var list []string
	for _, entry := range entries {
		text, err := fs.ReadFile(root, path.Join(dir, entry.Name()))
		said := strings.TrimSpace(string(text))
		if err != nil || said == "" || said == "Not affected" {
			continue
		}
		list = append(list, entry.Name()+": "+strings.TrimPrefix(said, "Mitigation: "))
	}
	if len(list) == 0 {
		return "none needed"
	}
	return strings.Join(list, " | ")
}

// commit is what the working tree is of; "": it is none of git's.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// load is the load average of the last minute; "": the kernel does not tell.
func load(root fs.FS) string {
	text, _ := fs.ReadFile(root, "proc/loadavg")
	average, _, _ := strings.Cut(string(text), " ")
	return average
}

// busy is the load at which something else may want the CPU that is measured on.
const busy = 1.0

// quiet enters the load from before the start, and a note when something else was at work.
func quiet(s *sheet.Sheet, average string) {
	s.About = append(s.About, told([]sheet.About{{Key: "load-start", Value: average}})...)
	if load, err := strconv.ParseFloat(average, 64); err == nil && load > busy {
		s.Note("About", "The machine was not quiet: its load average before the start was %s. Absolute times are too long, "+
			"and the noise is larger than it need be.", average)
	}
}
