package main

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd"
)

// Config is the agent's configuration file. defaults fills every key; a file changes some.
type Config struct {
	Node struct {
		Name      string       // of this machine in the registry; a DNS name in lower case
		Zone      string       // topology zone; may be empty
		Addresses []netip.Addr // of the node; empty: those of the devices with a default route, as they come and go
	}
	Paths struct {
		State  string // survives a reboot: registry, attachment records
		Run    string // sockets; may be lost at a reboot
		BPFFS  string // directory for this agent's pins
		Cgroup string // whose processes' sockets are translated
	}
	Registry struct {
		Cluster etcd.Cluster // without endpoints: the store is embedded
		// Expiry bounds how many instances of a service that no longer renew their leases go at once.
		Expiry etcd.ExpiryLimit
	}
	Containers struct {
		CIDRs []netip.Prefix // where containers on this node get their addresses from
		MTU   int            // of containers' interfaces, in bytes; 0: that of the uplink
	}
	Services struct {
		CIDRs           []netip.Prefix     // where services get their VIPs from
		NodePorts       etcd.PortRange     // where ports get their node ports from
		Algorithm       registry.Algorithm // of services that name none
		MaglevTableSize int                // slots at least; a prime, see loader.MaglevTableSizes
	}
	Flows    loader.Lifetimes // how long flows may be silent
	Datapath struct {
		SocketTranslation bool    // translate at connect and sendmsg; off: only packets are
		MapScale          float64 // multiplies the default size of every BPF map
		Attach            string  // how programs come onto veths: auto, tcx or clsact
	}
	Policy struct {
		Audit bool // no policy drops anything: what it would drop is reported
	}
	Events struct {
		Rate   int // events that each CPU reports at most a second
		Sample int // report the verdict on one of so many new flows; 0: on none
	}
	API     apiConfig
	Access  accessConfig
	Health  healthConfig
	Eureka  eurekaConfig
	DNS     dnsConfig
	Metrics struct {
		Listen string // loopback ADDRESS:PORT of the Prometheus endpoint; empty: none
	}
}

// Socket is where the agent serves sluice and sluice-cni.
func (c *Config) Socket() string { return filepath.Join(c.Paths.Run, socketName) }

const (
	attachAuto = "auto"
	socketName = "sluiced.sock"
	// maxConfig bounds the configuration file, in bytes.
	maxConfig = 1 << 20
	// maxEventRate fills the ring buffer of events in a tenth of a second.
	maxEventRate = 100_000
	// maxSocketPath is what a sockaddr_un holds (unix(7)), less the closing NUL and ".new".
	maxSocketPath = 103
)

func defaults() *Config {
	c := &Config{}
	c.Node.Name = hostname()
	c.Paths.State = "/var/lib/sluice"
	c.Paths.Run = "/run/sluice"
	c.Paths.BPFFS = "/sys/fs/bpf/sluice"
	c.Paths.Cgroup = "/sys/fs/cgroup"
	c.Containers.CIDRs = prefixes("10.244.1.0/24", "fd00:10:244:1::/64")
	c.Services.CIDRs = prefixes("10.96.0.0/16", "fd00:10:96::/112")
	c.Services.NodePorts = etcd.DefaultNodePorts()
	c.Registry.Expiry = etcd.DefaultExpiryLimit()
	c.Services.Algorithm = registry.AlgorithmRandom
	c.Services.MaglevTableSize = loader.DefaultMaglevTableSize
	c.Flows = loader.DefaultLifetimes()
	c.Datapath.SocketTranslation = true
	c.Datapath.MapScale = 1
	c.Datapath.Attach = attachAuto
	c.Events.Rate = 1000
	c.Eureka = defaultEureka()
	c.API = defaultAPI()
	c.Metrics.Listen = "127.0.0.1:9464"
	c.DNS = defaultDNS()
	return c
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// hostname is the machine's name in the form that node names have, or "node".
func hostname() string {
	name, err := os.Hostname()
	name = strings.ToLower(name)
	if err != nil || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "node"
	}
	return name
}

// loadConfig reads the file at path over the defaults. No path: the defaults alone. The error holds
// one line, FILE:LINE: KEY: REASON, for each thing that is wrong.
func loadConfig(path string) (*Config, error) {
	if path == "" {
		return defaults(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return parseConfig(path, data)
}

func parseConfig(file string, data []byte) (*Config, error) {
	c := defaults()
	d := newDocument(file)
	d.read(data, c.schema(d))
	if d.err() == nil {
		c.check(d)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// schema says which keys there are and where their values go.
func (c *Config) schema(d *document) decoder {
	return d.object(keys{
		"node": d.object(keys{
			"name":      d.text(&c.Node.Name),
			"zone":      d.text(&c.Node.Zone),
			"addresses": list(d, &c.Node.Addresses, parseAddr),
		}),
		"paths": d.object(keys{
			"state":  d.text(&c.Paths.State),
			"run":    d.text(&c.Paths.Run),
			"bpffs":  d.text(&c.Paths.BPFFS),
			"cgroup": d.text(&c.Paths.Cgroup),
		}),
		"registry": c.registrySchema(d),
		"containers": d.object(keys{
			"cidrs": list(d, &c.Containers.CIDRs, parsePrefix),
			"mtu":   d.integer(&c.Containers.MTU),
		}),
		"services": d.object(keys{
			"cidrs":           list(d, &c.Services.CIDRs, parsePrefix),
			"nodePorts":       value(d, &c.Services.NodePorts, etcd.ParsePortRange),
			"algorithm":       d.text((*string)(&c.Services.Algorithm)),
			"maglevTableSize": d.integer(&c.Services.MaglevTableSize),
		}),
		"flows": d.object(keys{
			"tcp": d.object(keys{
				"opening":     d.lifetime(&c.Flows.TCPOpening),
				"established": d.lifetime(&c.Flows.TCPEstablished),
				"closing":     d.lifetime(&c.Flows.TCPClosing),
				"timeWait":    d.lifetime(&c.Flows.TCPTimeWait),
				"reset":       d.lifetimeOrNone(&c.Flows.TCPReset),
			}),
			"udp": d.object(keys{
				"unanswered": d.lifetime(&c.Flows.UDPUnanswered),
				"answered":   d.lifetime(&c.Flows.UDPAnswered),
			}),
			"sctp": d.object(keys{
				"opening":     d.lifetime(&c.Flows.SCTPOpening),
				"established": d.lifetime(&c.Flows.SCTPEstablished),
				"closing":     d.lifetime(&c.Flows.SCTPClosing),
			}),
			"other": d.lifetime(&c.Flows.Other),
		}),
		"datapath": d.object(keys{
			"socketTranslation": d.boolean(&c.Datapath.SocketTranslation),
			"mapScale":          d.number(&c.Datapath.MapScale),
			"attach":            d.text(&c.Datapath.Attach),
		}),
		"policy": d.object(keys{
			"audit": d.boolean(&c.Policy.Audit),
		}),
		"events": d.object(keys{
			"rate":   d.integer(&c.Events.Rate),
			"sample": d.integer(&c.Events.Sample),
		}),
		"api":    c.API.schema(d),
		"access": c.Access.schema(d),
		"health": c.Health.schema(d),
		"eureka": c.Eureka.schema(d),
		"dns":    c.DNS.schema(d),
		"metrics": d.object(keys{
			"listen": d.text(&c.Metrics.Listen),
		}),
	})
}

// check judges the values, each by itself and against each other.
func (c *Config) check(d *document) {
	if wrong := validation.IsDNS1123Subdomain(c.Node.Name); len(wrong) > 0 {
		d.fail("node.name", "%q: %s", c.Node.Name, wrong[0])
	}
	if wrong := validation.IsValidLabelValue(c.Node.Zone); len(wrong) > 0 {
		d.fail("node.zone", "%q: %s", c.Node.Zone, wrong[0])
	}
	c.checkPaths(d)
	c.checkRegistry(d)
	c.checkRanges(d)
	if all := registry.Algorithms(); !slices.Contains(all, c.Services.Algorithm) {
		d.fail("services.algorithm", "%q: want one of %v", c.Services.Algorithm, all)
	}
	if all, size := loader.MaglevTableSizes(), c.Services.MaglevTableSize; size < 0 || !slices.Contains(all, uint32(size)) {
		d.fail("services.maglevTableSize", "%d: want one of %v", size, all)
	}
	if s := c.Datapath.MapScale; !(s >= 0.001 && s <= 64) { // so that NaN fails as well
		d.fail("datapath.mapScale", "%v: want 0.001 to 64", s)
	}
	if _, ok := attachMode(c.Datapath.Attach); !ok {
		d.fail("datapath.attach", "%q: want auto, tcx or clsact", c.Datapath.Attach)
	}
	if r := c.Events.Rate; r < 1 || r > maxEventRate {
		d.fail("events.rate", "%d: want 1 to %d", r, maxEventRate)
	}
	if n := c.Events.Sample; n < 0 || n > math.MaxInt32 {
		d.fail("events.sample", "%d: want 0 to %d", n, math.MaxInt32)
	}
	c.API.check(d)
	c.Access.check(d)
	c.Eureka.check(d)
	c.Eureka.checkPeers(d, c.Node.Addresses)
	c.DNS.check(d)
	if c.Metrics.Listen == "" {
		return
	}
	listen, err := netip.ParseAddrPort(c.Metrics.Listen)
	switch {
	case err != nil:
		d.fail("metrics.listen", "%q: want an address and a port, such as 127.0.0.1:9464", c.Metrics.Listen)
	case !listen.Addr().IsLoopback():
		d.fail("metrics.listen", "%s: not a loopback address", listen.Addr())
	}
}

func (c *Config) checkPaths(d *document) {
	for _, p := range []struct {
		key  string
		path *string
	}{
		{"paths.state", &c.Paths.State},
		{"paths.run", &c.Paths.Run},
		{"paths.bpffs", &c.Paths.BPFFS},
		{"paths.cgroup", &c.Paths.Cgroup},
	} {
		if !filepath.IsAbs(*p.path) || strings.ContainsRune(*p.path, 0) {
			d.fail(p.key, "%q: want an absolute path", *p.path)
			continue
		}
		*p.path = filepath.Clean(*p.path)
	}
	if socket := c.Socket(); len(socket) > maxSocketPath {
		d.fail("paths.run", "%s: %d bytes, a socket's path has room for %d", socket, len(socket), maxSocketPath)
	}
	if c.Paths.State == c.Paths.Run {
		d.fail("paths.run", "%s: the same as paths.state", c.Paths.Run)
	}
}

// checkRanges wants every address of the configuration to belong to one range only.
func (c *Config) checkRanges(d *document) {
	type entry struct {
		key    string
		prefix netip.Prefix
	}
	var all []entry
	add := func(key string, cidrs []netip.Prefix) {
		if len(cidrs) == 0 {
			d.fail(key, "want at least one range")
		}
		for i, p := range cidrs {
			all = append(all, entry{fmt.Sprintf("%s[%d]", key, i), p})
		}
	}
	add("containers.cidrs", c.Containers.CIDRs)
	add("services.cidrs", c.Services.CIDRs)
	for i, e := range all {
		for _, other := range all[:i] {
			if e.prefix.Overlaps(other.prefix) {
				d.failLater(e.key, other.key, "%s overlaps %s of %s", e.prefix, other.prefix)
			}
		}
		for j, a := range c.Node.Addresses {
			key := fmt.Sprintf("node.addresses[%d]", j)
			if e.prefix.Contains(a) {
				d.fail(key, "%s lies in %s of %s", a, e.prefix, e.key)
			}
		}
	}
	least := 576 // every IPv4 host takes that (RFC 791)
	if slices.ContainsFunc(c.Containers.CIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		least = 1280 // RFC 8200, 5
	}
	if m := c.Containers.MTU; m != 0 && (m < least || m > 65535) {
		d.fail("containers.mtu", "%d: want 0, or %d to 65535", m, least)
	}
}

// parseAddr reads an address that a node can have.
func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("%q: want an IPv4 or IPv6 address", text)
	}
	return a, usable(a)
}

// parsePrefix reads a range that containers or services can have addresses of.
func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("%q: want a range such as 10.244.1.0/24", text)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s: has bits set beyond the prefix; did you mean %s", p, p.Masked())
	}
	if p.Bits() < 8 || p.IsSingleIP() {
		return p, fmt.Errorf("%s: want a prefix length of 8 to %d", p, p.Addr().BitLen()-1)
	}
	return p, usable(p.Addr())
}

func usable(a netip.Addr) error {
	switch {
	case a.Is4In6():
		return fmt.Errorf("%s: write an IPv4 address as %s", a, a.Unmap())
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast():
		return fmt.Errorf("%s: an unspecified, loopback, multicast or link-local address cannot be used here", a)
	}
	return nil
}

// attachMode reads datapath.attach.
func attachMode(s string) (mode loader.AttachMode, ok bool) {
	switch s {
	case attachAuto:
		return loader.AttachAuto, true
	case string(loader.AttachTCX), string(loader.AttachClsact):
		return loader.AttachMode(s), true
	}
	return "", false
}
