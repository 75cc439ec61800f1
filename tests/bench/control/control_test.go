package control

import (
	"strings"
	"testing"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// The verdict is about the median of rounds: one busy moment does not miss an aim.
func TestJudge(t *testing.T) {
	s := &sheet.Sheet{}
	enter := func(c sheet.Case, unit string, rounds ...float64) {
		for round, v := range rounds {
			s.Add(c, round, 1, sheet.Value{Unit: unit, Value: v})
		}
	}
	enter(of("step", "registered", "from", "stored", "node", sameNode, "services", 10), "p99-ns", 1e6, 1e6, 1e6, 1e6, 1e6, 90e6)
	enter(of("step", "goes_DOWN", "from", "stored", "node", sameNode, "services", 10), "p99-ns", 4e6, 4e6, 4e6, 4e6, 4e6, 4e6)
	enter(of("step", "registered", "from", "request", "node", sameNode, "services", 10), "p99-ns", 40e6)
	enter(of("step", "registered", "from", "stored", "node", secondNode, "services", 10), "p99-ns", 16e6, 17e6, 18e6)
	enter(of("step", "health", "kind", refuses, "interval_ms", 100), "p99-ns", 149e6)
	enter(of("step", "health", "kind", hangs, "interval_ms", 100), "p99-ns", 251e6, 252e6, 253e6, 254e6, 255e6, 256e6)
	judge(s)
	var notes []string
	for _, n := range s.Notes(Name) {
		notes = append(notes, n.Text)
	}
	all := strings.Join(notes, "\n")
	for _, want := range []string{
		"Met by all 2 cases: from stored to the entry on the same node, p99-ns <= 5 ms.",
		"node=second/services=10 is 17 ms, the aim was 15 ms.", // three rounds have no interval
		"Met by all 1 cases: a backend that refuses",
		"kind=hangs/interval_ms=100 is 254 ms [251 ms, 256 ms], the aim was 250 ms.",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no note says %q:\n%s", want, all)
		}
	}
	if len(notes) != 4 {
		t.Errorf("%d notes:\n%s", len(notes), all)
	}
}

// Every question has an answer in what is asked about.
func TestQuestions(t *testing.T) {
	there := map[string]bool{}
	for _, ch := range dnsContents().Changes {
		if s := ch.Service; s != nil {
			there[s.Name.Name+"."+s.Name.Namespace+".svc.cluster.local."] = true
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, q := range questions() {
		for range 100 {
			name := strings.TrimPrefix(q.name(), "_http._tcp.")
			if there[name] != (q.kind != "no_such_name") {
				t.Errorf("%s: %s is there: %t", q.kind, name, there[name])
			}
			if _, err := q.pack(); err != nil {
				t.Error(err)
			}
		}
	}
}
