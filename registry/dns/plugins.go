package dns

import (
	"context"
	"fmt"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/cache" // the directive
	"github.com/coredns/coredns/plugin/forward"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"
	"github.com/miekg/dns"
)

const (
	// maxCached is the longest answer that is remembered, in bytes: the cache counts answers, not what they take.
	maxCached = 2048
	// How long answers and denials are remembered at most, in seconds.
	cacheTTL, denialTTL = 3600, 60
	// maxUpstreams is how many servers forward takes.
	maxUpstreams = 15
)

// chain is CoreDNS' plugins for one list of servers.
type chain struct {
	servers []string // ADDRESS:PORT
	head    plugin.Handler
	forward *forward.Forward
}

// newChain sets the plugins up as CoreDNS itself does, from what a Corefile would say: their settings have no other
// way in. Of the five that a node's CoreDNS has, two are here. "errors" logs a line for every query that fails, past our
// logger; "loop" ends the process (log.Fatalf) when it finds one; "loadbalance" shuffles what the zone rotates itself.
func newChain(servers []string, cache int, count func(rcode int)) (*chain, error) {
	last, err := directive("forward", fmt.Sprintf("forward . %s {\n policy sequential\n max_idle_conns 64\n}", strings.Join(servers, " ")))
	if err != nil {
		return nil, err
	}
	c := &chain{servers: servers}
	var ok bool
	if c.forward, ok = last(nil).(*forward.Forward); !ok {
		return nil, fmt.Errorf("set up forward: it is a %T", last(nil))
	}
	c.head = &weigher{next: c.forward, count: count}
	if cache > 0 {
		before, err := directive("cache", fmt.Sprintf("cache . {\n success %d %d\n denial %d %d\n servfail 1s\n}", cache, cacheTTL, cache, denialTTL))
		if err != nil {
			return nil, err
		}
		c.head = before(c.head)
	}
	return c, c.forward.OnStartup()
}

// directive has a plugin read its lines of a Corefile.
func directive(name, lines string) (plugin.Plugin, error) {
	setup, err := caddy.DirectiveAction("dns", name)
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", name, err)
	}
	c := caddy.NewTestController("dns", lines) // CoreDNS' own way to set up one plugin alone
	if err := setup(c); err != nil {
		return nil, fmt.Errorf("set up %s: %w", name, err)
	}
	plugins := dnsserver.GetConfig(c).Plugin
	if len(plugins) != 1 {
		return nil, fmt.Errorf("set up %s: %d plugins", name, len(plugins))
	}
	return plugins[0], nil
}

func (c *chain) serve(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	box := &heavy{}
	rcode, err := c.head.ServeDNS(context.WithValue(ctx, heavyKey{}, box), w, r)
	if box.msg != nil && err == nil {
		return rcode, w.WriteMsg(box.msg)
	}
	return rcode, err
}

func (c *chain) stop() { _ = c.forward.OnShutdown() }

// weigher hands long answers past the cache.
type weigher struct {
	next  plugin.Handler
	count func(rcode int)
}

// heavy is where they go.
type heavy struct{ msg *dns.Msg }

type heavyKey struct{}

// Name implements plugin.Handler.
func (*weigher) Name() string { return "weigher" }

// ServeDNS implements plugin.Handler.
func (h *weigher) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	box := nonwriter.New(w)
	rcode, err := h.next.ServeDNS(ctx, box, r)
	if box.Msg == nil {
		h.count(dns.RcodeServerFailure)
		return rcode, err
	}
	h.count(box.Msg.Rcode)
	if past, ok := ctx.Value(heavyKey{}).(*heavy); ok && box.Msg.Len() > maxCached {
		past.msg = box.Msg
		return rcode, err
	}
	return rcode, w.WriteMsg(box.Msg)
}
