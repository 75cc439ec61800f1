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

// Service is a set of endpoints, chosen by label, behind a stable virtual address.
type Service struct {
	Name
	// VIPs holds one address per IP family, in the order of preference that was asked for. It is
	// empty for a headless service.
	VIPs []netip.Addr `json:"vips,omitempty"`
	// Headless is set when the service asked for no VIP (clusterIP: None).
	Headless bool `json:"headless,omitempty"`
	// Selector chooses the endpoints of the same namespace that carry all of these labels.
	Selector map[string]string `json:"selector"`
	Ports    []ServicePort     `json:"ports"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// ServicePort maps a port of the VIP to a port of each endpoint.
type ServicePort struct {
	Name     string   `json:"name,omitempty"`
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
	// TargetPort is the endpoints' port; with TargetName set it is resolved per endpoint by name.
	TargetPort uint16 `json:"targetPort,omitempty"`
	TargetName string `json:"targetName,omitempty"`
}

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
}
