package main

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/sluice-net/sluice/cni"
	cniserver "github.com/sluice-net/sluice/cni/server"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/etcd"
)

// newGuard opens what decides who may write over the network.
func newGuard(c *accessConfig, o *owners, log *slog.Logger) (*access.Guard, error) {
	g := &access.Guard{Own: o.of}
	if c.Tokens == "" {
		return g, nil
	}
	var err error
	g.Tokens, err = access.OpenTokens(c.Tokens, log)
	return g, err
}

// newRoom bounds what is registered without a token.
func newRoom(s *etcd.Store, c *registry.Catalog) *access.Room {
	return &access.Room{Registered: s.InstancesAt, Exists: func(n registry.Name) bool {
		_, found := c.Service(n)
		return found || !c.Synced() // who comes back while the agent starts makes nothing new
	}}
}

// owners knows whose an address is, on this node.
type owners struct {
	wired atomic.Pointer[cniserver.Server] // nil until there is one
	node  atomic.Pointer[[]netip.Addr]     // of the node's devices, without loopback's own; sorted
}

// of returns all addresses of whoever has one: a container's, or the node's; nil: nobody's of this node.
func (o *owners) of(source netip.Addr) []netip.Addr {
	if s := o.wired.Load(); s != nil {
		if own := s.Own(source); len(own) > 0 {
			return own
		}
	}
	var node []netip.Addr
	if n := o.node.Load(); n != nil {
		node = *n
	}
	if _, has := slices.BinarySearchFunc(node, source, netip.Addr.Compare); !has && !source.IsLoopback() && !nodeLocal(source) {
		return nil
	}
	return append(slices.Clone(node), netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
}

// nodeLocal reports whether an address is one of those at which every node serves its containers. What the node
// itself sends there comes from there, too.
func nodeLocal(a netip.Addr) bool {
	return a == netip.MustParseAddr(cni.NodeLocalV4) || a == netip.MustParseAddr(cni.NodeLocalV6)
}
