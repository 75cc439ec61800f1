package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// healthPatience bounds how long a scrape waits for the registry's word.
const healthPatience = 2 * time.Second

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
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics(ctx), promhttp.HandlerOpts{
		MaxRequestsInFlight: 4,
		Timeout:             readTimeout,
	}))
	return serveHTTP(ctx, l, mux, a.log)
}

// metrics gathers what each part counts.
func (a *agent) metrics(ctx context.Context) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "sluice_build_info",
		Help:        "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "node": a.node.Name},
	})
	build.Set(1)
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sluice_registry_up",
		Help: "Whether the registry takes changes: 1 or 0.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(ctx, healthPatience)
		defer cancel()
		if a.store.Health(ctx) != nil {
			return 0
		}
		return 1
	})
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, up, a.loader.Collector(), a.cni,
	)
	return r
}
