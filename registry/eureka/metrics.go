package eureka

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-net/sluice/registry/eureka/wire"
)

var _ prometheus.Collector = (*Server)(nil)

// metrics counts what the server does.
type metrics struct {
	requests   *prometheus.CounterVec
	heartbeats prometheus.Counter
	remembered prometheus.Counter
	tasks      prometheus.Counter
	peerTasks  *prometheus.CounterVec
	copied     prometheus.Counter
	all        []prometheus.Collector
}

func newMetrics(s *Server) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_eureka_" + name, Help: help})
	}
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_eureka_" + name, Help: help}, read)
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_eureka_requests_total", Help: "Requests of Eureka's protocol, by route and status of the answer.",
		}, []string{"route", "code"}),
		heartbeats: counter("heartbeats_total", "Heartbeats of instances that renewed a lease."),
		remembered: counter("heartbeats_remembered_total", "Heartbeats while the store was away."),
		tasks:      counter("tasks_total", "Tasks in the batches that peers sent."),
		peerTasks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_eureka_peer_tasks_total",
			Help: "Tasks for a peer, by what became of them: sent; replaced by a newer one, expired or dropped (too many wait) before; refused.",
		}, []string{"peer", "result"}),
		copied: counter("copied_instances_total", "Instances of peers that were taken over at the start."),
	}
	m.all = []prometheus.Collector{
		m.requests, m.heartbeats, m.remembered, m.tasks, m.peerTasks, m.copied,
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "sluice_eureka_pages_written_total", Help: "Pieces of answers about the whole registry that were written anew.",
		}, func() float64 { return float64(s.writer.pages.Load()) }),
		gauge("delta_instances", "Instances that changed within the time of the delta.", func() float64 {
			s.view.mu.Lock()
			defer s.view.mu.Unlock()
			return float64(s.view.recent.book.count)
		}),
	}
	for _, status := range []wire.Status{wire.Up, wire.Down, wire.Starting, wire.OutOfService, wire.Unknown} {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sluice_eureka_instances", Help: "Instances that readers are told of, by status.",
			ConstLabels: prometheus.Labels{"status": string(status)},
		}, func() float64 {
			s.view.mu.Lock()
			defer s.view.mu.Unlock()
			return float64(s.view.counts[status])
		}))
	}
	for _, p := range s.peers {
		m.peer(p)
	}
	return m
}

func (m *metrics) peer(p *peer) {
	gauge := func(name, help string, read func(Peer) float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sluice_eureka_peer_" + name, Help: help, ConstLabels: prometheus.Labels{"peer": p.name},
		}, func() float64 { return read(p.state()) }))
	}
	gauge("waiting_tasks", "Tasks that a peer is yet to be told.", func(s Peer) float64 { return float64(s.Waiting) })
	gauge("reached", "0 while a peer cannot be told of changes, else 1.", func(s Peer) float64 {
		if s.Err != nil {
			return 0
		}
		return 1
	})
}

func (m *metrics) request(route string, code int) {
	m.requests.WithLabelValues(route, strconv.Itoa(code)).Inc()
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.metrics.all {
		c.Collect(ch)
	}
}
