package server

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// BenchmarkAddDel measures ADDs and DELs of the real plugin, with a dataplane and a registry that
// take no time: the medians as a runtime sees them and of the processor time that the plugin uses for
// an ADD, and the agent's mean share by verb.
func BenchmarkAddDel(b *testing.B) {
	r := newRig(b)
	var adds, dels, cpu []time.Duration
	for i := range b.N {
		c := r.container(fmt.Sprint("c", i))
		start := time.Now()
		r.add(c)
		adds, cpu = append(adds, time.Since(start)), append(cpu, r.cpu)
		start = time.Now()
		r.must(c, call{verb: "DEL"})
		dels = append(dels, time.Since(start))
		c.vanish()
	}
	for unit, d := range map[string][]time.Duration{"ADD-ms": adds, "DEL-ms": dels, "ADD-plugin-cpu-ms": cpu} {
		slices.Sort(d)
		b.ReportMetric(ms(d[len(d)/2]), unit)
	}
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
