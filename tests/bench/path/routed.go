package path

import (
	"context"
	"errors"
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

// Routed makes direct, direct_again and loopback. The two direct ones are equal and have nothing in common: where things
// happen to lie in memory is a part of the noise.
func Routed(lab *nstest.Lab, cpu int) (ways []Way, err error) {
	for _, name := range []string{Direct, Direct + sheet.Again} {
		made, e := routed(lab, cpu, name)
		if e != nil {
			return nil, errors.Join(e, closeAll(ways))
		}
		ways = append(ways, made...)
	}
	return ways, nil
}

// routed makes a way between two containers with a router between them, and for direct the loopback of its
// server's.
func routed(lab *nstest.Lab, cpu int, name string) (ways []Way, err error) {
	pair, err := lab.Direct()
	if err != nil {
		return nil, err
	}
	at := func(place nstest.Place) func(*exec.Cmd) (*nstest.Talk, error) {
		return func(cmd *exec.Cmd) (*nstest.Talk, error) { return pair.Talk(place, cmd) }
	}
	end := sync.OnceValue(pair.Close)
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()
	server, err := StartServer(lab, cpu, at(nstest.AtServer))
	if err != nil {
		return nil, err
	}
	across, err := StartDriver(lab, cpu, at(nstest.AtClient))
	if err != nil {
		return nil, err
	}
	none := func(context.Context, int) error { return nil }
	pids := []int{server}
	ways = []Way{&fixed{name, across, pair.ServerV4, pair.ServerV6, pids, none, end}}
	if name != Direct {
		return ways, nil
	}
	within, err := StartDriver(lab, cpu, at(nstest.AtServer))
	if err != nil {
		return nil, err
	}
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	return append(ways, &fixed{Loopback, within, v4, v6, pids, none, end}), nil
}

func closeAll(ways []Way) error {
	var errs []error
	for _, w := range ways {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}
