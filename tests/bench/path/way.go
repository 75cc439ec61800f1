package path

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/nstest"
)

// Family is an IP version.
type Family string

const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// Of picks the address of the family.
func (f Family) Of(v4, v6 netip.Addr) netip.Addr {
	if f == IPv6 {
		return v6
	}
	return v4
}

// Way is one way for calls to go from a client to a server.
type Way interface {
	// Name is the way's value in cases, such as kube_proxy_iptables.
	Name() string
	// Services brings about that there are so many services, the one that is measured among them, and returns
	// when they are in force; there are never to be fewer than before. What needs none does nothing. It is not
	// called while a batch runs.
	Services(ctx context.Context, n int) error
	// Driver makes the calls, in the client's namespace.
	Driver() *Driver
	// To is the address to call; at its ports Echo (TCP and UDP), Accept and Sink (TCP) of package batch,
	// those of a load server answer.
	To(family Family) netip.Addr
	// PIDs are the processes whose CPU time is part of an operation's, besides the driver's: the server, and what
	// forwards in user space.
	PIDs() []int
	// Close ends and removes all that belongs to the way.
	Close() error
}

// Maker makes a way that belongs to another package.
type Maker func(context.Context, part.Env) (Way, error)

// ErrAbsent is a Maker's error when the machine has not got what the way needs.
var ErrAbsent = errors.New("not on this machine")

// Driver makes calls when it is told to: load drive, in a namespace and a cgroup.
type Driver struct {
	talk *nstest.Talk
	pid  int
}

// StartDriver starts one on a CPU (counted from 1) in the place that start stands for, such as Container.Talk.
func StartDriver(lab *nstest.Lab, cpu int, start func(*exec.Cmd) (*nstest.Talk, error)) (*Driver, error) {
	return startLoad("drive", lab, cpu, start)
}

// StartServer starts a load server in the same manner, and returns its process id. It answers until the
// place that it runs in is closed.
func StartServer(lab *nstest.Lab, cpu int, start func(*exec.Cmd) (*nstest.Talk, error)) (pid int, err error) {
	d, err := startLoad("serve", lab, cpu, start)
	if err != nil {
		return 0, err
	}
	return d.pid, nil
}

func startLoad(verb string, lab *nstest.Lab, cpu int, start func(*exec.Cmd) (*nstest.Talk, error)) (*Driver, error) {
	cmd := exec.Command(lab.Binaries.Load, verb, "--cpu", strconv.Itoa(cpu-1))
	talk, err := start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start load %s: %w", verb, err)
	}
	return &Driver{talk, cmd.Process.Pid}, nil
}

// Do makes the calls of a batch. A failed call is an error: what is measured has to work.
func (d *Driver) Do(o batch.Order) (r batch.Result, err error) {
	if err := d.talk.Do(o, &r); err != nil {
		return r, err
	}
	if r.Error != "" || r.N == 0 {
		return r, fmt.Errorf("%s to %s: %d done: %s", o.Kind, o.To, r.N, r.Error)
	}
	return r, nil
}
