package health

import (
	"net/netip"

	"github.com/cespare/xxhash/v2"

	"github.com/sluice-net/sluice/registry"
)

// places knows where addresses are, and which agents live.
type places struct {
	self      string
	nodes     map[string][]netip.Addr
	endpoints map[registry.EndpointID][]netip.Addr
	at        map[netip.Addr]map[string]int // how many of a node's containers and devices have the address
	live      map[string]uint64             // agents, with a hash of their names
}

func newPlaces(self string) *places {
	return &places{
		self: self, nodes: map[string][]netip.Addr{}, endpoints: map[registry.EndpointID][]netip.Addr{},
		at: map[netip.Addr]map[string]int{}, live: map[string]uint64{},
	}
}

// apply returns the addresses that are elsewhere now, or that any instance's agent may be another now.
func (p *places) apply(ch *registry.Change) (moved []netip.Addr, all bool) {
	switch {
	case ch.Endpoint != nil:
		id := ch.Endpoint.EndpointID
		return settle(p, p.endpoints, id, id.Node, ch.Endpoint.Addresses, ch.Deleted), false
	case ch.Node != nil:
		return settle(p, p.nodes, ch.Node.Name, ch.Node.Name, ch.Node.Addresses, ch.Deleted), false
	case ch.NodeLease != nil:
		name := ch.NodeLease.Node
		_, lived := p.live[name]
		if p.live[name] = xxhash.Sum64String(name); ch.Deleted {
			delete(p.live, name)
		}
		return nil, lived == ch.Deleted
	}
	return nil, false
}

// settle replaces the addresses of something that is on a node.
func settle[K comparable](p *places, of map[K][]netip.Addr, k K, node string, addrs []netip.Addr, deleted bool) []netip.Addr {
	old := of[k]
	for _, a := range old {
		a = a.Unmap()
		on := p.at[a]
		if on[node]--; on[node] == 0 {
			delete(on, node)
		}
		if len(on) == 0 {
			delete(p.at, a)
		}
	}
	if deleted {
		delete(of, k)
		return old
	}
	of[k] = addrs
	for _, a := range addrs {
		a = a.Unmap()
		if p.at[a] == nil {
			p.at[a] = map[string]int{}
		}
		p.at[a][node]++
	}
	return append(old[:len(old):len(old)], addrs...)
}

// nearest returns the node whose agent is to check an instance: one that has an address of it, else the one
// that it says it runs on, else one of all, by rendezvous hashing: when an agent goes only its own instances move.
// Agents that do not live are passed over; this one too, if the others live: they take it for gone and check for it.
func (p *places) nearest(i *registry.Instance, addrs []netip.Addr) string {
	best := ""
	for _, a := range addrs {
		for node := range p.at[a] {
			if _, lives := p.live[node]; lives && (best == "" || node < best) {
				best = node
			}
		}
	}
	if best != "" {
		return best
	}
	if _, lives := p.live[i.Node]; lives && i.Node != "" {
		return i.Node
	}
	if len(p.live) == 0 {
		return p.self
	}
	h, most := xxhash.Sum64String(i.String()), uint64(0)
	for node, seed := range p.live {
		if n := mix(h ^ seed); best == "" || n > most || n == most && node < best {
			best, most = node, n
		}
	}
	return best
}

// mix spreads the bits of a number over all of it (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
