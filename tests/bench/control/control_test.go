package control

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

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
	write := of("kind", "writes_second", "step", "registered", "from", "stored", "node", secondNode, "services", 10)
	enter(write, "p99-ns", 16e6, 17e6, 18e6)
	enter(of("kind", "writes_same_of_cluster", "step", machineSleep, "from", "due", "node", sameOfCluster, "services", 10), "p99-ns", 12e6, 13e6, 14e6)
	enter(of("kind", "health", "step", refuses, "interval_ms", 100), "p99-ns", 149e6)
	enter(of("kind", "health", "step", hangs, "interval_ms", 100), "p99-ns", 251e6, 252e6, 253e6, 254e6, 255e6, 256e6)
	judge(s)
	var notes []string
	for _, n := range s.Notes(Name) {
		notes = append(notes, n.Text)
	}
	all := strings.Join(notes, "\n")
	for _, want := range []string{
		"node=second/services=10 is 17 ms, the aim was 15 ms. In the same rounds a sleep of 1 ms ended late by 13 ms.", // three rounds have no interval
		"step=hangs/interval_ms=100 is 254 ms [251 ms, 256 ms], the aim was 250 ms.",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no note says %q:\n%s", want, all)
		}
	}
	if len(notes) != 2 {
		t.Errorf("%d notes:\n%s", len(notes), all)
	}
	var judged []string
	for _, a := range s.Aims() {
		judged = append(judged, fmt.Sprintf("%s: %d %d %d", a.What, a.Met, a.Open, a.Missed))
	}
	want := []string{
		"from stored to the entry on the same node: p99: 1 1 0", "from stored to the entry on a second node: p99: 0 1 0",
		"a backend that refuses is out within the interval and 50 ms: p99: 0 1 0", // one round has no interval
		"one that hangs is out within interval, timeout and 50 ms: p99: 0 0 1",
	}
	if !slices.Equal(judged, want) {
		t.Errorf("judged %q, want %q", judged, want)
	}
}

// What is explained is computed, and nothing is said of what was not measured.
func TestExplain(t *testing.T) {
	s := &sheet.Sheet{}
	s.Add(of("kind", "CNI", "step", "ADD", "parallel", 1), 0, 1, sheet.Value{Unit: "p50-ns", Value: 13e6})
	s.Add(of("kind", "start", "step", "restart", "services", 10, "wired", 2), 0, 1, sheet.Value{Unit: "ready-s", Value: 0.5})
	explain(s)
	if notes := s.Notes(Name); len(notes) > 0 {
		t.Errorf("half of what is measured says %v", notes)
	}
	write := func(step, from, node string, values ...float64) {
		for round, v := range values {
			c := of("kind", "writes_"+node, "step", step, "from", from, "node", node, "services", 10)
			s.Add(c, round, 1, sheet.Value{Unit: "p50-ns", Value: v})
		}
	}
	write("etcd_put_watched", "request", sameOfCluster, 1e6, 2e6, 4e6)
	write("registered", "request", secondNode, 3e6, 6e6, 12e6)
	write("registered", "stored", secondNode, 5e5, 5e5, 5e5)
	s.Add(of("kind", "CNI", "step", "VERSION", "parallel", 1), 0, 1, sheet.Value{Unit: "p50-ns", Value: 2e6})
	s.Add(of("kind", "CNI", "step", "ADD", "parallel", 1), 1, 1, sheet.Value{Unit: "agent-cpu-ns/op", Value: 4e6}, sheet.Value{Unit: "ops/s", Value: 70})
	s.Add(of("kind", "start", "step", "none", "services", 10, "wired", 2), 0, 1, sheet.Value{Unit: "connecting-worst-ns", Value: 7e6})
	explain(s)
	var all strings.Builder
	for _, n := range s.Notes(Name) {
		all.WriteString(n.Text + "\n")
	}
	for _, want := range []string{"(node: second) after 6 ms, which is 3.0 x", "; 0.5 ms of it come", "process takes 2 ms", "ready, its maps reconciled, 0.50 s", "7 ms in as much time"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("no note says %q:\n%s", want, all.String())
		}
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

// An answer that is none does not count as a fast one.
func TestCheckAnswer(t *testing.T) {
	q := question{kind: "VIP", rcode: mdns.RcodeSuccess, records: 1}
	a := &mdns.A{Hdr: mdns.RR_Header{Name: "s.", Rrtype: mdns.TypeA, Class: mdns.ClassINET}, A: net.IPv4(10, 96, 0, 1)}
	for _, c := range []struct {
		answer mdns.Msg
		right  bool
	}{
		{mdns.Msg{Answer: []mdns.RR{a}}, true},
		{mdns.Msg{}, false},
		{mdns.Msg{MsgHdr: mdns.MsgHdr{Rcode: mdns.RcodeRefused}, Answer: []mdns.RR{a}}, false},
		{mdns.Msg{MsgHdr: mdns.MsgHdr{Truncated: true}, Answer: []mdns.RR{a}}, false},
	} {
		data, err := c.answer.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if err := q.check(data); (err == nil) != c.right {
			t.Errorf("%v: %v", c.answer, err)
		}
	}
	if q.check([]byte{1}) == nil {
		t.Error("one byte is an answer")
	}
}
