package main

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serveMetrics serves Prometheus on a loopback address until ctx ends.
func (a *agent) serveMetrics(ctx context.Context) error {
	if a.config.Metrics.Listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", a.config.Metrics.Listen)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metricsHandler())
	return serveHTTP(ctx, l, mux, a.log)
}

// metricsHandler answers with what each part counts.
func (a *agent) metricsHandler() http.Handler {
	a.once.Do(func() {
		a.exposed = promhttp.HandlerFor(a.metrics(), promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: readTimeout})
	})
	return a.exposed
}

// metrics gathers what each part counts.
func (a *agent) metrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "sluice_build_info",
		Help:        "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "node": a.node.Name},
	})
	build.Set(1)
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, a.store.Collector(), a.loader.Collector(), a.cni, a.checker,
	)
	if a.eureka != nil {
		r.MustRegister(a.eureka)
	}
	if a.dns != nil {
		r.MustRegister(a.dns)
	}
	return r
}
