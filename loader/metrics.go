package loader

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what the loader counts itself.
type metrics struct {
	mu       sync.Mutex
	duration prometheus.Histogram
	errors   prometheus.Counter
}

func (m *metrics) init() {
	m.duration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "sluice_sync_duration_seconds",
		Help:    "How long it took to bring the maps to a new desired state.",
		Buckets: prometheus.ExponentialBuckets(20e-6, 4, 10),
	})
	m.errors = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sluice_sync_errors_total",
		Help: "Syncs after which something was missing in the maps.",
	})
}

func (m *metrics) synced(d time.Duration, err error) {
	m.duration.Observe(d.Seconds())
	if err != nil {
		m.errors.Inc()
	}
}
