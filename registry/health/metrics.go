package health

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-net/sluice/registry"
)

// metrics of the checks of one node.
type metrics struct {
	checked atomic.Int64 // instances
	failing atomic.Int64 // of them
	waiting atomic.Int64 // checks that are due

	checks  *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	writes  *prometheus.CounterVec
	gauges  []prometheus.Collector
}

func (m *metrics) init() {
	m.checks = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_health_checks_total", Help: "Checks of instances that this node made, by type and result: well or failed.",
	}, []string{"type", "result"})
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sluice_health_check_seconds", Help: "How long checks took, by type.",
		Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.5, 2, 10},
	}, []string{"type"})
	m.writes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_health_writes_total", Help: "Instances that the registry was told of, failing or well again, by result: done or refused.",
	}, []string{"result"})
	for _, g := range []struct {
		name, help string
		value      *atomic.Int64
	}{
		{"sluice_health_instances", "Instances that this node checks.", &m.checked},
		{"sluice_health_failing", "Instances that this node checks and that fail.", &m.failing},
		{"sluice_health_waiting", "Checks that are due and wait for others to end.", &m.waiting},
	} {
		m.gauges = append(m.gauges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help},
			func() float64 { return float64(g.value.Load()) }))
	}
}

func (m *metrics) asked(t registry.CheckType, took time.Duration, err error) {
	outcome := "well"
	if err != nil {
		outcome = "failed"
	}
	m.checks.WithLabelValues(string(t), outcome).Inc()
	m.seconds.WithLabelValues(string(t)).Observe(took.Seconds())
}

func (m *metrics) wrote(err error) {
	outcome := "done"
	if err != nil {
		outcome = "refused"
	}
	m.writes.WithLabelValues(outcome).Inc()
}

// Describe implements prometheus.Collector.
func (c *Checker) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect implements prometheus.Collector.
func (c *Checker) Collect(out chan<- prometheus.Metric) {
	for _, m := range append([]prometheus.Collector{c.metrics.checks, c.metrics.seconds, c.metrics.writes}, c.metrics.gauges...) {
		m.Collect(out)
	}
}
