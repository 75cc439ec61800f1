package registry

import (
	"context"
	"net/netip"
)

// Change is one object written or deleted. Exactly one of the pointers is set; of a deleted object
// only its name or id need be filled.
type Change struct {
	Service   *Service
	Slice     *Slice
	Endpoint  *Endpoint
	Node      *Node
	NodeLease *NodeLease // deleted: the agent has gone, or cannot reach the store
	Namespace *Namespace
	Policy    *Policy
	Instance  *Instance
	Lease     *InstanceLease  // deleted: it has lapsed
	Health    *InstanceHealth // deleted: the instance is well
	Deleted   bool
}

// Outcome says what became of an object that was written or deleted.
type Outcome string

// The outcomes.
const (
	Created    Outcome = "created"
	Configured Outcome = "configured"
	Unchanged  Outcome = "unchanged"
	Deleted    Outcome = "deleted"
	NotFound   Outcome = "not found"
)

// Batch is a set of changes that were committed together, or the whole of the registry.
type Batch struct {
	// Revision of the registry after the changes; it only rises.
	Revision int64
	// Snapshot is set when Changes name every object there is: what they do not name is gone.
	Snapshot bool
	Changes  []Change
}

// Source is a registry to follow. It is small on purpose: etcd stands behind it, and so can a
// Kubernetes API server.
type Source interface {
	// Watch sends a snapshot and then every later batch, in order, until ctx ends; then it closes
	// the channel. When the source has lost its place (compaction, a broken connection) it sends
	// a new snapshot.
	Watch(ctx context.Context) <-chan Batch
}

// Frontend is what a client dials: one port of one address of a service.
type Frontend struct {
	Addr     netip.Addr `json:"addr"`
	Port     uint16     `json:"port"`
	Protocol Protocol   `json:"protocol"`
}

// Resolved is a frontend with the backends that serve it now, seen from one node.
type Resolved struct {
	Frontend
	Service  Name   // the service it belongs to
	PortName string // of the service's port; may be empty
	// Backends are sorted by address, and there is one for an address. When none takes new flows,
	// connections are refused.
	Backends        []Backend
	Algorithm       Algorithm
	AffinityTimeout uint32 // seconds; 0: no affinity
	// Shared: the address is not the service's alone. Its other ports are as if there were no service.
	Shared bool
}

// Backend is where a frontend's traffic goes.
type Backend struct {
	netip.AddrPort
	// Weight is the share of new flows, relative to the others'; at least 1, unless Draining.
	Weight uint16
	// Draining: keeps the flows that it has and takes no new ones.
	Draining bool
}

// Evenly returns backends that share new flows evenly.
func Evenly(addrs ...netip.AddrPort) []Backend {
	list := make([]Backend, len(addrs))
	for i, a := range addrs {
		list[i] = Backend{AddrPort: a, Weight: DefaultWeight}
	}
	return list
}

// Compare orders backends by address and port.
func (b Backend) Compare(o Backend) int { return b.AddrPort.Compare(o.AddrPort) }

// Update is what a Batch means for the dataplane.
type Update struct {
	Revision int64
	// Snapshot is set when Set holds every frontend there is.
	Snapshot bool
	Set      []Resolved
	Delete   []Frontend
	// Isolation holds what of the batch concerns isolation: endpoints, nodes, namespaces and policies.
	// With Snapshot it is all of them that there are.
	Isolation []Change
}
