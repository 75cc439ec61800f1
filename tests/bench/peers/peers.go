// Package peers makes the ways that Sluice is measured beside: kube-proxy in both of its modes, by its own code, and
// nginx, which forwards in user space. Each has a client, a router and a server of its own (nstest.Direct), of which
// the router does the translation. Conntrack is on there: kube-proxy cannot do without.
package peers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// The names of the ways.
const (
	IPTables = "kube_proxy_iptables"
	NFTables = "kube_proxy_nftables"
	Nginx    = "nginx"
)

// backends are how many each service has but those that are measured, which have one.
const backends = path.Backends

// Makers returns the peers' ways. In dir lie the programs that make bench puts there: kubeproxy and nginx.
func Makers(dir string) []path.Maker {
	return []path.Maker{
		func(ctx context.Context, env part.Env) (path.Way, error) {
			return newKubeProxy(ctx, env, dir, IPTables)
		},
		func(ctx context.Context, env part.Env) (path.Way, error) {
			return newKubeProxy(ctx, env, dir, NFTables)
		},
		func(_ context.Context, env part.Env) (path.Way, error) { return newNginx(env, dir) },
	}
}

// absent is the error of a way that lacks something.
func absent(way, what string) error {
	return fmt.Errorf("%s: %w: %s, which make bench installs", way, path.ErrAbsent, what)
}

// missing returns the first of the commands that are not installed.
func missing(commands ...string) string {
	for _, name := range commands {
		if _, err := exec.LookPath(name); err != nil {
			return name
		}
	}
	return ""
}

// pair is what all peers have: a client that calls and a server, and a router that is theirs.
type pair struct {
	name   string
	env    part.Env
	direct *nstest.Direct
	driver *path.Driver
	server int // its process id
	v4, v6 netip.Addr
	stood  int // so many services there are
}

func newPair(env part.Env, name string) (p *pair, err error) {
	p = &pair{name: name, env: env, v4: netip.MustParseAddr("10.96.0.10"), v6: netip.MustParseAddr("fd00:10:96::10")}
	if p.direct, err = env.Lab.Direct(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.direct.Close())
		}
	}()
	p.server, err = path.StartServer(env.Lab, env.CPU, func(cmd *exec.Cmd) (*nstest.Talk, error) {
		return p.direct.Talk(nstest.AtServer, cmd)
	})
	if err != nil {
		return nil, err
	}
	p.driver, err = path.StartDriver(env.Lab, env.CPU, func(cmd *exec.Cmd) (*nstest.Talk, error) {
		return p.direct.Talk(nstest.AtClient, cmd)
	})
	return p, err
}

func (p *pair) Name() string                     { return p.name }
func (p *pair) Driver() *path.Driver             { return p.driver }
func (p *pair) To(family path.Family) netip.Addr { return family.Of(p.v4, p.v6) }
func (p *pair) PIDs() []int                      { return []int{p.server} }
func (p *pair) Close() error                     { return p.direct.Close() }

// endpoint is a port that calls go to.
type endpoint struct {
	protocol string
	port     uint16
}

func endpoints() []endpoint {
	return []endpoint{{"tcp", batch.Echo}, {"udp", batch.Echo}, {"tcp", batch.Accept}, {"tcp", batch.Sink}}
}

// programmed enters how long services took to be in force, in one family or (family is "") in both.
func (p *pair) programmed(family string, n int, values ...sheet.Value) {
	p.env.Sheet.Add(programCase(p.name, family, n), 0, n, values...)
}

func programCase(way, family string, n int) sheet.Case {
	keys := []any{"services", n, "backends", n * backends, "way", way, "step", "program"}
	if family != "" {
		keys = append([]any{"family", family}, keys...)
	}
	return sheet.Of("Scale", keys...)
}
