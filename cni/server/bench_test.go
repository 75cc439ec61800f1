package server

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// BenchmarkAddDel measures ADDs and DELs of the real plugin, with a dataplane and a registry that
// take no time: the median as a runtime sees them, and the agent's mean share by verb.
func BenchmarkAddDel(b *testing.B) {
	r := newRig(b)
	var adds, dels []time.Duration
	for i := range b.N {
		c := r.container(fmt.Sprint("c", i))
		start := time.Now()
		r.add(c)
		adds = append(adds, time.Since(start))
		start = time.Now()
		r.must(c, call{verb: "DEL"})
		dels = append(dels, time.Since(start))
		c.vanish()
	}
	slices.Sort(adds)
	slices.Sort(dels)
	b.ReportMetric(ms(adds[len(adds)/2]), "ADD-ms")
	b.ReportMetric(ms(dels[len(dels)/2]), "DEL-ms")
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(r.server)
	families, err := metrics.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil {
				b.ReportMetric(h.GetSampleSum()/float64(h.GetSampleCount())*1000, m.GetLabel()[0].GetValue()+"-ms")
			}
		}
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
