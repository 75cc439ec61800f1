package path

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// figure is what aims are about.
const figure = "p50-ns"

// aim is what the figure of a way should be at most, as a multiple of the same figure of another.
type aim struct {
	way, base string
	kind      batch.Kind
	most      float64
	services  string // with so many; "": with each number of them
}

func aims() []aim {
	return []aim{
		{Container, Direct, batch.TCPRR, 0.93, ""},
		{Container, Direct, batch.TCPCRR, 0.93, ""},
		{VIPSocket, Direct, batch.TCPRR, 0.93, ""},
		{VIPSocket, Direct, batch.TCPCRR, 0.93, ""},
		{VIPTC, Direct, batch.TCPRR, 0.92, ""},
		{VIPTC, Direct, batch.TCPCRR, 0.96, ""},
		{VIPSocket, "kube_proxy_iptables", batch.TCPCRR, 0.47, "10000"},
		{VIPTC, "kube_proxy_iptables", batch.TCPCRR, 0.47, "10000"},
	}
}

// Explain enters notes about what was measured: how, which aims are missed and where the time goes, and how
// much of its CPU it had.
func Explain(s *sheet.Sheet) {
	s.Note(Name, "In every round each way has its turn, in another order: %s of each kind, after a fifth of that "+
		"which is not timed. Requests and answers have one byte, writes to streams 64 KiB; TCP_STREAMS are %d, and an "+
		"operation of streams is a KiB that arrived. The server closes connections first. Services have %d backends of "+
		"each IP version, those that are called have one.", BatchTime, bulkStreams, Backends)
	s.Note(Name, "One call is under way at a time, as netperf has it: what delays one delays the next as well, and counts once.")
	if text := fewest(s); text != "" {
		s.Note(Name, "%s", text)
	}
	cases := s.Cases(Name)
	for _, a := range aims() {
		s.Judge(a.judge(s, cases))
		if text := missed(s, cases, a); text != "" {
			s.Note(Name, "%s", text)
		}
	}
	for _, a := range extraAims() {
		s.Judge(a.judge(s, cases))
		if text := dear(s, cases, a); text != "" {
			s.Note(Name, "%s", text)
		}
	}
	var shares []float64
	for _, c := range cases {
		if c.Get("way") == Direct && c.Get("kind") == string(batch.TCPRR) {
			shares = append(shares, s.Median(c, "cpu-ns/op").Center/s.Median(c, "ns/op").Center)
		}
	}
	if len(shares) > 0 && slices.Min(shares) < 0.9 {
		s.Note(Name, "The CPU was not theirs alone: client and server, which always have something to do, had it for "+
			"%.0f %% of the time in TCP_RR by %s. What else ran there is in the mean and in the tail of all latencies; or "+
			"the kernel accounts for softirqs apart, which are then missing in cpu-ns/op.",
			100*slices.Min(shares), Direct)
	}
}

// isFor tells whether a case is one that the aim is about.
func (a aim) isFor(c sheet.Case) bool {
	return c.Get("way") == a.way && c.Get("kind") == string(a.kind) && (a.services == "" || c.Get("services") == a.services)
}

// judge compares with the aim what was measured.
func (a aim) judge(s *sheet.Sheet, cases []sheet.Case) sheet.Aim {
	what := fmt.Sprintf("%s, %s: p50, x %s", a.way, a.kind, a.base)
	if a.services != "" {
		what += ", services: " + a.services
	}
	judged := sheet.Aim{Part: Name, What: what, Most: a.most}
	base := func(c sheet.Case) sheet.Case { return c.With("way", a.base) }
	var mine []sheet.Case
	for _, c := range cases {
		if a.isFor(c) {
			judged.Found(s.Ratio(c, base(c), figure))
			mine = append(mine, c)
		}
	}
	judged.Together(s.RatioOfAll(mine, base, figure))
	return judged
}

// fewest says of which kinds a round has too few operations for its own p99.9.
func fewest(s *sheet.Sheet) string {
	const enough = 1000
	var kinds []string
	for _, c := range s.Cases(Name) {
		kind := c.Get("kind")
		if batch.Kind(kind).Stream() || slices.Contains(kinds, kind) {
			continue
		}
		if slices.ContainsFunc(s.Samples(c), func(one sheet.Sample) bool {
			_, tail := one.Value("p99.9-ns")
			return tail && one.N < enough
		}) {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) == 0 {
		return ""
	}
	return fmt.Sprintf("Rounds of less than %d operations, which there are of %s, have their slowest for a p99.9; the distributions are of all rounds.",
		enough, strings.Join(kinds, ", "))
}

// missed says where an aim is missed and what of it is known; "": nowhere, or it was not measured.
func missed(s *sheet.Sheet, cases []sheet.Case, a aim) string {
	var where []string
	var worst sheet.Case
	var most float64
	for _, c := range cases {
		if !a.isFor(c) {
			continue
		}
		if e := s.Ratio(c, c.With("way", a.base), figure); e.Center > a.most {
			text := fmt.Sprintf("%s over %s with services=%s", e, c.Get("family"), c.Get("services"))
			if e.Lo <= a.most {
				text += " (it may be chance: the interval reaches the aim)"
			}
			where = append(where, text)
			if e.Center > most {
				worst, most = c, e.Center
			}
		}
	}
	if len(where) == 0 {
		return ""
	}
	return fmt.Sprintf("Aim missed: %s at most %.2f x %s in %s (%s), but %s. In the worst of them: %s",
		a.way, a.most, a.base, a.kind, figure, strings.Join(where, "; "), spent(s, worst))
}

// extraAim is what connect() to a VIP should cost at most, in ns over no hook at all.
type extraAim struct {
	kind batch.Kind
	most float64
}

func extraAims() []extraAim {
	return []extraAim{{batch.UDPConnectReused, 150}, {batch.UDPConnectNew, 350}}
}

// isFor tells whether a case is one that the aim is about.
func (a extraAim) isFor(c sheet.Case) bool {
	return c.Get("way") == VIPSocket && c.Get("kind") == string(a.kind)
}

// judge compares with the aim what was measured.
func (a extraAim) judge(s *sheet.Sheet, cases []sheet.Case) sheet.Aim {
	judged := sheet.Aim{
		Part: Name, What: fmt.Sprintf("%s to a VIP: p50, more than by %s", a.kind, NoHook), Unit: extraUnit, Most: a.most,
	}
	for _, c := range cases {
		if a.isFor(c) {
			judged.Found(s.Median(c, extraUnit))
		}
	}
	return judged
}

// dear says where connect() costs more than it should, and how much of it has nothing to do with a VIP; "": nowhere,
// or it was not measured.
func dear(s *sheet.Sheet, cases []sheet.Case, a extraAim) string {
	var where []string
	for _, c := range cases {
		e := s.Median(c, extraUnit)
		if !a.isFor(c) || e.Rounds == 0 || e.Center <= a.most {
			continue
		}
		text := fmt.Sprintf("%+.0f [%+.0f, %+.0f] over %s with services=%s", e.Center, e.Lo, e.Hi, c.Get("family"), c.Get("services"))
		if e.Lo <= a.most {
			text += " (it may be chance: the interval reaches the aim)"
		}
		text += fmt.Sprintf(", where an address that is no VIP costs %+.0f", s.Median(c.With("way", Container), extraUnit).Center)
		where = append(where, text)
	}
	if len(where) == 0 {
		return ""
	}
	return fmt.Sprintf("Aim missed: %s to a VIP at most %+.0f ns over %s (%s, difference of medians in the same round), but %s.",
		a.kind, a.most, NoHook, extraUnit, strings.Join(where, "; "))
}

// spent says where the time of a case goes, as far as other cases tell.
func spent(s *sheet.Sheet, c sheet.Case) string {
	micros := func(kind batch.Kind, way string) float64 {
		return s.Median(c.With("kind", string(kind)).With("way", way), figure).Center / 1e3
	}
	kind, way := batch.Kind(c.Get("kind")), c.Get("way")
	took, direct, floor := micros(kind, way), micros(kind, Direct), micros(kind, Loopback)
	text := fmt.Sprintf("%.1f us, by %s %.1f, by %s %.1f, which is the part of sockets, system calls and the change from "+
		"one process to the other.", took, Direct, direct, Loopback, floor)
	if direct > floor {
		text += fmt.Sprintf(" The path itself takes %.2f of what it takes by %s.", (took-floor)/(direct-floor), Direct)
	}
	connect := micros(batch.TCPConnect, way) - micros(batch.TCPConnect, Direct)
	kept := micros(batch.TCPRR, way) - micros(batch.TCPRR, Direct)
	if kind == batch.TCPCRR && !math.IsNaN(connect) && !math.IsNaN(kept) {
		text += fmt.Sprintf(" Beside %s: %+.1f us for request, answer and all, %+.1f for a connection with nothing sent, "+
			"%+.1f for a round trip on one that stays.", Direct, took-direct, connect, kept)
	}
	return text
}
