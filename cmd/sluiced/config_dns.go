package main

import (
	"net/netip"
	"path/filepath"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry/dns"
)

// dnsConfig says what the agent answers to DNS queries, and where.
type dnsConfig struct {
	Enabled bool
	Listen  []netip.AddrPort // besides the node-local addresses, which only containers and the node itself reach
	Domain  string           // what all names end with
	TTL     int              // of answers, in seconds
	// Upstreams know all other names: addresses, or files in the form of resolv.conf(5).
	Upstreams []string
	Cache     int // answers of theirs that are remembered, and as many denials
}

func defaultDNS() dnsConfig {
	return dnsConfig{
		Enabled: true, Domain: "cluster.local", TTL: 5, Upstreams: []string{"/etc/resolv.conf"}, Cache: 4096,
	}
}

func (c *dnsConfig) schema(d *document) decoder {
	return d.object(keys{
		"enabled":   d.boolean(&c.Enabled),
		"listen":    list(d, &c.Listen, parseListen),
		"domain":    d.text(&c.Domain),
		"ttl":       d.integer(&c.TTL),
		"upstreams": list(d, &c.Upstreams, parseUpstream),
		"cache":     d.integer(&c.Cache),
	})
}

func (c *dnsConfig) check(d *document) {
	if wrong := validation.IsDNS1123Subdomain(c.Domain); len(wrong) > 0 {
		d.fail("dns.domain", "%q: %s", c.Domain, wrong[0])
	}
	if c.TTL < 0 || c.TTL > dns.MaxTTL {
		d.fail("dns.ttl", "%d: want 0 to %d seconds", c.TTL, dns.MaxTTL)
	}
	if c.Cache < 0 || c.Cache > dns.MaxCache {
		d.fail("dns.cache", "%d: want 0 to %d answers", c.Cache, dns.MaxCache)
	}
}

// parseUpstream checks a DNS server or a file that names some.
func parseUpstream(text string) (string, error) {
	if filepath.IsAbs(text) {
		return filepath.Clean(text), nil
	}
	_, err := dns.ParseUpstream(text)
	return text, err
}
