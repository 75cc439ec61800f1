package peers

import (
	"strings"
	"testing"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// What a rule costs is told where connections take longer than with one service, and not where they do not.
func TestExplain(t *testing.T) {
	s := &sheet.Sheet{}
	for services, p50 := range map[int]float64{1: 120_000, 100: 120_000, 10_000: 156_000} {
		for round := range 10 {
			for way, ns := range map[string]float64{path.Direct: 100_000, IPTables: p50} {
				s.Add(path.Case(batch.TCPCRR, path.IPv4, services, way), round, 100, sheet.Value{Unit: "p50-ns", Value: ns})
			}
		}
		rules := services + 3
		s.Add(programCase(IPTables, "IPv4", services), 0, services,
			placed(kubeProxyFamily{Rules: rules, Before: []int{rules / 2 / 10 * 10, 7}})...)
	}
	Explain(s)
	var b strings.Builder
	for _, n := range s.Notes(path.Name) {
		b.WriteString(n.Text + "\n")
	}
	got := b.String()
	for _, want := range []string{
		"with 100 services over IPv4 has 103 rules that lead to services; 50 of them", "with 10000 services over IPv4 has 10003 rules",
		": 7.2 ns a rule,", "would take at least 192.0 us over IPv4, 1.92 x direct and not 1.56 x",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if strings.Count(got, "ns a rule") != 1 || strings.Contains(got, "with 1 services") {
		t.Errorf("more than there is to be seen:\n%s", got)
	}
}
