package dns

import (
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// The kinds of names, as metrics tell them apart. No label holds what a client chose.
const (
	kindDomain  = "cluster"
	kindReverse = "reverse"
	kindOther   = "other"
	kindNone    = "none" // of a query that was refused before its name was looked at

	resultNoData = "NODATA"
	resultRare   = "other"
)

type metrics struct {
	queries            *prometheus.CounterVec
	seconds            *prometheus.HistogramVec
	forwarded          *prometheus.CounterVec
	strangers, crowded prometheus.Counter
	panics             prometheus.Counter
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_dns_" + name, Help: help})
	}
	return &metrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_dns_queries_total", Help: "DNS queries answered, by the kind of the name and the result.",
		}, []string{"zone", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sluice_dns_query_seconds", Help: "How long an answer took, from the query read to the answer sent.",
			Buckets: []float64{10e-6, 30e-6, 100e-6, 300e-6, 1e-3, 3e-3, 10e-3, 30e-3, 0.1, 0.3, 1, 3},
		}, []string{"zone"}),
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_dns_forwarded_total", Help: "Queries that no cache answered, asked of other servers, by result.",
		}, []string{"result"}),
		strangers: counter("refused_sources_total", "DNS datagrams and connections dropped: from elsewhere, or too many from one source."),
		crowded:   counter("crowded_total", "DNS queries refused because too many wait for other servers."),
		panics:    counter("panics_total", "DNS queries that met a fault in the server."),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.queries, m.seconds, m.forwarded, m.strangers, m.crowded, m.panics}
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all() {
		c.Describe(out)
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	for _, c := range s.metrics.all() {
		c.Collect(out)
	}
}

func (m *metrics) count(kind string, rcode int, result string, took time.Duration) {
	if result == "" {
		result = resultOf(rcode)
	}
	m.queries.WithLabelValues(kind, result).Inc()
	m.seconds.WithLabelValues(kind).Observe(took.Seconds())
}

// resultOf names the codes that are met every day.
func resultOf(rcode int) string {
	switch rcode {
	case dns.RcodeSuccess, dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNameError,
		dns.RcodeNotImplemented, dns.RcodeRefused:
		return dns.RcodeToString[rcode]
	}
	return resultRare
}
