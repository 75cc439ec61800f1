// Package api is the agent's HTTP API as its clients see it: the documents that it speaks, and a
// client for the agent's unix socket. All paths start with /v1. The other side is in api/server.
package api

import (
	"net/netip"

	"github.com/sluice-net/sluice/registry"
)

// Status is GET /v1/status.
type Status struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	// Ready is set when every condition holds.
	Ready      bool        `json:"ready"`
	Conditions []Condition `json:"conditions"`
	Kernel     string      `json:"kernel"`
	Attach     string      `json:"attach"`   // how packet programs are attached: "tcx" or "clsact"
	Revision   int64       `json:"revision"` // of the registry that this node's maps reflect
	Counts     Counts      `json:"counts"`
	Maps       []Map       `json:"maps"`
	Pools      []Pool      `json:"pools"`
}

// Condition is one thing that must hold for a node to be ready.
type Condition struct {
	Name    string `json:"name"` // e.g. "registry", "maps", "programs"
	OK      bool   `json:"ok"`
	Message string `json:"message,omitempty"` // what is wrong; or a remark
}

// Counts says how much there is. Containers are this node's, the rest is the whole registry's.
type Counts struct {
	Services   int `json:"services"`
	Backends   int `json:"backends"` // of all frontends
	Draining   int `json:"draining"` // of these: keep what they have and take nothing new
	Endpoints  int `json:"endpoints"`
	Containers int `json:"containers"`
	Policies   int `json:"policies"`
	Namespaces int `json:"namespaces"`
}

// Map is a kernel map's fill.
type Map struct {
	Name    string `json:"name"`
	Entries uint64 `json:"entries"`
	Limit   uint64 `json:"limit"`
	Bytes   uint64 `json:"bytes"` // memory that the kernel holds for it
}

// Pool is the fill of a range of addresses.
type Pool struct {
	Use  string       `json:"use"` // "services" or "containers"
	CIDR netip.Prefix `json:"cidr"`
	Used uint64       `json:"used"`
	Size uint64       `json:"size"` // addresses that can be handed out; at most 2^63
}

// CheckResult is GET /v1/check: how this node's maps and programs differ from the registry.
type CheckResult struct {
	Services    int          `json:"services"`
	Backends    int          `json:"backends"`
	Containers  int          `json:"containers"`
	Differences []Difference `json:"differences"` // empty: all is equal
}

// Difference is one thing that is not as it should be.
type Difference struct {
	Object  string `json:"object"`  // what it is about: a frontend, an interface, a map entry
	Problem string `json:"problem"` // what is wrong with it
}

// String says it in one line.
func (d Difference) String() string { return d.Object + ": " + d.Problem }

// Service is one item of GET /v1/services.
type Service struct {
	registry.Service
	Endpoints int    `json:"endpoints"` // how many stand behind it: containers, entries of slices, instances
	Ports     []Port `json:"ports"`     // in place of Service.Ports
}

// Port is a service's port with what answers there now.
type Port struct {
	registry.ServicePort
	Backends []Backend `json:"backends"` // over all VIPs, as this node chooses from them
}

// Backend is one of those that answer at a service's port.
type Backend struct {
	Address  netip.AddrPort `json:"address"`
	Weight   uint16         `json:"weight"`             // share of new flows, relative to the others
	Draining bool           `json:"draining,omitempty"` // keeps its flows, takes no new ones
}

// Policy is one item of GET /v1/policies.
type Policy struct {
	registry.Policy
	Selected     int `json:"selected"` // how many containers the policy is about
	PolicyStatus     // empty unless asked for
}

// PolicyStatus is a policy's status where it is shown as a Kubernetes object.
type PolicyStatus struct {
	Containers []Container `json:"containers,omitempty"` // that the policy is about
}

// Container is one interface of a container.
type Container struct {
	registry.Name
	registry.EndpointID
}

// List is the answer to a GET of several things, or one page of it.
type List[T any] struct {
	Items []T `json:"items"`
	// Revision of the registry that the items are of: where a watch can go on from.
	Revision int64 `json:"revision,omitempty"`
	// Continue is what to ask for the next page with; "": this is the last. All pages are of one revision.
	Continue string `json:"continue,omitempty"`
}

// The actions that a Result names.
const (
	Created    = "created"
	Configured = "configured"
	Unchanged  = "unchanged"
	Deleted    = "deleted"
	NotFound   = "not found"
	Labelled   = "labelled"
	Marked     = "marked"
	Registered = "registered"
	Updated    = "updated"
	Gone       = "deregistered"
)

// Result says what became of one object.
type Result struct {
	Kind          string            `json:"kind"` // of Kubernetes, or "Endpoint"
	registry.Name                   // without a namespace if the object is the whole cluster's
	Action        string            `json:"action"`
	VIPs          []netip.Addr      `json:"vips,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"` // of an endpoint, as they are now
	// Conditions of an endpoint that was marked, as they are now: those of EndpointConditions.
	Conditions []string `json:"conditions,omitempty"`
	// Instance that was registered or changed, as it is stored. Its name is NAMESPACE and SERVICE/ID.
	Instance *registry.Instance `json:"instance,omitempty"`
}

// Results is the answer to everything that writes, but heartbeats.
type Results struct {
	Results []Result `json:"results"`
	// Synced is set when this node's maps reflect what was written.
	Synced bool `json:"synced"`
	// Warning says why not.
	Warning string `json:"warning,omitempty"`
}

// LabelRequest is the body of POST /v1/endpoints/label.
type LabelRequest struct {
	// Container is a container id, NAMESPACE/NAME or NAME of a workload, or the beginning of a
	// container id if only one container's begins so.
	Container string            `json:"container"`
	Set       map[string]string `json:"set,omitempty"`
	Remove    []string          `json:"remove,omitempty"`
}

// MarkRequest is the body of POST /v1/endpoints/mark.
type MarkRequest struct {
	Container string `json:"container"` // as in a LabelRequest
	registry.Marks
}

// The conditions of an endpoint. One that is draining keeps what it has, unless it is unready too.
const (
	Ready    = "ready"
	Unready  = "unready"
	Draining = "draining"
)

// EndpointConditions returns those that hold: Ready alone, or else Unready, Draining or both.
func EndpointConditions(e *registry.Endpoint) []string {
	var list []string
	if e.Unready {
		list = append(list, Unready)
	}
	if e.Terminating {
		list = append(list, Draining)
	}
	if len(list) == 0 {
		list = append(list, Ready)
	}
	return list
}

// Version is GET /v1/version.
type Version struct {
	Version string `json:"version"`
	Node    string `json:"node"`
}
