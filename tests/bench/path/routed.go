package path

import (
	"context"
	"net/netip"
	"os/exec"
	"sync"

	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// The ways that have nothing of Sluice.
const (
	Direct   = "direct" // the kernel's own routing: what all are compared with
	Loopback = "loopback"
)

// fixed is a way whose all is there from the start.
type fixed struct {
	name   string
	driver *Driver
	v4, v6 netip.Addr
	pids   []int
	grow   func(ctx context.Context, services int) error
	close  func() error
}

func (f *fixed) Name() string                              { return f.name }
func (f *fixed) Services(ctx context.Context, n int) error { return f.grow(ctx, n) }
func (f *fixed) Driver() *Driver                           { return f.driver }
func (f *fixed) To(family Family) netip.Addr               { return family.Of(f.v4, f.v6) }
func (f *fixed) PIDs() []int                               { return f.pids }
func (f *fixed) Close() error                              { return f.close() }

// Routed makes direct, direct_again and loopback, which share a server in namespaces that the Close of any of them
// removes.
func Routed(lab *nstest.Lab, cpu int) (ways []Way, err error) {
	pair, err := lab.Direct()
	if err != nil {
		return nil, err
	}
	at := func(place nstest.Place) func(*exec.Cmd) (*nstest.Talk, error) {
		return func(cmd *exec.Cmd) (*nstest.Talk, error) { return pair.Talk(place, cmd) }
	}
	end := sync.OnceValue(pair.Close)
	defer func() { err = closed(err, end) }()
	server, err := StartServer(lab, cpu, at(nstest.AtServer))
	if err != nil {
		return nil, err
	}
	across, err := StartDriver(lab, cpu, at(nstest.AtClient))
	if err != nil {
		return nil, err
	}
	within, err := StartDriver(lab, cpu, at(nstest.AtServer))
	if err != nil {
		return nil, err
	}
	none := func(context.Context, int) error { return nil }
	pids := []int{server}
	direct := fixed{Direct, across, pair.ServerV4, pair.ServerV6, pids, none, end}
	again := direct
	again.name += sheet.Again
	return []Way{&direct, &again, &fixed{
		Loopback, within, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), pids, none, end,
	}}, nil
}
