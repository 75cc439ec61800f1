package server

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-net/sluice/cni/ipam"
)

// metrics counts what the server does.
type metrics struct {
	duration *prometheus.HistogramVec
	errors   *prometheus.CounterVec
	used     *prometheus.Desc
	limit    *prometheus.Desc
	usage    func() []ipam.Usage
}

func newMetrics(usage func() []ipam.Usage) *metrics {
	return &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sluice_cni_request_duration_seconds",
			Help:    "Time the agent took for a request of the CNI plugin, by verb; an ADD is an add and a commit.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5},
		}, []string{"verb"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_cni_errors_total",
			Help: "Requests of the CNI plugin that were refused or failed, by verb and CNI error code.",
		}, []string{"verb", "code"}),
		used: prometheus.NewDesc("sluice_cni_addresses_used",
			"Container addresses in use, by range.", []string{"range"}, nil),
		limit: prometheus.NewDesc("sluice_cni_addresses_limit",
			"Container addresses that a range can hand out.", []string{"range"}, nil),
		usage: usage,
	}
}

// observe counts one request; code 0 is success.
func (m *metrics) observe(verb string, took time.Duration, code uint) {
	m.duration.WithLabelValues(verb).Observe(took.Seconds())
	if code != 0 {
		m.errors.WithLabelValues(verb, strconv.FormatUint(uint64(code), 10)).Inc()
	}
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	s.metrics.duration.Describe(ch)
	s.metrics.errors.Describe(ch)
	ch <- s.metrics.used
	ch <- s.metrics.limit
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	s.metrics.duration.Collect(ch)
	s.metrics.errors.Collect(ch)
	for _, u := range s.metrics.usage() {
		name := u.Prefix.String()
		ch <- prometheus.MustNewConstMetric(s.metrics.used, prometheus.GaugeValue, float64(u.Used), name)
		ch <- prometheus.MustNewConstMetric(s.metrics.limit, prometheus.GaugeValue, float64(u.Limit), name)
	}
}
