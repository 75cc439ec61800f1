// Package registry holds the model that every other part of Sluice speaks: services, the endpoints
// behind them, and the nodes they run on, together with the stream of changes to them.
//
// It knows nothing of kernels or containers. The ways in and out (etcd, Kubernetes YAML, the HTTP
// API) live in its sub-packages.
package registry

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Protocol is an IANA protocol number, one of those below.
type Protocol uint8

// The protocols that a service port may have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the upper-case name that Kubernetes uses.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// ParseProtocol reads a protocol's name, in any case. The empty name is TCP, as in Kubernetes.
func ParseProtocol(s string) (Protocol, error) {
	switch strings.ToUpper(s) {
	case "", "TCP":
		return TCP, nil
	case "UDP":
		return UDP, nil
	case "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q: want TCP, UDP or SCTP", s)
}

// MarshalText makes a protocol a word in JSON and YAML.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *Protocol) UnmarshalText(b []byte) (err error) {
	*p, err = ParseProtocol(string(b))
	return err
}

// Name identifies an object; one of the whole cluster has no namespace.
type Name struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String returns NAMESPACE/NAME, or NAME for an object of the whole cluster.
func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

// Service is a set of backends behind stable addresses: endpoints chosen by label, and what slices list.
type Service struct {
	Name
	Type ServiceType `json:"type,omitempty"`
	// VIPs holds one address per IP family, in the order of preference that was asked for. It is
	// empty for a headless service and for an ExternalName.
	VIPs []netip.Addr `json:"vips,omitempty"`
	// FamilyPolicy says how many IP families the service wants.
	FamilyPolicy FamilyPolicy `json:"ipFamilyPolicy,omitempty"`
	// Families that a headless service names, in order of preference. One with VIPs has theirs: a store keeps none here.
	Families []Family `json:"ipFamilies,omitempty"`
	// Headless is set when the service asked for no VIP (clusterIP: None).
	Headless bool `json:"headless,omitempty"`
	// ExternalName is the DNS name that the service stands for; nothing of it concerns the dataplane.
	ExternalName string `json:"externalName,omitempty"`
	// ExternalIPs and LoadBalancerIPs are addresses that are the service's at its ports only: the
	// other ports belong to whoever has the address.
	ExternalIPs     []netip.Addr `json:"externalIPs,omitempty"`
	LoadBalancerIPs []netip.Addr `json:"loadBalancerIPs,omitempty"`
	// Selector chooses the endpoints of the same namespace that carry all of these labels; empty: none.
	Selector map[string]string `json:"selector"`
	Ports    []ServicePort     `json:"ports"`
	Labels   map[string]string `json:"labels,omitempty"`
	// AffinityTimeout is for how many seconds a client stays with its backend after its last new
	// connection (sessionAffinity: ClientIP); 0: no affinity.
	AffinityTimeout uint32 `json:"affinityTimeout,omitempty"`
	// InternalLocal sends what comes to the VIPs to backends of the client's node only
	// (internalTrafficPolicy: Local).
	InternalLocal bool `json:"internalLocal,omitempty"`
	// ExternalLocal is the same for what comes from outside of the cluster to the other addresses
	// (externalTrafficPolicy: Local). Clients inside reach all backends (KEP-1669).
	ExternalLocal bool         `json:"externalLocal,omitempty"`
	Distribution  Distribution `json:"distribution,omitempty"`
	// PublishNotReady makes backends of all that are selected, ready or not. What slices list is as these say.
	PublishNotReady bool      `json:"publishNotReady,omitempty"`
	Algorithm       Algorithm `json:"algorithm,omitempty"`
	// Eureka says what readers by Eureka's protocol get.
	Eureka EurekaView `json:"eureka,omitempty"`
}

// EurekaAnnotation is the annotation by which a service says what readers by Eureka's protocol get.
const EurekaAnnotation = "sluice.net/eureka"

// EurekaView says what readers by Eureka's protocol get of a service.
type EurekaView string

// The views.
const (
	EurekaInstances EurekaView = ""    // its instances; also spelled instances
	EurekaVIP       EurekaView = "vip" // one that stands for them, at the service's address and ports
)

// ServiceType says how a service can be reached, as Kubernetes has it.
type ServiceType string

// The types. The zero value is TypeClusterIP.
const (
	TypeClusterIP    ServiceType = ""
	TypeNodePort     ServiceType = "NodePort"     // and at a port of every node address
	TypeLoadBalancer ServiceType = "LoadBalancer" // and at the addresses of load balancers
	TypeExternalName ServiceType = "ExternalName" // by DNS only
)

// Distribution says which backends a client's traffic prefers (trafficDistribution, KEP-4444 and
// KEP-3015).
type Distribution string

// The distributions.
const (
	DistributeEvenly Distribution = ""
	PreferSameZone   Distribution = "PreferSameZone" // also spelled PreferClose
	PreferSameNode   Distribution = "PreferSameNode" // then those of the zone, then all
)

// Algorithm says how a flow's backend is chosen.
type Algorithm string

// The algorithms.
const (
	AlgorithmDefault Algorithm = ""       // that of the node's configuration
	AlgorithmRandom  Algorithm = "random" // evenly, by weight
	AlgorithmMaglev  Algorithm = "maglev" // consistent: see loader
)

// Algorithms returns those that can be asked for.
func Algorithms() []Algorithm { return []Algorithm{AlgorithmRandom, AlgorithmMaglev} }

// ServicePort maps a port of the service's addresses to a port of each backend.
type ServicePort struct {
	Name     string   `json:"name,omitempty"`
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
	// TargetPort is the endpoints' port; with TargetName set it is resolved per endpoint by name.
	TargetPort uint16 `json:"targetPort,omitempty"`
	TargetName string `json:"targetName,omitempty"`
	// NodePort is the port of the nodes' own addresses; 0: none.
	NodePort uint16 `json:"nodePort,omitempty"`
}

// Slice lists backends of a service that no container of the registry stands for, or further ones: an
// EndpointSlice of Kubernetes.
type Slice struct {
	Name
	Service string `json:"service"`         // of the same namespace
	Owned   bool   `json:"owned,omitempty"` // goes when its service is deleted
	Family  Family `json:"family"`
	// Ports by the names that the service's ports have: where they lead to.
	Ports     []EndpointPort  `json:"ports"`
	Endpoints []SliceEndpoint `json:"endpoints"`
}

// SliceEndpoint is one backend of a slice.
type SliceEndpoint struct {
	// Addresses holds one or more, all of the same endpoint; the first is the backend's.
	Addresses []netip.Addr `json:"addresses"`
	Node      string       `json:"node,omitempty"`
	Zone      string       `json:"zone,omitempty"` // empty: that of the node
	Hostname  string       `json:"hostname,omitempty"`
	Weight    *uint16      `json:"weight,omitempty"` // nil: DefaultWeight
	// The conditions of an EndpointSlice (KEP-1672).
	Ready       bool `json:"ready,omitempty"`
	Serving     bool `json:"serving,omitempty"`
	Terminating bool `json:"terminating,omitempty"`
}

// WeightLabel is the label by which a container says how many new flows it takes, relative to the
// others: 0 to MaxWeight. With 0 it takes new ones only where all have 0.
const WeightLabel = "sluice.net/weight"

// The limits of weights.
const (
	DefaultWeight = 1
	MaxWeight     = 256
)

// EndpointID identifies one interface of one container of the cluster.
type EndpointID struct {
	Node        string `json:"node"`
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
}

// String returns NODE/CONTAINER/INTERFACE.
func (id EndpointID) String() string { return id.Node + "/" + id.ContainerID + "/" + id.Interface }

// Endpoint is one wired container interface.
type Endpoint struct {
	EndpointID
	// Name is the workload's name as the runtime knows it (a pod's name and namespace), or the
	// container id in namespace "default".
	Name    Name   `json:"name"`
	Network string `json:"network"` // name of the CNI network
	// Addresses holds the container's addresses, at most one per IP family.
	Addresses []netip.Addr      `json:"addresses"`
	Labels    map[string]string `json:"labels,omitempty"`
	Ports     []EndpointPort    `json:"ports,omitempty"`
	// Unready: does not serve for now. Terminating: finishes what it has and takes nothing new.
	Unready     bool `json:"unready,omitempty"`
	Terminating bool `json:"terminating,omitempty"`
}

// EndpointPort gives one port of an endpoint a name, for services that target it by name.
type EndpointPort struct {
	Name     string   `json:"name"`
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
}

// Node is a machine that runs the agent.
type Node struct {
	Name      string       `json:"name"`
	Zone      string       `json:"zone,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// ContainerCIDRs are the ranges that its containers get their addresses from. No two nodes share any.
	ContainerCIDRs []netip.Prefix `json:"containerCIDRs,omitempty"`
}

// NodeLease exists as long as the agent of a node keeps in touch with the store. Nothing follows for the node's
// containers: the kernel serves them without the agent.
type NodeLease struct {
	Node    string    `json:"node"`
	Version string    `json:"version"` // of the agent
	Since   time.Time `json:"since"`   // when it came
}
