package peers

import (
	"strconv"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Explain notes what a new connection by kube-proxy's iptables has to do with the place of its rule, which in a real
// cluster is any: the figures are those of a VIP in the middle of all.
func Explain(s *sheet.Sheet) {
	const p50 = "p50-ns"
	for _, c := range s.Cases(path.Name) {
		n, err := strconv.Atoi(c.Get("services"))
		if err != nil || n == 1 || c.Get("way") != IPTables || c.Get("kind") != string(batch.TCPCRR) {
			continue
		}
		program := programCase(IPTables, c.Get("family"), n)
		rules, before := s.Median(program, rulesUnit).Center, s.Median(program, beforeUnit).Center
		if !(rules > 0 && before > 0) {
			continue
		}
		where := c.Get("family")
		s.Note(path.Name, "%s with %d services over %s has %.0f rules that lead to services; %.0f of them come before the one that TCP_CRR meets.",
			IPTables, n, where, rules, before)
		// Those of one service were measured at another time: what compares is the ratio to direct of each time.
		ratio := func(c sheet.Case) sheet.Estimate { return s.Ratio(c, c.With("way", path.Direct), p50) }
		many, few := ratio(c), ratio(c.With("services", "1"))
		if few.Rounds == 0 || many.Rounds == 0 || many.Lo <= few.Hi {
			continue // no difference that is to be seen
		}
		direct := s.Median(c.With("way", path.Direct), p50).Center
		each := (many.Center - few.Center) / before
		last := many.Center + each*(rules-1-before)
		s.Note(path.Name, "Each new connection is held against them one by one: %.1f ns a rule, by what TCP_CRR takes more than with 1 service. "+
			"To the VIP whose rule is the last it would take at least %.1f us over %s, %.2f x %s and not %.2f x as to the one in the middle: "+
			"the more rules, the fewer of them are in the CPU's caches.",
			each*direct, last*direct/1e3, where, last, path.Direct, many.Center)
	}
}
