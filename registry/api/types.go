// Package api is the agent's HTTP API as its clients see it: the documents that it speaks, and a
// client for the agent's unix socket. All paths start with /v1. The other side is in api/server.
package api

import (
	"fmt"
	"net/netip"
	"strings"

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
	Endpoints int    `json:"endpoints"` // how many the selector chooses
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

// List is the answer to a GET of several things.
type List[T any] struct {
	Items []T `json:"items"`
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
}

// Results is the answer to POST /v1/apply, /v1/delete, /v1/endpoints/label, /v1/endpoints/mark and to
// DELETE /v1/services/NAMESPACE/NAME, /v1/endpointslices/NAMESPACE/NAME, /v1/policies/KIND/[NAMESPACE/]NAME and /v1/namespaces/NAME.
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

// Detail is one fault in what a client sent.
type Detail struct {
	Line   int    `json:"line,omitempty"` // in the body, from 1; 0: unknown
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason"`
}

// String returns LINE: FIELD: REASON, without what is unknown.
func (d Detail) String() string {
	var b strings.Builder
	if d.Line > 0 {
		fmt.Fprintf(&b, "%d: ", d.Line)
	}
	if d.Field != "" {
		fmt.Fprintf(&b, "%s: ", d.Field)
	}
	return b.String() + d.Reason
}

// Error is the body of every answer whose status is not 2xx.
type Error struct {
	Status  int      `json:"-"`
	Message string   `json:"error"`
	Details []Detail `json:"details,omitempty"`
	// Results is what had been done when the error came up.
	Results []Result `json:"results,omitempty"`
}

// Error returns the message and, each on its own line, the details.
func (e *Error) Error() string {
	lines := make([]string, 0, 1+len(e.Details))
	lines = append(lines, e.Message)
	for _, d := range e.Details {
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}
