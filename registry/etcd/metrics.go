package etcd

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const scrapeTimeout = 2 * time.Second

// collector reports the registry's health when it is asked.
type collector struct {
	store                           *Store
	up, revision, size, used, quota *prometheus.Desc
	damaged, vips, vipLimit         *prometheus.Desc

	instances, held, expired, renewals, owed *prometheus.Desc
}

// Collector returns the registry's metrics.
func (s *Store) Collector() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_registry_"+name, help, labels, nil)
	}
	return &collector{
		store:    s,
		up:       desc("up", "1 when the registry answers reads and takes writes."),
		revision: desc("revision", "Revision of the registry that this node has seen."),
		size:     desc("database_bytes", "Size of the registry's database file."),
		used:     desc("database_used_bytes", "Bytes of the database file that hold data."),
		quota:    desc("database_quota_bytes", "Size of the database file at which writes fail."),
		damaged:  desc("invalid_values_total", "Values met in the registry that could not be read."),
		vips:     desc("vips", "Virtual addresses in use, by range.", "range"),
		vipLimit: desc("vips_limit", "Virtual addresses that a range has.", "range"),

		instances: desc("instances", "Instances that are registered."),
		held:      desc("expiries_held", "Instances that do not renew their leases and are kept for now, by service.", "namespace", "service"),
		expired:   desc("expiries_total", "Instances that this agent deleted because they did not renew their leases."),
		renewals:  desc("renewals_total", "Renewals of leases that this agent was asked for."),
		owed:      desc("renewals_owed", "Renewals that were answered while the store was away, and that it is still to get."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.revision, c.size, c.used, c.quota, c.damaged, c.vips, c.vipLimit,
		c.instances, c.held, c.expired, c.renewals, c.owed} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	up := 0.0
	if c.store.Health(ctx) == nil {
		up = 1
	}
	gauge(c.up, up)
	gauge(c.revision, float64(c.store.seen.Load()))
	if c.store.server != nil { // or else its members report them
		server := c.store.server.Server
		gauge(c.size, float64(server.Backend().Size()))
		gauge(c.used, float64(server.Backend().SizeInUse()))
		gauge(c.quota, float64(c.store.quota))
	}
	count := func(d *prometheus.Desc, v int64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	count(c.damaged, c.store.damaged.Load())
	count(c.expired, c.store.expired.Load())
	count(c.renewals, c.store.renewals.Load())
	gauge(c.owed, float64(c.store.owed.len()))
	gauge(c.instances, float64(c.store.instances.len()))
	for _, h := range c.store.Lapsed() {
		gauge(c.held, float64(h.Lapsed), h.Service.Namespace, h.Service.Name)
	}
	pools, err := c.store.Pools(ctx)
	if err != nil {
		return // up says so
	}
	for _, p := range pools {
		gauge(c.vips, float64(p.Used), p.CIDR.String())
		gauge(c.vipLimit, float64(p.Size), p.CIDR.String())
	}
}
