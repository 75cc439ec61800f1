package dns

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	dnsPort         = 53
	readUpstreams   = 5 * time.Second // how often a resolv.conf is read
	probeUpstreams  = 5 * time.Minute // how often it is tried whether one leads back here
	probePatience   = 2 * time.Second
	probeRecordType = dns.TypeHINFO // nobody asks for it otherwise
)

// upstreams are the servers that know all other names.
type upstreams struct {
	server *Server
	token  string // the label of a name that only a probe asks for
	chain  atomic.Pointer[chain]

	mu     sync.Mutex
	looped map[string]bool // by ADDRESS:PORT: asked, it asks here
	seen   bool            // the probe's name was asked for since the last probe
	err    error           // why the configuration is not what it should be
}

func newUpstreams(s *Server) *upstreams {
	return &upstreams{server: s, token: strings.ToLower(rand.Text()), looped: map[string]bool{}}
}

// any says whether there is a server to ask.
func (u *upstreams) any() bool { return u.chain.Load() != nil }

// serve asks them, or the cache. Without any, the code is REFUSED.
func (u *upstreams) serve(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	c := u.chain.Load()
	if c == nil {
		return dns.RcodeRefused, nil
	}
	return c.serve(ctx, w, r)
}

func (u *upstreams) health() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// run keeps the list equal to what is configured, until ctx ends.
func (u *upstreams) run(ctx context.Context) {
	read, probe := time.NewTicker(readUpstreams), time.NewTicker(probeUpstreams)
	defer read.Stop()
	defer probe.Stop()
	u.update(ctx, true)
	for {
		select {
		case <-ctx.Done():
			if c := u.chain.Swap(nil); c != nil {
				c.stop()
			}
			return
		case <-read.C:
			u.update(ctx, false)
		case <-probe.C:
			u.update(ctx, true)
		}
	}
}

// update reads the list, tries those that are new (all: every one), and uses those that lead elsewhere.
func (u *upstreams) update(ctx context.Context, all bool) {
	servers, err := u.read()
	if u.use(servers, err); all {
		u.mu.Lock()
		clear(u.looped)
		u.mu.Unlock()
	}
	for _, server := range servers {
		u.mu.Lock()
		_, known := u.looped[server]
		u.mu.Unlock()
		if known {
			continue
		}
		loops := u.probe(ctx, server)
		u.mu.Lock()
		u.looped[server] = loops
		u.mu.Unlock()
	}
	u.use(servers, err)
}

// use has queries go to the servers of a list that do not lead back here.
func (u *upstreams) use(servers []string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	errs := []error{err}
	var good []string
	for _, server := range servers {
		if u.looped[server] {
			errs = append(errs, fmt.Errorf("the DNS server %s asks this one: it is not asked", server))
			continue
		}
		good = append(good, server)
	}
	old := u.chain.Load()
	if old == nil && len(good) > 0 || old != nil && !slices.Equal(old.servers, good) {
		var next *chain
		if len(good) > 0 {
			var cerr error
			if next, cerr = newChain(good, u.server.opts.Cache, u.count); cerr != nil {
				errs = append(errs, cerr)
			}
		}
		u.chain.Store(next)
		if old != nil {
			old.stop()
		}
	}
	now := errors.Join(errs...)
	if now != nil && (u.err == nil || u.err.Error() != now.Error()) {
		u.server.log.Warn("not all DNS servers can be asked", "error", now)
	}
	u.err = now
}

func (u *upstreams) count(rcode int) {
	u.server.metrics.forwarded.WithLabelValues(resultOf(rcode)).Inc()
}

// read returns the servers of the configuration, as they are now.
func (u *upstreams) read() ([]string, error) {
	var servers []string
	var errs []error
	for _, entry := range u.server.opts.Upstreams {
		if !filepath.IsAbs(entry) {
			at, err := ParseUpstream(entry)
			errs = append(errs, err)
			if err == nil && !u.own(at) {
				servers = append(servers, at.String())
			}
			continue
		}
		c, err := dns.ClientConfigFromFile(entry)
		if err != nil {
			errs = append(errs, fmt.Errorf("read DNS servers: %w", err))
			continue
		}
		for _, text := range c.Servers {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				errs = append(errs, fmt.Errorf("%s: %q is no address that can be asked", entry, text))
				continue
			}
			if at := netip.AddrPortFrom(addr.Unmap(), dnsPort); !u.own(at) {
				servers = append(servers, at.String())
			}
		}
	}
	servers = unique(servers)
	return servers[:min(len(servers), maxUpstreams)], errors.Join(errs...)
}

// unique keeps the first of equal ones.
func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// ParseUpstream reads ADDRESS or ADDRESS:PORT.
func ParseUpstream(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	if addr, aerr := netip.ParseAddr(text); aerr == nil {
		at, err = netip.AddrPortFrom(addr, dnsPort), nil
	}
	if err != nil || at.Addr().Zone() != "" || at.Addr().IsUnspecified() || at.Addr().IsMulticast() || at.Port() == 0 {
		return at, fmt.Errorf("DNS server %q: want an address such as 192.0.2.53 or 192.0.2.53:53", text)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// own says whether an address is one that this server answers at.
func (u *upstreams) own(at netip.AddrPort) bool {
	return slices.ContainsFunc(u.server.opts.Listen, func(l Listener) bool {
		return l.Addr == at || l.Addr.Port() == at.Port() && slices.Contains(u.server.opts.Servers, at.Addr())
	})
}

// probe says whether a server asks this one for what it does not know. The name is of our own domain, so that
// nobody who is asked for it has a better answer.
func (u *upstreams) probe(ctx context.Context, server string) bool {
	u.mu.Lock()
	u.seen = false
	u.mu.Unlock()
	m := new(dns.Msg)
	m.SetQuestion(u.token+"."+u.server.zone.domain, probeRecordType)
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	client := dns.Client{Dialer: &net.Dialer{}}
	_, _, _ = client.ExchangeContext(ctx, m, server) // whatever it says
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.seen
}

// probed says whether a name, without the domain, is the probe's, and takes note.
func (u *upstreams) probed(rest string) bool {
	if rest != u.token {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = true
	return true
}
