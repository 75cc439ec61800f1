package health

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// cluster is what a test knows of nodes, containers and instances, as plain lists.
type cluster struct {
	nodes     map[string]registry.Node
	live      map[string]bool
	endpoints map[registry.EndpointID]registry.Endpoint
	instances map[registry.InstanceID]registry.Instance
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func addrs(r *rand.Rand) (list []netip.Addr) {
	host := byte(1 + r.IntN(10))
	switch r.IntN(3) {
	case 0:
		return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, host})}
	case 1:
		return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, host}), netip.AddrFrom16([16]byte{0xfd, 15: host})}
	}
	return []netip.Addr{netip.MustParseAddr(pick(r, "127.0.0.1", "fe80::1", "192.0.2.99"))}
}

// mutate changes something at random.
func (c *cluster) mutate(r *rand.Rand) registry.Change {
	node := pick(r, "a", "b", "c")
	deleted := r.IntN(3) == 0
	switch r.IntN(6) {
	case 0:
		n := registry.Node{Name: node, Addresses: addrs(r)}
		if c.nodes[node] = n; deleted {
			delete(c.nodes, node)
		}
		return registry.Change{Node: &n, Deleted: deleted}
	case 1:
		c.live[node] = !deleted
		return lease(node, deleted)
	case 2:
		id := registry.EndpointID{Node: node, ContainerID: fmt.Sprint(r.IntN(3))}
		e := registry.Endpoint{EndpointID: id, Addresses: addrs(r)}
		if c.endpoints[id] = e; deleted {
			delete(c.endpoints, id)
		}
		return registry.Change{Endpoint: &e, Deleted: deleted}
	}
	ch := instance(r.IntN(8), pick(r, "", "a", "b", "gone"), registry.HealthCheck{
		Interval: pick[uint32](r, 1000, 2000), Rise: pick[uint16](r, 0, 2), Fall: pick[uint16](r, 0, 2),
	})
	ch.Instance.Addresses = addrs(r)
	ch.Instance.Status = pick(r, registry.InstanceUp, registry.InstanceDown)
	if r.IntN(6) == 0 {
		ch.Instance.Checks = nil
	}
	if c.instances[ch.Instance.InstanceID] = *ch.Instance; deleted {
		delete(c.instances, ch.Instance.InstanceID)
	}
	ch.Deleted = deleted
	return ch
}

// rightful returns the agents that may check an instance.
func (c *cluster) rightful(i registry.Instance) (agents []string) {
	var live []string
	for _, node := range []string{"a", "b", "c"} {
		if !c.live[node] {
			continue
		}
		live = append(live, node)
		has := c.nodes[node].Addresses
		for _, e := range c.endpoints {
			if e.Node == node {
				has = slices.Concat(has, e.Addresses)
			}
		}
		if slices.ContainsFunc(i.Dialable(), func(a netip.Addr) bool { return slices.Contains(has, a) }) {
			return []string{node} // the first by name
		}
	}
	if slices.Contains(live, i.Node) {
		return []string{i.Node}
	}
	return live
}

// TestAgainstModel changes clusters of three agents at random, with instances that fail and come back. When things
// have been left alone for a while the registry says of each instance what is so, and each is checked by one agent, which may.
func TestAgainstModel(t *testing.T) {
	rounds := uint64(40)
	if testing.Short() {
		rounds = 8
	}
	for seed := range rounds {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			c := &cluster{map[string]registry.Node{}, map[string]bool{"c": true}, map[registry.EndpointID]registry.Endpoint{}, map[registry.InstanceID]registry.Instance{}}
			w := newWorld(t, lease("c", false))
			defer w.end()
			for _, node := range []string{"a", "b", "c"} {
				defer w.agent(node, Options{AtOnce: 4})()
			}
			for range 25 {
				for range 1 + r.IntN(6) {
					if ch := c.mutate(r); ch.NodeLease == nil || len(c.alive()) > 0 {
						w.change(ch)
					} else {
						c.live[ch.NodeLease.Node] = true // one stays
					}
					w.set(name(r.IntN(8)), pick(r, nil, errSick))
					time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				c.check(t, w, seed)
			}
		})
	}
}

// change sends a change, and what the store does besides: what is known of health goes with an instance or its checks.
func (w *world) change(ch registry.Change) {
	changes := []registry.Change{ch}
	if i := ch.Instance; i != nil {
		if _, failing := w.record(i.InstanceID); failing && (ch.Deleted || len(i.Checks) == 0) {
			changes = append(changes, registry.Change{Health: &registry.InstanceHealth{InstanceID: i.InstanceID}, Deleted: true})
		}
	}
	w.send(false, changes...)
}

func (c *cluster) alive() (list []string) {
	for node, lives := range c.live {
		if lives {
			list = append(list, node)
		}
	}
	return list
}

func (c *cluster) check(t *testing.T, w *world, seed uint64) {
	t.Helper()
	for n := range 8 {
		w.callsOf(name(n))
	}
	time.Sleep(4100 * time.Millisecond)
	synctest.Wait()
	for n := range 8 {
		i, ok := c.instances[name(n)]
		calls := w.callsOf(name(n))
		_, failing := w.record(name(n))
		if !ok || len(i.Checks) == 0 || len(i.Dialable()) == 0 {
			if len(calls) > 0 || failing {
				t.Fatalf("seed %d: instance %d is not to be checked: %d checks, failing %t", seed, n, len(calls), failing)
			}
			continue
		}
		if sick := w.sick[name(n)] != nil; failing != sick {
			t.Fatalf("seed %d: instance %d is failing %t, sick %t: %+v", seed, n, failing, sick, i)
		}
		by := map[string]bool{}
		for _, call := range calls {
			by[call.agent] = true
			if may := c.rightful(i); !slices.Contains(may, call.agent) {
				t.Fatalf("seed %d: instance %d is checked by %s, want one of %v", seed, n, call.agent, may)
			}
		}
		if len(by) != 1 {
			t.Fatalf("seed %d: instance %d is checked by %v", seed, n, by)
		}
	}
}

// TestRendezvous: each agent gets its share of instances that are nowhere, and when one goes only its own move.
func TestRendezvous(t *testing.T) {
	p := newPlaces("a")
	for _, node := range []string{"a", "b", "c", "d"} {
		p.apply(new(lease(node, false)))
	}
	before, share := map[int]string{}, map[string]int{}
	for n := range 10_000 {
		before[n] = p.nearest(instance(n, "").Instance, nil)
		share[before[n]]++
	}
	for node, n := range share {
		if n < 2200 || n > 2800 {
			t.Errorf("%s has %d of 10 000", node, n)
		}
	}
	p.apply(new(lease("b", true)))
	for n, node := range before {
		if now := p.nearest(instance(n, "").Instance, nil); now != node && node != "b" || now == "b" {
			t.Fatalf("instance %d moved from %s to %s", n, node, now)
		}
	}
}
