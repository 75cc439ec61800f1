package tests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
	"github.com/sluice-net/sluice/tests/nstest"
)

// twoNodes are two nodes whose agents share a cluster of three members of etcd.
type twoNodes struct {
	etcd  *etcdtest.Cluster
	nodes [2]*nstest.Node
}

func newTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "sle")
	if err != nil {
		t.Fatal(err)
	}
	c, err := etcdtest.Start(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	two := &twoNodes{etcd: c}
	for i := range two.nodes {
		two.nodes[i] = newNode(t, nstest.Settings{
			Node: fmt.Sprintf("n%d", i+1), Address: fmt.Sprintf("192.0.2.%d", i+1), Etcd: c.Endpoints(),
			Containers: []string{fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:10:244:%d::/64", i+1)},
		})
	}
	return two
}

// agree waits until both nodes' maps send a service to so many backends of each protocol.
func (two *twoNodes) agree(t *testing.T, service string, backends int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, n := range two.nodes {
		var last registry.Service
		var got []int
		ok := func() bool {
			svc, err := n.API().Service(ctx, registry.Name{Namespace: "default", Name: service})
			if err != nil {
				return false
			}
			got = nil
			for _, p := range svc.Ports {
				got = append(got, len(p.Backends))
			}
			last = svc.Service
			for _, n := range got {
				if n != backends*2 { // of both families
					return false
				}
			}
			return len(got) > 0
		}
		for !ok() {
			select {
			case <-ctx.Done():
				t.Fatalf("node %s: service %s has %v backends, want %d of each family", n.Name, last.Name, got, backends)
			case <-time.After(20 * time.Millisecond):
			}
		}
		check(t, n)
	}
}

// persist applies a manifest, again and again while the store is away.
func persist(t *testing.T, n *nstest.Node, manifest string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		out, err := n.Sluice(t.Context(), manifest, "apply", "-f", "-")
		if err == nil {
			return
		}
		if !strings.Contains(err.Error()+string(out), "not available") || time.Now().After(deadline) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// TestRegistryCluster: two nodes serve what either of them is told. While members of the store die, hang and are
// brought back, no call fails, no backend goes, and what was acknowledged is there.
func TestRegistryCluster(t *testing.T) {
	two := newTwoNodes(t)
	one, other := two.nodes[0], two.nodes[1]
	client := addContainer(t, one, "client", nil)
	addContainer(t, one, "web-1", map[string]string{"app": "web"})
	addContainer(t, one, "web-2", map[string]string{"app": "web"})
	vips := apply(t, other, "web", web("web", "web")) // told to the other node
	two.agree(t, "web", 2)
	calls := kinds(vips)
	steady := startLoad(t, client, append(calls, lasting(calls)...))
	named := 0
	both := func(what string) {
		t.Helper()
		for _, n := range two.nodes {
			named++
			persist(t, n, web(fmt.Sprintf("later-%d", named), "web"))
		}
		for i := 1; i <= named; i++ {
			two.agree(t, fmt.Sprintf("later-%d", i), 2)
		}
		two.agree(t, "web", 2)
		steady.more(t, 3)
		t.Log(what)
	}
	both("in peace")

	leader, err := two.etcd.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := two.etcd.Kill(leader); err != nil {
		t.Fatal(err)
	}
	both("the leader is dead")
	if err := <-two.etcd.Restart(leader); err != nil {
		t.Fatal(err)
	}
	hung := (leader + 1) % 3
	if err := two.etcd.Stop(hung); err != nil {
		t.Fatal(err)
	}
	both("a member is cut off")
	if err := two.etcd.Continue(hung); err != nil {
		t.Fatal(err)
	}
	both("it is back")

	if err := errors.Join(two.etcd.Kill(0), two.etcd.Kill(1)); err != nil {
		t.Fatal(err)
	}
	two.withoutMajority(t, client, vips)
	first, second := two.etcd.Restart(0), two.etcd.Restart(1)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	both("two were dead and are back")
	for i, r := range steady.stop(t) {
		if r.Failed > 0 {
			t.Errorf("%s: %d of %d calls failed, the first: %v", title(steady.calls[i]), r.Failed, r.Calls, r.Failures[0])
		}
	}
	if out, err := one.Sluice(t.Context(), "", "get", "nodes"); err != nil || !strings.Contains(string(out), "n1") || !strings.Contains(string(out), "n2") {
		t.Errorf("%v\n%s", err, out)
	}
}

// withoutMajority: reads and traffic go on, an agent that starts serves what is in the kernel, a write says why it
// fails.
func (two *twoNodes) withoutMajority(t *testing.T, client *nstest.Container, vips []netip.Addr) {
	t.Helper()
	one := two.nodes[0]
	if out, err := one.Sluice(t.Context(), web("nobody", "web"), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error()+string(out), "not available") {
		t.Errorf("a write without a majority: %v\n%s", err, out)
	}
	out, err := one.Sluice(t.Context(), "", "get", "services")
	if err != nil || !strings.Contains(string(out), "later-1") {
		t.Errorf("a read without a majority: %v\n%s", err, out)
	}
	if out, err := one.Sluice(t.Context(), "", "status"); !strings.Contains(string(out), "registry") {
		t.Errorf("status: %v\n%s", err, out)
	}
	for _, c := range kinds(vips) {
		r, err := client.Call(t.Context(), c)
		if err != nil || r.Failed > 0 {
			t.Errorf("%s without a majority: %v, %+v", title(c), err, r)
		}
	}
}
