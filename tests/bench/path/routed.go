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

// Routed makes direct, direct_again and loopback. The two direct ones are equal and have nothing in common: where
// things happen to lie in memory is a part of the noise. Loopback is where the server of direct is, whose Close
// ends it too.
func Routed(lab *nstest.Lab, cpu int) (ways []Way, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(ways))
			ways = nil
		}
	}()
	var pairs []*nstest.Direct
	for _, name := range []string{Direct, Direct + sheet.Again} {
		pair, err := lab.Direct()
		if err != nil {
			return ways, err
		}
		way := &fixed{name: name, v4: pair.ServerV4, v6: pair.ServerV6, grow: enough, close: sync.OnceValue(pair.Close)}
		ways, pairs = append(ways, way), append(pairs, pair)
		server, err := StartServer(lab, cpu, at(pair, nstest.AtServer))
		if err != nil {
			return ways, err
		}
		way.pids = []int{server}
		if way.driver, err = StartDriver(lab, cpu, at(pair, nstest.AtClient)); err != nil {
			return ways, err
		}
	}
	loop := *ways[0].(*fixed)
	loop.name, loop.v4, loop.v6 = Loopback, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	loop.driver, err = StartDriver(lab, cpu, at(pairs[0], nstest.AtServer))
	return append(ways, &loop), err
}

func at(pair *nstest.Direct, place nstest.Place) func(*exec.Cmd) (*nstest.Talk, error) {
	return func(cmd *exec.Cmd) (*nstest.Talk, error) { return pair.Talk(place, cmd) }
}

// enough is for ways that services are nothing to.
func enough(context.Context, int) error { return nil }

func closeAll(ways []Way) error {
	var errs []error
	for _, w := range ways {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}
