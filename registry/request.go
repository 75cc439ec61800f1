package registry

import (
	"fmt"
	"net/netip"
)

// Family is an IP family, 4 or 6.
type Family uint8

// The IP families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of a valid address; IPv4-mapped IPv6 counts as IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// String returns the family's name as Kubernetes writes it.
func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// MarshalText makes a family a word in JSON. One that is none is an error.
func (f Family) MarshalText() ([]byte, error) {
	if f != IPv4 && f != IPv6 {
		return nil, fmt.Errorf("IP family %d: want 4 or 6", uint8(f))
	}
	return []byte(f.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (f *Family) UnmarshalText(b []byte) error {
	for _, known := range []Family{IPv4, IPv6} {
		if string(b) == known.String() {
			*f = known
			return nil
		}
	}
	return fmt.Errorf("IP family %q: want IPv4 or IPv6", b)
}

// FamilyPolicy says how many IP families a service wants VIPs of.
type FamilyPolicy uint8

// The policies, named as in Kubernetes.
const (
	// SingleStack is one VIP, of the first family wanted.
	SingleStack FamilyPolicy = iota
	// PreferDualStack is a VIP of each family that the cluster has a range of.
	PreferDualStack
	// RequireDualStack is a VIP of both families, or an error.
	RequireDualStack
)

// String returns the policy's name as Kubernetes writes it.
func (p FamilyPolicy) String() string {
	switch p {
	case PreferDualStack:
		return "PreferDualStack"
	case RequireDualStack:
		return "RequireDualStack"
	}
	return "SingleStack"
}

// MarshalText makes a policy a word in JSON.
func (p FamilyPolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *FamilyPolicy) UnmarshalText(b []byte) error {
	for known := SingleStack; known <= RequireDualStack; known++ {
		if string(b) == known.String() {
			*p = known
			return nil
		}
	}
	return fmt.Errorf("IP family policy %q: want SingleStack, PreferDualStack or RequireDualStack", b)
}

// ServiceRequest is a service as its user asks for it; a store turns it into a Service by giving it
// the VIPs that it lacks.
type ServiceRequest struct {
	// Service.VIPs holds only addresses that the user insists on, at most one per family. Service.Families are those
	// wanted; empty: those of the VIPs asked for, then those the service already has, then those of the cluster's ranges.
	Service
	// NoNodePorts gives a port of a load balancer a NodePort only if it names one
	// (allocateLoadBalancerNodePorts: false).
	NoNodePorts bool
}

// Marks changes the conditions of an endpoint at run time; nil leaves one as it is.
type Marks struct {
	Unready     *bool `json:"unready,omitempty"`
	Terminating *bool `json:"terminating,omitempty"`
}

// AlgorithmAnnotation is the annotation by which a Service asks for an Algorithm.
const AlgorithmAnnotation = "sluice.net/algorithm"

// Restored says what a restore did.
type Restored struct {
	Written   int   `json:"written"`   // objects that were not there, or differed
	Deleted   int   `json:"deleted"`   // objects that the backup does not have
	Unchanged int   `json:"unchanged"` // objects that are as they were
	Revision  int64 `json:"revision"`  // from which on all is known; 0: nothing was written
}
