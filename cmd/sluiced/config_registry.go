package main

import (
	"fmt"
	"time"

	"github.com/sluice-net/sluice/registry/etcd"
)

// registrySchema is the part of the configuration that says where the registry is, and how fast it lets go of
// instances.
func (c *Config) registrySchema(d *document) decoder {
	cluster := &c.Registry.Cluster
	return d.object(keys{
		"embedded": d.object(keys{}),
		"expiry": d.object(keys{
			"most":  d.integer(&c.Registry.Expiry.Most),
			"every": value(d, &c.Registry.Expiry.Every, parseEvery),
		}),
		"etcd": list(d, &cluster.Endpoints, func(s string) (string, error) { return s, nil }),
		"tls": d.object(keys{
			"ca":   d.text(&cluster.CA),
			"cert": d.text(&cluster.Cert),
			"key":  d.text(&cluster.Key),
		}),
	})
}

// parseEvery reads a length of time.
func parseEvery(text string) (time.Duration, error) {
	every, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q: want a duration such as 30s", text)
	}
	return every, nil
}

func (c *Config) checkRegistry(d *document) {
	if err := c.Registry.Expiry.Validate(); err != nil {
		d.fail("registry.expiry", "%v", err)
	}
	_, embedded := d.lines["registry.embedded"]
	_, cluster := d.lines["registry.etcd"]
	_, tls := d.lines["registry.tls"]
	switch {
	case embedded && cluster:
		d.fail("registry.etcd", "the store is either embedded or a cluster: leave out this or registry.embedded")
	case cluster:
		if err := c.Registry.Cluster.Validate(); err != nil {
			d.fail("registry.etcd", "%v", err)
		}
	case tls:
		d.fail("registry.tls", "of no use to an embedded store: name the members of a cluster in registry.etcd")
	}
}

// cluster is the etcd to use; nil: an embedded one.
func (c *Config) cluster() *etcd.Cluster {
	if len(c.Registry.Cluster.Endpoints) == 0 {
		return nil
	}
	return &c.Registry.Cluster
}
