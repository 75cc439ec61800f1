package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
)

// await is how long a test waits for what must come.
const await = 2 * time.Minute

func startCluster(t *testing.T) *etcdtest.Cluster { return startMembers(t, etcdtest.Start, 3) }

func startMembers(t *testing.T, start func(string, int) (*etcdtest.Cluster, error), n int) *etcdtest.Cluster {
	t.Helper()
	c, err := start(runDir(t), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// join opens a store on a cluster, as the agent of one node does.
func join(t *testing.T, c *etcdtest.Cluster) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Cluster: &Cluster{Endpoints: c.Endpoints()}, ServiceCIDRs: prefixes(t, defaultCIDRs...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// copyOf follows a store and knows what of services, nodes' leases and snapshots it has told.
type copyOf struct {
	mu        sync.Mutex
	services  map[string]registry.Service
	agents    map[string]bool
	lapsed    []string // leases of nodes that were lost
	snapshots int
	revision  int64
}

func follow(ctx context.Context, s *Store) *copyOf {
	c := &copyOf{services: map[string]registry.Service{}, agents: map[string]bool{}}
	batches := s.Watch(ctx)
	go func() {
		for b := range batches {
			c.apply(b)
		}
	}()
	return c
}

func (c *copyOf) apply(b registry.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.Snapshot {
		c.snapshots++
		clear(c.services)
		clear(c.agents)
	}
	c.revision = b.Revision
	for _, ch := range b.Changes {
		switch {
		case ch.Service != nil && ch.Deleted:
			delete(c.services, ch.Service.Name.Name)
		case ch.Service != nil:
			c.services[ch.Service.Name.Name] = *ch.Service
		case ch.NodeLease != nil && ch.Deleted:
			delete(c.agents, ch.NodeLease.Node)
			c.lapsed = append(c.lapsed, ch.NodeLease.Node)
		case ch.NodeLease != nil:
			c.agents[ch.NodeLease.Node] = true
		}
	}
}

// until waits for a copy to be as it must become.
func (c *copyOf) until(t *testing.T, what string, is func(*copyOf) bool) {
	t.Helper()
	for deadline := time.Now().Add(await); ; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		done, n, rev := is(c), len(c.services), c.revision
		c.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so; %d services at revision %d", what, n, rev)
		}
	}
}

// holds is for until.
func holds(names []string) func(*copyOf) bool {
	return func(c *copyOf) bool {
		return len(c.services) == len(names) && !slices.ContainsFunc(names, func(n string) bool { _, ok := c.services[n]; return !ok })
	}
}

// persist puts a service, again and again while the store is away. It returns how often it was.
func persist(t *testing.T, s *Store, name string) (away int) {
	t.Helper()
	for deadline := time.Now().Add(await); ; away++ {
		_, _, err := s.PutService(t.Context(), web(name))
		if err == nil {
			return away
		}
		if !errors.Is(err, registry.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatalf("write %s: %v", name, err)
		}
	}
}

// TestCluster has two agents on a cluster of three, of which one member after the other dies, hangs and comes
// back. What was acknowledged is there, nothing is told to have gone, and no watch begins anew.
func TestCluster(t *testing.T) {
	c := startCluster(t)
	one, two := join(t, c), join(t, c)
	copies := []*copyOf{follow(t.Context(), one), follow(t.Context(), two)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go one.KeepNodeLease(ctx, registry.NodeLease{Node: "one"})
	go two.KeepNodeLease(ctx, registry.NodeLease{Node: "two"})
	var names []string
	put := func(s *Store, n int) {
		for range n {
			name := fmt.Sprint("s", len(names))
			persist(t, s, name)
			names = append(names, name)
		}
	}
	same := func(what string) {
		t.Helper()
		for _, c := range copies {
			c.until(t, what, holds(names))
			c.until(t, what+": agents", func(c *copyOf) bool { return c.agents["one"] && c.agents["two"] })
		}
	}
	put(one, 10)
	put(two, 10)
	same("in peace")

	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(leader); err != nil {
		t.Fatal(err)
	}
	put(one, 5)
	put(two, 5)
	same("the leader was killed")
	if err := <-c.Restart(leader); err != nil {
		t.Fatal(err)
	}

	hung := (leader + 1) % 3
	if err := c.Stop(hung); err != nil {
		t.Fatal(err)
	}
	put(one, 5)
	put(two, 5)
	same("a member was cut off")
	if err := c.Continue(hung); err != nil {
		t.Fatal(err)
	}
	same("it came back")

	if err := errors.Join(c.Kill(0), c.Kill(1)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := one.PutService(ctx, web("nobody")); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("a write without a majority: %v", err)
	}
	if err := one.Health(ctx); err == nil {
		t.Error("a store without a majority says that it is well")
	}
	back := []<-chan error{c.Restart(0), c.Restart(1)}
	if err := errors.Join(<-back[0], <-back[1]); err != nil {
		t.Fatal(err)
	}
	// The write that failed may have been done when the majority came back.
	persist(t, one, "nobody")
	names = append(names, "nobody")
	put(two, 5)
	same("two were killed and brought back")
	if err := one.Health(ctx); err != nil {
		t.Error(err)
	}
	for i, c := range copies {
		c.mu.Lock()
		if len(c.lapsed) > 0 || c.snapshots != 1 {
			t.Errorf("copy %d: leases %v were lost, %d snapshots were read", i, c.lapsed, c.snapshots)
		}
		c.mu.Unlock()
	}
}

// TestClusterCompacted: a watch that could not follow for so long that its place is gone reads all again.
func TestClusterCompacted(t *testing.T) {
	c := startCluster(t)
	s := join(t, c)
	persist(t, s, "a")
	r := newReader(s)
	first := make(chan registry.Batch, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _, _ = r.follow(ctx, first); close(ended) }()
	b := <-first
	cancel()
	<-ended
	persist(t, s, "b")
	persist(t, s, "c")
	version, rev, err := s.compactOnce(t.Context(), 0, 0)
	if err != nil || rev <= b.Revision {
		t.Fatalf("first look: %d, %v", rev, err)
	}
	if again, _, err := s.compactOnce(t.Context(), 0, 0); again != version || err != nil {
		t.Errorf("another agent finds version %d, %v; want %d: the period is taken", again, err, version)
	}
	if _, _, err = s.compactOnce(t.Context(), version, rev); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), await)
	defer cancel()
	if _, err := r.follow(ctx, first); err == nil || r.at != 0 {
		t.Errorf("a watch from before the compaction goes on: %v", err)
	}
	go func() { _, _ = r.follow(ctx, first) }()
	if b := <-first; !b.Snapshot || len(b.Changes) < 3 {
		t.Errorf("got %+v, want all of the registry", b)
	}
}

// TestClusterAway: opening needs no cluster, a write fails with a reason.
func TestClusterAway(t *testing.T) {
	s, err := Open(t.Context(), Options{Cluster: &Cluster{Endpoints: []string{"unix:///nonexistent/etcd.sock"}}, ServiceCIDRs: prefixes(t, defaultCIDRs...)})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.PutService(t.Context(), web("web"))
	if !errors.Is(err, registry.ErrUnavailable) || !strings.Contains(err.Error(), "put service default/web") {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestNodes: no two nodes have containers in one range, and a node goes when its agent has gone.
func TestNodes(t *testing.T) {
	c := startCluster(t)
	s := join(t, c)
	node := func(name, cidr string) registry.Node {
		return registry.Node{Name: name, ContainerCIDRs: prefixes(t, cidr)}
	}
	for _, n := range []registry.Node{node("n1", "10.244.1.0/24"), node("n2", "10.244.2.0/24"), node("n1", "10.244.1.0/25")} {
		if _, err := s.PutNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.PutNode(t.Context(), node("n3", "10.244.0.0/16"))
	if !errors.Is(err, registry.ErrInvalid) || !contains(err, "overlaps 10.244.1.0/25 of node n1") {
		t.Error(err)
	}
	e := endpoint(1) // of n1
	if _, err := s.PutEndpoint(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	followed := follow(t.Context(), s)
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan struct{})
	go func() { s.KeepNodeLease(ctx, registry.NodeLease{Node: "n1"}); close(kept) }()
	followed.until(t, "its agent is there", func(c *copyOf) bool { return c.agents["n1"] })
	if _, err := s.DeleteNode(t.Context(), "n1"); !errors.Is(err, registry.ErrInvalid) || !contains(err, "its agent is at work") {
		t.Error(err)
	}
	cancel()
	<-kept
	if _, err := s.DeleteNode(t.Context(), "n1"); err != nil {
		t.Error(err)
	}
	if list, err := s.Endpoints(t.Context(), "n1"); err != nil || len(list) > 0 {
		t.Errorf("%v, %v: want none", list, err)
	}
	if _, err := s.DeleteNode(t.Context(), "n1"); !errors.Is(err, registry.ErrNotFound) {
		t.Error(err)
	}
}
