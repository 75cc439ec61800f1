// Package cni is the CNI plugin: its verbs, its configuration, the wiring of a container's veth, and
// the protocol between the plugin and the agent.
//
// The plugin sees the container's network namespace and wires the interface in it; the agent, on the
// other side of a unix socket, hands out addresses, owns the node's side of the veth, and keeps the
// record of what is wired. An ADD is three steps: the agent reserves, the plugin wires, the agent
// commits; when a step fails, those before it are undone.
//
// This package is linked into a binary that is run for every container: it must stay small.
package cni

import (
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-net/sluice/registry"
)

// DefaultSocket is where the agent listens when the configuration names no socket.
const DefaultSocket = "/run/sluice/sluiced.sock"

// What every container sees as its gateway. The gateway is no machine's address: the dataplane
// answers for it on each veth, and every veth's host side carries its MAC.
const (
	GatewayV4  = "169.254.1.1"
	GatewayV6  = "fe80::1"
	GatewayMAC = "02:53:6c:75:63:65"
)

// Where every node serves its containers: DNS, the registry's HTTP API, Eureka's. They are addresses of the node's
// loopback device, and lead from each container to its own node.
const (
	NodeLocalV4 = "169.254.1.53"
	NodeLocalV6 = "fd53:6c75:6963:65::53"
)

// The paths of the protocol's version 1, all POST. A change that an older peer would misunderstand
// needs a new version.
const (
	PathAdd    = "/cni/v1/add"
	PathAttach = "/cni/v1/attach"
	PathCommit = "/cni/v1/commit"
	PathDel    = "/cni/v1/del"
	PathCheck  = "/cni/v1/check"
	PathGC     = "/cni/v1/gc"
	PathStatus = "/cni/v1/status"
)

// Limits on what either side reads from the other, in bytes.
const (
	MaxRequest   = 64 << 10
	MaxGCRequest = 8 << 20 // names every attachment of the node
	MaxReply     = 1 << 20
)

// Error codes of our own; the specification leaves those from 100 on to plugins.
const (
	CodeRangeFull   uint = 100 // no free address is left in the node's ranges
	CodeAddressUsed uint = 101 // a requested address belongs to another container
	CodeAttached    uint = 102 // the container already has that interface
	CodeCheckFailed uint = 103 // CHECK found something missing or changed
)

// AttachmentID names one interface of one container of this node.
type AttachmentID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// String returns CONTAINER/INTERFACE.
func (id AttachmentID) String() string { return id.ContainerID + "/" + id.IfName }

// AddRequest asks the agent to reserve what a new interface needs.
type AddRequest struct {
	AttachmentID
	Netns   string `json:"netns"`   // path, for the record only
	Network string `json:"network"` // name of the CNI network
	// Name is the workload's; empty: the container id in namespace "default".
	Name   registry.Name           `json:"name"`
	Labels map[string]string       `json:"labels,omitempty"`
	Ports  []registry.EndpointPort `json:"ports,omitempty"`
	// IPs are the addresses asked for, at most one per family; the agent chooses the others.
	IPs []netip.Addr `json:"ips,omitempty"`
	MAC string       `json:"mac,omitempty"` // of the container's side; empty: the agent chooses
	MTU int          `json:"mtu,omitempty"` // bytes; 0: the agent chooses
}

// AddReply is what the agent reserved.
type AddReply struct {
	// Reservation names this try; commit and undo carry it, so that a plugin that was overtaken
	// by a later ADD cannot touch what is the later one's.
	Reservation   string       `json:"reservation"`
	HostInterface string       `json:"hostInterface"`
	MAC           string       `json:"mac"` // of the container's side
	MTU           int          `json:"mtu"` // bytes
	Addresses     []netip.Addr `json:"addresses"`
	// DNS is what the container's resolv.conf is to say, unless its configuration knows better.
	DNS types.DNS `json:"dns,omitzero"`
}

// CommitRequest tells the agent how far an ADD has come: to attach, that the interface is there and
// its host side may carry packets; to commit, that the container can be reached and others may learn
// of it. Asking again is harmless.
type CommitRequest struct {
	AttachmentID
	Reservation string `json:"reservation"`
	// NetnsCookie is the kernel's number of the container's network namespace; 0: it tells none.
	NetnsCookie uint64 `json:"netnsCookie,omitempty"`
}

// DelRequest asks the agent to remove an interface and all that belongs to it. What is not there
// need not be removed: that is no error.
type DelRequest struct {
	AttachmentID
	// Reservation, when set, limits the request to what that ADD made.
	Reservation string `json:"reservation,omitempty"`
}

// CheckRequest asks the agent to compare its side of an interface with the record.
type CheckRequest struct {
	AttachmentID
}

// CheckReply is what the interface should look like in the container.
type CheckReply struct {
	HostInterface string       `json:"hostInterface"`
	MAC           string       `json:"mac"`
	MTU           int          `json:"mtu"`
	Addresses     []netip.Addr `json:"addresses"`
	// Problems lists what the agent found wrong on its side.
	Problems []string `json:"problems,omitempty"`
}

// GCRequest asks the agent to remove every interface of a network that is not named.
type GCRequest struct {
	Network string         `json:"network"`
	Valid   []AttachmentID `json:"valid"`
}

// StatusRequest asks whether an ADD would succeed now.
type StatusRequest struct{}
