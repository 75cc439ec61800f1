package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
	"github.com/sluice-net/sluice/tests/bench/crowd"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// Where the entry is that a write leads to, as cases name it.
const (
	sameNode      = "same"            // its agent took the write, and keeps the registry itself
	sameOfCluster = "same_of_cluster" // its agent took the write, and etcd is a cluster
	secondNode    = "second"          // of the same cluster
)

// spread measures how writes reach the kernels of nodes. The clock is that of one machine.
type spread struct {
	*bench
	nodes   []*nstest.Node // the first is told of the writes
	where   []string       // of each
	etcd    []string       // client URLs of the store
	sights  []*sight
	vip     netip.AddrPort // of the service that changes
	bare    *bareStore
	inRound map[sheet.Case][]time.Duration // what took how long
	order   []sheet.Case                   // of inRound
	moves   int                            // of the service that changes
}

const patience = 30 * time.Second // for one write

// nodeSpread measures how soon the kernel of a node that keeps its registry itself knows of a write.
func (b *bench) nodeSpread(ctx context.Context) (err error) {
	node, err := b.Lab.New(ctx, nstest.Settings{MapScale: 1, Attach: b.Attach})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	s := &spread{bench: b, nodes: []*nstest.Node{node}, where: []string{sameNode}, etcd: []string{"unix://" + node.EtcdSocket()}}
	return s.run(ctx, b.times(40, 20))
}

// clusterSpread is nodeSpread of two nodes that share a cluster of three members of etcd.
func (b *bench) clusterSpread(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "sle")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := etcdtest.StartDurable(dir, 3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	s := &spread{bench: b, where: []string{sameOfCluster, secondNode}, etcd: c.Endpoints()}
	for i := range s.where {
		node, err := b.Lab.New(ctx, nstest.Settings{
			MapScale: 1, Attach: b.Attach, Etcd: c.Endpoints(),
			Node: fmt.Sprintf("n%d", i+1), Address: fmt.Sprintf("192.0.2.%d", i+1),
			Containers: []string{fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:10:244:%d::/64", i+1)},
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, node.Close()) }()
		s.nodes = append(s.nodes, node)
	}
	return s.run(ctx, 15)
}

// run measures with few services and with many, so many writes of each kind in a round.
func (s *spread) run(ctx context.Context, times int) (err error) {
	for _, n := range s.nodes {
		sight, err := openSight(n, lookOften)
		if err != nil {
			return err
		}
		defer sight.services.Close()
		s.sights = append(s.sights, sight)
	}
	if s.bare, err = openBare(ctx, s.etcd); err != nil {
		return err
	}
	defer s.bare.close()
	there := 0
	for _, services := range []int{few, s.many()} {
		from := there
		took, err := crowd.Register(ctx, s.nodes[0], services-from, func(n int) registry.Instance { return crowd.Instance(from+n, 0) })
		if err != nil {
			return err
		}
		s.Log("control: %d services registered in %.1f s", services-from, took.Seconds())
		there = services
		if s.vip, err = s.find(ctx, "s0"); err != nil {
			return err
		}
		if err := s.rounds(ctx, services, times); err != nil {
			return fmt.Errorf("at %d services: %w", services, err)
		}
		if services != s.many() {
			continue
		}
		if err := s.lapse(ctx, services); err != nil {
			return fmt.Errorf("leases that end: %w", err)
		}
	}
	for _, n := range s.nodes {
		if _, err := n.Sluice(ctx, "", "check"); err != nil {
			return err
		}
	}
	return nil
}

// find returns where a service is, once all nodes have its one backend.
func (s *spread) find(ctx context.Context, service string) (vip netip.AddrPort, err error) {
	if vip, err = frontend(ctx, s.nodes[0], service); err != nil {
		return vip, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, sight := range s.sights {
		if w := <-sight.watch(ctx, vip, 1); w.err != nil {
			return vip, fmt.Errorf("await a backend of %s: %w", vip, w.err)
		}
	}
	return vip, nil
}

// frontend returns the IPv4 address of a crowd's service.
func frontend(ctx context.Context, node *nstest.Node, service string) (vip netip.AddrPort, err error) {
	svc, err := node.API().Service(ctx, registry.Name{Namespace: "default", Name: service})
	if err != nil {
		return vip, err
	}
	for _, a := range svc.VIPs {
		if a.Is4() {
			return netip.AddrPortFrom(a, crowd.Port), nil
		}
	}
	return vip, fmt.Errorf("service %s has no IPv4 address", service)
}

// lapse lets instances of several services die without a word, each in a moment of its own: by how much their entries
// outlive their leases. It is one round: all that takes time is to wait for leases.
func (s *spread) lapse(ctx context.Context, services int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const lease = 5 // seconds
	group, ctx := errgroup.WithContext(ctx)
	last := len(s.sights) - 1
	seer := &sight{s.sights[last].services, lookRarely}
	late := make([]time.Duration, few-1)
	for i := range late {
		group.Go(func() error {
			one := crowd.Instance(services-1-i, 1) // those that this was done to before may still be held back
			one.Lease = lease
			vip, err := s.find(ctx, one.Service)
			if err != nil {
				return err
			}
			// etcd looks for leases that have ended every half second.
			time.Sleep(rand.N(500 * time.Millisecond))
			sent := time.Now()
			if _, err := s.nodes[0].API().Register(ctx, one); err != nil {
				return err
			}
			for _, slots := range []int{2, 1} {
				found := <-seer.watch(ctx, vip, slots)
				if found.err != nil {
					return found.err
				}
				late[i] = found.at.Sub(sent) - lease*time.Second
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.took.Round(of("kind", "lapse", "step", "lease_to_entry", "node", s.where[last], "services", services), 0, late)
	return nil
}
