// Package etcdtest runs a real etcd cluster for tests: each member is a process of its own, that can be killed,
// stopped (which is what the others see of a member that is cut off) and brought back.
package etcdtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const (
	variable = "SLUICE_TEST_ETCD_MEMBER"
	ready    = "serving"
	startFor = time.Minute
)

// Main is for the TestMain of packages that use Start: it does not return in the process of a member.
func Main() {
	text := os.Getenv(variable)
	if text == "" {
		return
	}
	fmt.Println(serve(text)) // what Start tells of a member that does not begin to serve
	os.Exit(1)
}

// member is how one is started.
type member struct {
	Name, Dir, Client, Peer, Cluster string
	Durable                          bool // a write is on disk before it is acknowledged
	Limited                          bool // it takes no more at once than etcd does of itself
}

// serve is a member until it is killed, or its parent has gone.
func serve(text string) error {
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	client, err := url.Parse(m.Client)
	if err != nil {
		return err
	}
	peer, err := url.Parse(m.Peer)
	if err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = m.Name, m.Dir, m.Cluster
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	if !m.Durable {
		cfg.TickMs, cfg.ElectionMs = 50, 500
	}
	if !m.Limited {
		cfg.MaxTxnOps, cfg.MaxRequestBytes = 4096, 8<<20
	}
	cfg.UnsafeNoFsync = !m.Durable
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	<-e.Server.ReadyNotify()
	fmt.Println(ready)
	_, err = io.Copy(io.Discard, os.Stdin) // ends with the parent
	return err
}

// Cluster is a running one.
type Cluster struct {
	dir     string
	members []*process
}

type process struct {
	member
	cmd   *exec.Cmd // nil: not running
	stdin io.Closer
}

// Start runs a cluster of n members, whose files and sockets are in dir: a short path. Close ends it. Its members
// leave their writes to the kernel: the processes die, not the machine.
func Start(dir string, n int) (*Cluster, error) { return startMembers(dir, n, member{}) }

// StartDurable is Start of a cluster that waits for its disk, and for members that are slow, as one does that
// is in use.
func StartDurable(dir string, n int) (*Cluster, error) {
	return startMembers(dir, n, member{Durable: true})
}

// StartLimited is Start of a cluster whose members were not told to take as much at once as Sluice asks for.
func StartLimited(dir string, n int) (*Cluster, error) {
	return startMembers(dir, n, member{Limited: true})
}

// startMembers starts members that are like one.
func startMembers(dir string, n int, like member) (*Cluster, error) {
	c := &Cluster{dir: dir}
	var all []string
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		peer := "http://" + l.Addr().String()
		l.Close()
		m := like
		m.Name, m.Dir = fmt.Sprintf("m%d", i), filepath.Join(dir, fmt.Sprintf("m%d", i))
		m.Client, m.Peer = "unix://"+filepath.Join(dir, fmt.Sprintf("m%d.sock", i)), peer
		all = append(all, m.Name+"="+peer)
		c.members = append(c.members, &process{member: m})
	}
	errs := make(chan error, n)
	for _, p := range c.members {
		p.Cluster = strings.Join(all, ",")
		go func() { errs <- p.start() }() // they wait for each other
	}
	var err error
	for range n {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (p *process) start() error {
	spec, err := json.Marshal(p.member)
	if err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+string(spec))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.stdin = cmd, in
	late := time.AfterFunc(startFor, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(out)
	var last string
	for lines.Scan() {
		if last = lines.Text(); last == ready {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return nil
		}
	}
	return fmt.Errorf("etcd member %s does not start: %s", p.Name, last)
}

// Endpoints are the members' client URLs.
func (c *Cluster) Endpoints() []string {
	var list []string
	for _, p := range c.members {
		list = append(list, p.Client)
	}
	return list
}

// Leader returns which member leads, once one does that is running and not stopped.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	for {
		for i := range c.members {
			if id, leader, err := c.status(ctx, i); err == nil && id == leader && leader != 0 {
				return i, nil
			}
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no leader: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// status returns who a member is and whom it takes for the leader.
func (c *Cluster) status(ctx context.Context, i int) (id, leader uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.members[i].Client}, Logger: zap.NewNop()})
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	r, err := client.Status(ctx, c.members[i].Client)
	if err != nil {
		return 0, 0, err
	}
	return r.Header.MemberId, r.Leader, nil
}

// Kill ends a member at once.
func (c *Cluster) Kill(i int) error {
	p := c.members[i]
	if p.cmd == nil {
		return nil
	}
	err := p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.stdin.Close()
	p.cmd = nil
	return err
}

// Restart brings a member back that was killed. It does not wait for a majority.
func (c *Cluster) Restart(i int) <-chan error {
	done := make(chan error, 1)
	go func() { done <- c.members[i].start() }()
	return done
}

// Stop makes a member deaf and dumb until Continue: its connections stay, and nothing comes from them.
func (c *Cluster) Stop(i int) error { return c.members[i].cmd.Process.Signal(syscall.SIGSTOP) }

// Continue ends Stop.
func (c *Cluster) Continue(i int) error { return c.members[i].cmd.Process.Signal(syscall.SIGCONT) }

// Close kills all members and removes their files.
func (c *Cluster) Close() error {
	var errs []error
	for i := range c.members {
		errs = append(errs, c.Kill(i))
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}
