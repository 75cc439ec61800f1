package report

import (
	"math"
	"math/rand/v2"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// factors are what the made-up ways of the tests cost, as multiples of direct.
var factors = map[string]float64{
	"direct": 1, "direct_again": 1, "container": 0.92, "vip_socket": 0.91, "vip_tc": 1.001,
	"kube_proxy_iptables": 1.4, "kube_proxy_nftables": 1.15, "nginx": 2.4, "loopback": 0.5,
}

// sample is a sheet of every form that the report knows, with figures made by a seeded generator.
func sample(rounds int) *sheet.Sheet {
	s := &sheet.Sheet{About: []sheet.About{
		{Key: "goos", Value: "linux"}, {Key: "cpu", Value: "AMD EPYC"}, {Key: "kernel", Value: "6.18.0"}, {Key: "commit", Value: "abc1234"},
		{Key: "mitigations", Value: "spectre_v2: Retpolines"},
	}}
	random := rand.New(rand.NewPCG(7, 11))
	for _, family := range []string{"IPv4", "IPv6"} {
		for _, services := range []int{1, 10000} {
			c := sheet.Of("Path", "kind", "TCP_RR", "family", family, "services", services, "way", "direct")
			samplePath(s, random, c, rounds)
		}
	}
	for _, class := range []string{"not_ours", "established_vip", "new_vip_flow", "denied"} {
		for i, services := range []int{10, 1000, 100000} {
			c := sheet.Of("Kernel", "program", "from_pod", "family", "IPv4", "class", class, "services", services)
			for round := range rounds {
				s.Add(c, round, 1e6, sheet.Value{Unit: "ns/op", Value: float64(40*len(class)+10*i) * (1 + 0.05*random.Float64())},
					sheet.Value{Unit: "insns/op", Value: 200}, sheet.Value{Unit: "lookups/op", Value: 2})
			}
		}
	}
	for _, services := range []int{10, 100, 1000, 10000, 100000} {
		n := float64(services)
		for round := range rounds {
			s.Add(sheet.Of("Scale", "step", "load", "services", services), round, 1,
				sheet.Value{Unit: "load-s", Value: n * 1e-5 * (1 + 0.1*random.Float64())},
				sheet.Value{Unit: "rss-B", Value: 4e7 + n*2000}, sheet.Value{Unit: "ns/op", Value: 80 + 3*math.Log10(n)})
		}
	}
	for _, step := range []string{"ADD", "DEL"} {
		c := sheet.Of("Control", "kind", "CNI", "step", step)
		for round := range rounds {
			s.Add(c, round, 100, sheet.Value{Unit: "p50-ns", Value: 1.1e7 + 1e6*random.Float64()}, sheet.Value{Unit: "ops/s", Value: 88})
		}
		s.AddLatency(sheet.Latency{Case: c, Quantiles: quantiles(1.1e7, 0.3)})
	}
	s.Note("Path", "vip_tc misses its aim in %d of %d cases.", 2, 12)
	return s
}

// samplePath enters one family of ways.
func samplePath(s *sheet.Sheet, random *rand.Rand, base sheet.Case, rounds int) {
	const p50 = 22000.0
	for way, factor := range factors {
		for round := range rounds {
			// Every round has its own jitter, and all ways of a round a drift in common.
			drift, jitter := 1+0.1*float64(round%3), 1+0.02*(random.Float64()-0.5)
			s.Add(base.With("way", way), round, 4000,
				sheet.Value{Unit: "p50-ns", Value: p50 * factor * drift * jitter}, sheet.Value{Unit: "p90-ns", Value: 1.2 * p50 * factor * drift},
				sheet.Value{Unit: "p99-ns", Value: 2 * p50 * factor * drift * jitter}, sheet.Value{Unit: "p99.9-ns", Value: 5 * p50 * factor},
				sheet.Value{Unit: "cpu-ns/op", Value: 1.1 * p50 * factor * drift * jitter})
		}
		s.AddLatency(sheet.Latency{Case: base.With("way", way), Quantiles: quantiles(p50*factor, 0.25)})
	}
}

// quantiles are those of a log-normal distribution.
func quantiles(median, sigma float64) (list []sheet.Quantile) {
	for _, share := range []float64{0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1} {
		at := math.Max(-4, math.Min(4, probit(share)))
		tail := math.Exp(math.Max(0, at-1.2) * 0.4)
		list = append(list, sheet.Quantile{Share: share, Nanoseconds: median * math.Exp(sigma*at) * tail})
	}
	return list
}
