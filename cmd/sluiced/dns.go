package main

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/dns"
)

const dnsPort = 53

// openDNS makes the server; nil: the configuration wants none.
func (a *agent) openDNS() (err error) {
	c := &a.config.DNS
	if !c.Enabled {
		return nil
	}
	var listen []dns.Listener
	for _, addr := range a.config.nodeLocal() {
		listen = append(listen, dns.Listener{Addr: netip.AddrPortFrom(addr, dnsPort), Allow: a.isHere})
	}
	for _, at := range c.Listen {
		listen = append(listen, dns.Listener{Addr: at})
	}
	a.dns, err = dns.New(dns.Options{
		Source: a.hub, Domain: c.Domain, TTL: uint32(c.TTL), Servers: a.config.nodeLocal(),
		Local:  slices.Concat(a.config.Services.CIDRs, a.config.Containers.CIDRs),
		Listen: listen, Upstreams: c.Upstreams, Cache: c.Cache, Logger: a.log.With("part", "dns"),
	})
	return err
}

// serveDNS answers until ctx ends.
func (a *agent) serveDNS(ctx context.Context) error {
	if a.dns == nil {
		return nil
	}
	return a.dns.Run(ctx)
}

// isHere tells whether a source is a container of this node, whose program lets no other source pass, or the node.
func (a *agent) isHere(source netip.Addr) bool {
	if slices.ContainsFunc(a.config.Containers.CIDRs, func(p netip.Prefix) bool { return p.Contains(source) }) {
		return true
	}
	if source.IsLoopback() || nodeLocal(source) {
		return true
	}
	own := a.owners.node.Load()
	if own == nil {
		return false
	}
	_, has := slices.BinarySearchFunc(*own, source, netip.Addr.Compare)
	return has
}

// dnsCondition tells what keeps DNS from being answered. It is no reason to keep a node from work.
func (a *agent) dnsCondition() []api.Condition {
	if a.dns == nil {
		return nil
	}
	return []api.Condition{condition("dns", a.dns.Health())}
}

// resolver is what a container's resolv.conf is to say: this node's server, and the names that containers of a
// namespace may shorten, as kubelet has it.
func (c *Config) resolver(namespace string) types.DNS {
	if !c.DNS.Enabled {
		return types.DNS{}
	}
	domain := "svc." + c.DNS.Domain
	d := types.DNS{
		Search:  []string{strings.ToLower(namespace) + "." + domain, domain, c.DNS.Domain},
		Options: []string{"ndots:5"},
	}
	for _, addr := range c.nodeLocal() {
		d.Nameservers = append(d.Nameservers, addr.String())
	}
	return d
}
