package report

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Ways of path have names that say what they are; base is what the others are compared with.
const (
	wayKey  = "way"
	baseWay = "direct"
)

// ways names them in the order in which they are shown.
var ways = []struct{ key, name string }{
	{baseWay, "direct, no Sluice"},
	{baseWay + sheet.Again, "direct, measured again"},
	{"no_hook", "direct, no socket hook"},
	{"container", "direct with Sluice"},
	{"vip_socket", "VIP by socket hook"},
	{"vip_tc", "VIP by tc"},
	{"kube_proxy_iptables", "kube-proxy, iptables"},
	{"kube_proxy_nftables", "kube-proxy, nftables"},
	{"nginx", "nginx, a userspace proxy"},
	{"haproxy", "HAProxy, a userspace proxy"},
	{"loopback", "loopback, the floor"},
}

// wayName spells a way out.
func wayName(way string) string {
	for _, w := range ways {
		if w.key == way {
			return w.name
		}
	}
	return words(way)
}

// shortWay names a way that others are compared with.
func shortWay(way string) string {
	name, _, _ := strings.Cut(wayName(way), ",")
	return name
}

// wayRank is where a way stands in lists; those that are not known come last.
func wayRank(way string) int {
	for i, w := range ways {
		if w.key == way {
			return i
		}
	}
	return len(ways)
}

// axes are the keys whose values are numbers that grow: the x axes of curves.
var axes = []string{"services", "backends", "policies", "containers", "flows"}

// words makes a key or value of a case readable.
func words(s string) string {
	list := strings.Fields(strings.ReplaceAll(s, "_", " "))
	for i, word := range list {
		if slices.Contains(acronyms, word) {
			list[i] = strings.ToUpper(word)
		}
	}
	return strings.Join(list, " ")
}

var acronyms = []string{"vip", "icmp", "tcp", "udp", "sctp", "dns", "cni", "cpu", "rss", "ip"}

// aboutNames say what the facts of a sheet are, in the order in which they are shown.
var aboutNames = []struct{ key, name string }{
	{"cpu", "CPU"}, {"cpus", "CPUs"}, {"memory", "memory"}, {"hypervisor", "hypervisor"}, {"goos", "system"}, {"goarch", "architecture"},
	{"kernel", "kernel"}, {"hz", "timer, Hz"}, {"clocksource", "clock source"}, {"bpf-jit", "BPF JIT"}, {"governor", "frequency governor"},
	{"mitigations", "mitigations"}, {"commit", "commit"}, {"go", "Go"}, {"date", "date"}, {"attach", "programs attached by"},
	{"rounds", "rounds"}, {"quick", "quick"}, {"pinned-cpu", "timed on CPU"}, {"load-start", "load before the start"}, {"load-end", "load at the end"},
}

// facts are those of a sheet by their names, sorted.
func facts(s *sheet.Sheet) []sheet.About {
	list := slices.Clone(s.About)
	rank := func(a sheet.About) int {
		for i, n := range aboutNames {
			if n.key == a.Key {
				return i
			}
		}
		return len(aboutNames)
	}
	slices.SortStableFunc(list, func(a, b sheet.About) int { return cmp.Compare(rank(a), rank(b)) })
	for i, a := range list {
		if at := rank(a); at < len(aboutNames) {
			list[i].Key = aboutNames[at].name
		}
	}
	return list
}

// value spells out the value of a key.
func value(key, v string) string {
	switch {
	case key == wayKey:
		return wayName(v)
	case slices.Contains(axes, key):
		return count(key, v)
	case key == "grow":
		return "growing " + words(v)
	case key == "program" || v == strings.ToUpper(v):
		return v // from_pod and TCP_RR are names
	}
	return words(v)
}

// count makes "10 000 services" of a number of them.
func count(key, v string) string {
	n, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return words(key) + " " + words(v)
	}
	if n == 1 {
		key = strings.TrimSuffix(key, "s")
		if key == "policie" {
			key = "policy"
		}
	}
	return grouped(v) + " " + key
}

// grouped sets the digits of a whole number apart in threes.
func grouped(digits string) string {
	if len(digits) <= 4 || strings.ContainsAny(digits, ".eE") {
		return digits
	}
	var b strings.Builder
	for i, r := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			b.WriteRune(narrow)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// narrow is a space within a number, at which no line breaks.
const narrow = '\u00a0'

// selfEvident are the keys whose values need no word before them.
var selfEvident = []string{"grow", "kind", "family", "program", "class", "protocol", "step", wayKey}

// title says what cases have in common.
func title(c sheet.Case) string {
	var list []string
	for _, k := range keys(c) {
		v := c.Get(k)
		switch {
		case v == "" || v == "none":
		case slices.Contains(selfEvident, k) || slices.Contains(axes, k):
			list = append(list, value(k, v))
		default:
			list = append(list, words(k)+" "+value(k, v))
		}
	}
	return strings.Join(list, ", ")
}

// keys of a case, in its order.
func keys(c sheet.Case) (list []string) {
	for i, field := range strings.Split(string(c), "/") {
		if k, _, ok := strings.Cut(field, "="); ok && i > 0 {
			list = append(list, k)
		}
	}
	return list
}

// without is a case without several keys.
func without(c sheet.Case, names ...string) sheet.Case {
	for _, name := range names {
		c = c.Without(name)
	}
	return c
}

// units in the order in which they are shown; others follow.
var units = []struct{ unit, name string }{
	{"p50-ns", "p50"}, {"p90-ns", "p90"}, {"p99-ns", "p99"}, {"p99.9-ns", "p99.9"},
	{"ns/op", "mean"}, {"cpu-ns/op", "CPU per operation"},
	{"insns/op", "instructions"}, {"lookups/op", "map lookups"}, {"writes/op", "entries written"},
	{"ops/s", "a second"}, {"B/s", "throughput"},
	{"cpu-ns/KiB", "CPU per KiB"}, {"load-s", "load time"}, {"rss-B", "resident memory"}, {"kernel-B", "kernel memory"}, {"heap-B", "heap"},
}

// unitName says what a unit measures; units themselves stand behind the figures.
func unitName(unit string) string {
	for _, u := range units {
		if u.unit == unit {
			return u.name
		}
	}
	for _, suffix := range []string{"-ns/op", "-ns", "-s", "-B", "-percent", "/op"} {
		if name, ok := strings.CutSuffix(unit, suffix); ok && name != "" {
			return words(strings.ReplaceAll(name, "-", " "))
		}
	}
	return unit
}

// unitsOf are those in which any of the cases was measured.
func unitsOf(s *sheet.Sheet, cases []sheet.Case) (list []string) {
	for _, c := range cases {
		for _, sample := range s.Samples(c) {
			for _, v := range sample.Values {
				if !slices.Contains(list, v.Unit) {
					list = append(list, v.Unit)
				}
			}
		}
	}
	rank := func(unit string) int {
		for i, u := range units {
			if u.unit == unit {
				return i
			}
		}
		return len(units)
	}
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return list
}

// scale is a divisor and what stands behind a number that was divided by it.
type scale struct {
	by     float64
	suffix string
}

var (
	times = []scale{{1e-9, "ns"}, {1e-6, "µs"}, {1e-3, "ms"}, {1, "s"}}
	sizes = []scale{{1, "B"}, {1 << 10, "KiB"}, {1 << 20, "MiB"}, {1 << 30, "GiB"}}
	rates = []scale{{1, "B/s"}, {1e3, "kB/s"}, {1e6, "MB/s"}, {1e9, "GB/s"}}
)

// scaleOf chooses for a unit the scale in which the values read best; factor turns values of the unit into what
// the scale divides.
func scaleOf(unit string, values ...float64) (factor float64, chosen scale) {
	var steps []scale
	factor = 1
	switch {
	case unit == "B/s":
		steps = rates
	case unit == "ns" || unit == "ns/op" || strings.HasSuffix(unit, "-ns/op") || strings.HasSuffix(unit, "ns/KiB") || strings.HasSuffix(unit, "-ns"):
		steps, factor = times, 1e-9
	case unit == "s" || strings.HasSuffix(unit, "-s"):
		steps = times
	case unit == "B" || strings.HasSuffix(unit, "-B") || unit == "B/op":
		steps = sizes
	case strings.HasSuffix(unit, "-percent"):
		return 1, scale{1, "%"}
	default:
		return 1, scale{1, ""}
	}
	var known []float64
	for _, v := range values {
		if v = math.Abs(v * factor); v > 0 && !math.IsInf(v, 0) && !math.IsNaN(v) {
			known = append(known, v)
		}
	}
	if len(known) == 0 {
		return factor, steps[0]
	}
	slices.Sort(known)
	chosen = steps[0]
	for _, step := range steps {
		if known[len(known)/2] >= step.by {
			chosen = step
		}
	}
	return factor, chosen
}

// number shows three digits that count, or all before the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case v == math.Trunc(v) && a < 100:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case math.IsInf(v, 0):
		return "∞"
	case v == 0:
		return "0"
	case a >= 99.95:
		return grouped(strconv.FormatFloat(v, 'f', 0, 64))
	case a >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.9995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a >= 0.001:
		return strconv.FormatFloat(v, 'f', 3, 64)
	default:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
}

// largerIsBetter tells which way a unit's figures should go.
func largerIsBetter(unit string) bool { return strings.HasSuffix(unit, "/s") }

// Figure shows a value of a unit in the scale in which it reads best.
func Figure(unit string, v float64) string {
	factor, s := scaleOf(unit, v)
	return strings.TrimSpace(number(v*factor/s.by) + " " + s.suffix)
}
