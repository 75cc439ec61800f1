// Package nstest is the test node: a network namespace without uplink, with a bpffs directory, a
// cgroup and directories of its own, and the real sluiced in it. Several of them run side by side.
//
//	 /run/netns/slt<pid>-<n>                     /run/netns/slt<pid>-<n>-<container>
//	+----------------------------------+        +-----------------------------------+
//	| lo  192.0.2.1 2001:db8::1        |  veth  | eth0  10.244.1.x fd00:10:244:1::x |
//	| sluiced, sluice-cni         sl...|--------|       probe serve                 |
//	+----------------------------------+        +-----------------------------------+
//	  cgroup slt<pid>-<n>                         cgroup slt<pid>-<n>/<container>
//
// No namespace has a way out of the machine. Every name begins with the node's own, which holds the
// test's process id, so that Leaks can tell what was left behind and Sweep what a killed test left.
package nstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-net/sluice/registry/api"
)

// Prefix begins the name of everything that a test node makes.
const Prefix = "slt"

// The parent directories of what a node makes.
const (
	netnsDir = "/run/netns"
	bpffsDir = "/sys/fs/bpf"
)

// Settings are the keys of the agent's configuration that tests change; the zero value of each is a
// default for tests.
type Settings struct {
	Node       string   // "n1"
	Zone       string   // none
	Containers []string // 10.244.1.0/24, fd00:10:244:1::/64
	Services   []string // 10.96.0.0/16, fd00:10:96::/112
	MapScale   float64  // 0.02
	Attach     string   // auto
	// NoSocketTranslation leaves all translation to tc.
	NoSocketTranslation bool
	// FoundAddresses leaves the node's addresses to the agent: those of the devices with a default route, of which
	// there are none at first.
	FoundAddresses bool
	// Flows are the lifetimes of flows, as in "{udp: {answered: 2s}}".
	Flows string
	// Address is the node's IPv4 address; "192.0.2.1".
	Address string
	// Etcd are the members of the cluster that keeps the registry; none: it is embedded.
	Etcd []string
	// Expiry bounds how fast instances go whose leases lapse, as in "{most: 33, every: 30s}".
	Expiry string
	// Upstreams are the DNS servers that know other names; none. No other may be asked.
	Upstreams []string
	// Audit lets pass what policies deny, and reports it.
	Audit bool
	// More are further keys of the configuration, as lines of YAML.
	More string
}

// Node is one running test node.
type Node struct {
	Name   string // unique on this machine
	Netns  string // path of the network namespace
	BPFFS  string
	Cgroup string
	Dir    string // holds the rest
	State  string
	Run    string
	Config string // path of the agent's configuration

	bin      Binaries
	settings Settings

	api *api.Client

	mu         sync.Mutex
	agent      *process
	containers map[string]*Container
}

// Lab makes nodes.
type Lab struct {
	Binaries Binaries
	nodes    atomic.Int32 // made so far
}

// nodeName is that of a process's nth node.
func nodeName(pid, n int) string { return fmt.Sprintf("%s%d-%d", Prefix, pid, n) }

// New makes a node and starts its agent; it returns when the agent is ready. On an error nothing
// stays behind.
func (l *Lab) New(ctx context.Context, settings Settings) (n *Node, err error) {
	name := nodeName(os.Getpid(), int(l.nodes.Add(1)))
	n = &Node{Name: name, bin: l.Binaries, containers: map[string]*Container{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
			n = nil
		}
	}()
	n.Netns = filepath.Join(netnsDir, n.Name)
	n.BPFFS = filepath.Join(bpffsDir, n.Name)
	n.Dir = filepath.Join(os.TempDir(), n.Name)
	n.State = filepath.Join(n.Dir, "state")
	n.Run = filepath.Join(n.Dir, "run")
	n.Config = filepath.Join(n.Dir, "sluiced.yaml")
	n.api = api.NewClient(n.Socket())
	root, err := cgroupRoot()
	if err != nil {
		return n, err
	}
	n.Cgroup = filepath.Join(root, n.Name)
	if err := os.Mkdir(n.Dir, 0o700); err != nil {
		return n, fmt.Errorf("make directory: %w", err)
	}
	if err := os.Mkdir(n.Cgroup, 0o755); err != nil {
		return n, fmt.Errorf("make cgroup: %w", err)
	}
	if err := newNetns(n.Netns); err != nil {
		return n, err
	}
	if err := loopback(n.Netns, "192.0.2.1/32", "2001:db8::1/128"); err != nil {
		return n, err
	}
	return n, n.Restart(ctx, settings)
}

// Binaries are the programs that run in the node.
func (n *Node) Binaries() Binaries { return n.bin }

// Socket is where the node's agent listens.
func (n *Node) Socket() string { return filepath.Join(n.Run, "sluiced.sock") }

// EtcdSocket is where the node's own etcd listens, if it has one.
func (n *Node) EtcdSocket() string { return filepath.Join(n.Run, "etcd", "sock") }

// Close ends the node's processes and removes all that it made, also after a New that failed half
// way. It goes on after an error and returns them all.
func (n *Node) Close() error {
	var errs []error
	n.mu.Lock()
	agent := n.agent
	n.agent = nil
	n.mu.Unlock()
	if agent != nil {
		errs = append(errs, agent.end(5*time.Second))
	}
	n.api.Close()
	errs = append(errs, clean(n.Name))
	return errors.Join(errs...)
}

// Await calls cond until it holds, fails or ctx ends; the error then says what was awaited.
func Await(ctx context.Context, what string, cond func() (bool, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("await %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
