package control

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// aim is what a figure is to be, in the median of the rounds.
type aim struct {
	what  string
	where map[string]string // keys and values of the cases that it is for
	unit  string
	limit float64 // at most
}

// aims are what the part judges by.
func aims() []aim {
	beyond := func(ways int) float64 { return float64(time.Duration(ways)*healthInterval + 50*time.Millisecond) }
	return []aim{
		{"from stored to the entry on the same node", map[string]string{"from": "stored", "node": sameNode}, "p99-ns", 5e6},
		{"from stored to the entry on a node of a cluster", map[string]string{"from": "stored", "node": sameOfCluster}, "p99-ns", 15e6},
		{"from stored to the entry on a second node", map[string]string{"from": "stored", "node": secondNode}, "p99-ns", 15e6},
		{"a DNS answer", map[string]string{"kind": "DNS"}, "p99-ns", 1e6},
		{"20 000 DNS queries a second of CPU time", map[string]string{"kind": "DNS"}, "cpu-ns/op", 1e9 / 20_000},
		{"a heartbeat, of 8 clients at once", map[string]string{"kind": "Eureka", "step": putHeartbeat}, "p50-ns", 1e6},
		{"a small delta, of 8 clients at once", map[string]string{"kind": "Eureka", "step": getSmallDelta}, "p50-ns", 1e6},
		{"a backend that refuses is out within the interval and 50 ms", map[string]string{"kind": "health", "step": refuses}, "p99-ns", beyond(1)},
		{"one that hangs is out within interval, timeout and 50 ms", map[string]string{"kind": "health", "step": hangs}, "p99-ns", beyond(2)},
	}
}

func (a aim) isFor(c sheet.Case) bool {
	for key, value := range a.where {
		if c.Get(key) != value {
			return false
		}
	}
	return true
}

// judge enters what became of the aims, and notes by how much one was missed.
func judge(s *sheet.Sheet) {
	for _, a := range aims() {
		judged := sheet.Aim{Part: Name, What: a.what + ": " + strings.TrimSuffix(a.unit, "-ns"), Unit: a.unit, Most: a.limit}
		for _, c := range s.Cases(Name) {
			e := s.Median(c, a.unit)
			if !a.isFor(c) || e.Rounds == 0 {
				continue
			}
			if judged.Found(e); e.Center > a.limit {
				s.Note(Name, "Missed: %s: %s of %s is %s, the aim was %s.%s", a.what, a.unit, c, show(e), millis(a.limit), machine(s, c, a.unit))
			}
		}
		s.Judge(judged)
	}
}

// machine says how late it was itself in the rounds of a write, which no write can be without.
func machine(s *sheet.Sheet, c sheet.Case, unit string) string {
	late := s.Median(beside(c, machineSleep).With("from", "due"), unit)
	if late.Rounds == 0 {
		return ""
	}
	return fmt.Sprintf(" In the same rounds a sleep of 1 ms ended late by %s.", show(late))
}

// show writes a median with its interval, where there is one.
func show(e sheet.Estimate) string {
	text := millis(e.Center)
	if !math.IsInf(e.Lo, 0) && !math.IsInf(e.Hi, 0) {
		text += fmt.Sprintf(" [%s, %s]", millis(e.Lo), millis(e.Hi))
	}
	return text
}

// millis writes nanoseconds.
func millis(ns float64) string { return fmt.Sprintf("%.3g ms", ns/1e6) }
