package loader

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sluice-net/sluice/registry"
)

// metrics is what the loader counts itself.
type metrics struct {
	duration prometheus.Histogram
	errors   prometheus.Counter

	sweepErrors prometheus.Counter
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
	m.sweepErrors = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sluice_sweep_errors_total",
		Help: "Network namespaces in which sockets whose backend is gone could not be looked for.",
	})
}

func (m *metrics) synced(d time.Duration, err error) {
	m.duration.Observe(d.Seconds())
	if err != nil {
		m.errors.Inc()
	}
}

// Collector returns what Prometheus scrapes. It reads the maps at each scrape.
func (l *Loader) Collector() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_"+name, help, labels, nil)
	}
	perService := func(name, help string) *prometheus.Desc {
		return desc("service_"+name, help, "namespace", "service", "port", "protocol")
	}
	return &collector{
		loader:      l,
		connections: perService("connections_total", "Flows and sockets that were given a backend."),
		refused:     perService("refused_total", "Flows and sockets refused because the service had no backend."),
		packets:     perService("packets_total", "Packets that tc translated, both directions."),
		bytes:       perService("bytes_total", "Length of the packets that tc translated, link header included."),

		drops: desc("drops_total", "Packets dropped. Of new flows that policies deny, reason is whose policies: egress, the sender's, or ingress, the receiver's.", "reason"),
		policies: desc("policy_flows_total", "New flows, and packets of protocols without flows, by the policy that decided. Audited: allowed in audit mode only.",
			"direction", "verdict", "kind", "policy"),

		entries: desc("map_entries", "Entries of a map in use; of a cache, up to a minute old.", "map"),
		limit:   desc("map_limit_entries", "Entries that a map has room for.", "map"),
		memory:  desc("map_memory_bytes", "Memory that the kernel holds for a map.", "map"),

		revision: desc("sync_revision", "Revision of the registry that the maps reflect."),
		lag:      desc("sync_lag_seconds", "For how long a change has been on its way to the maps; 0: none is."),
		pending:  desc("sync_pending_frontends", "Frontends that are not in the maps as they should be."),
		writes:   desc("sync_writes_total", "Entries of a map that were written for services.", "map"),
		draining: desc("draining_backends", "Backends of frontends that keep what they have and take nothing new."),
		closed:   desc("closed_identities", "Identities of containers that are closed because their policies could not be written."),
		attached: desc("attached_interfaces", "Interfaces of containers that the programs serve."),
		errors:   desc("scrape_errors", "Groups of the loader's metrics that could not be read in this scrape."),
	}
}

// collector implements prometheus.Collector.
type collector struct {
	loader                                           *Loader
	connections, refused                             *prometheus.Desc
	packets, bytes                                   *prometheus.Desc
	drops, policies                                  *prometheus.Desc
	entries, limit, memory                           *prometheus.Desc
	revision, lag, pending, closed, attached, errors *prometheus.Desc
	draining, writes                                 *prometheus.Desc
}

// counterHelp says what the fields of struct counters that are no drops count. One that is not here
// is exported under its name alone.
func counterHelp(name string) string {
	switch name {
	case "flows_created":
		return "Flows that tc entered."
	case "flows_renewed":
		return "Flows decided anew because what they were decided from has changed."
	case "ports_rewritten":
		return "Flows that got another source port, to stay apart from another."
	case "sock_translated":
		return "Connects and unconnected sends given a backend by a socket hook."
	case "sock_refused":
		return "Connects and unconnected sends refused because the VIP had no backend."
	case "arp_replies":
		return "ARP requests and neighbour solicitations answered for the gateway."
	case "refused":
		return "Packets answered with TCP RST or ICMP unreachable."
	case "echo_replies":
		return "Echo requests to a VIP that were answered."
	case "icmp_translated":
		return "ICMP errors about a translated packet, translated back."
	case "audited":
		return "New flows and single packets that passed only for audit mode."
	case "events_lost":
		return "Events that were not reported: more than the rate allows, or the agent too slow."
	}
	return "Counter " + name + " of the programs."
}

// Describe sends nothing: which counters there are is the programs' matter.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector. What cannot be read is left out, and counted.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	failed := 0
	for _, collect := range []func(chan<- prometheus.Metric) error{
		c.collectServices, c.collectCounters, c.collectPolicies, c.collectMaps,
	} {
		if err := collect(out); err != nil {
			failed++
		}
	}
	l := c.loader
	gauge := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	gauge(c.errors, float64(failed))
	gauge(c.revision, float64(l.Revision()))
	gauge(c.lag, l.progress.lag(l.o.now()).Seconds())
	gauge(c.pending, float64(l.pending()))
	gauge(c.draining, float64(l.Draining()))
	gauge(c.closed, float64(l.closedIdentities()))
	gauge(c.attached, float64(len(l.Interfaces())))
	for name, n := range l.Writes().byMap() {
		out <- prometheus.MustNewConstMetric(c.writes, prometheus.CounterValue, float64(n), name)
	}
	l.metrics.duration.Collect(out)
	l.metrics.errors.Collect(out)
	l.metrics.sweepErrors.Collect(out)
}

func (c *collector) collectServices(out chan<- prometheus.Metric) error {
	stats, err := c.loader.Stats()
	for _, s := range stats {
		send := func(d *prometheus.Desc, v uint64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v),
				s.Service.Namespace, s.Service.Name, s.Label(), s.Protocol.String())
		}
		send(c.connections, s.Connections)
		send(c.refused, s.Refused)
		send(c.packets, s.Packets)
		send(c.bytes, s.Bytes)
	}
	return err
}

func (c *collector) collectCounters(out chan<- prometheus.Metric) error {
	list, err := c.loader.Counters()
	for _, counter := range list {
		if reason, drop := strings.CutPrefix(counter.Name, "drop_"); drop {
			out <- prometheus.MustNewConstMetric(c.drops, prometheus.CounterValue,
				float64(counter.Value), reason)
			continue
		}
		d := prometheus.NewDesc("sluice_"+counter.Name+"_total", counterHelp(counter.Name), nil, nil)
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(counter.Value))
	}
	return err
}

// collectPolicies sends what the policies that there are have decided, where that is anything.
func (c *collector) collectPolicies(out chan<- prometheus.Metric) error {
	list, err := c.loader.PolicyStats()
	for _, p := range list {
		for d := range 2 {
			for verdict, n := range map[string]uint64{"allowed": p.Allowed[d], "denied": p.Denied[d], "audited": p.Audited[d]} {
				if n > 0 {
					out <- prometheus.MustNewConstMetric(c.policies, prometheus.CounterValue, float64(n),
						registry.Direction(d).String(), verdict, p.Policy.Tier.String(), policyLabel(p.Policy))
				}
			}
		}
	}
	return err
}

// policyLabel is NAMESPACE/NAME, or NAME of a cluster-wide policy.
func policyLabel(id registry.PolicyID) string {
	if id.Namespace == "" {
		return id.Name.Name
	}
	return id.Name.String()
}

func (c *collector) collectMaps(out chan<- prometheus.Metric) error {
	list, err := c.loader.Maps()
	for _, m := range list {
		send := func(d *prometheus.Desc, v uint64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), m.Name)
		}
		send(c.entries, m.Entries)
		send(c.limit, m.Limit)
		send(c.memory, m.Bytes)
	}
	return err
}
