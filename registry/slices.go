package registry

import (
	"errors"
	"fmt"
)

// The limits of a slice, those of Kubernetes where it has one.
const (
	MaxSliceEndpoints = 1000
	MaxSliceAddresses = 100 // of an endpoint
	MaxSlicePorts     = 100
)

// Owner returns the name of the slice's service.
func (s *Slice) Owner() Name { return Name{s.Namespace, s.Service} }

// Validate returns why nobody can act on the slice, or nil. It is for what was stored, by whomever: a slice that
// registry/kube has read always passes.
func (s *Slice) Validate() error {
	switch {
	case s.Name.Name == "" || s.Namespace == "":
		return errors.New("no name or namespace")
	case s.Service == "":
		return errors.New("no service")
	case s.Family != IPv4 && s.Family != IPv6:
		return fmt.Errorf("IP family %d", s.Family)
	case len(s.Endpoints) > MaxSliceEndpoints || len(s.Ports) > MaxSlicePorts:
		return fmt.Errorf("%d endpoints and %d ports are too many", len(s.Endpoints), len(s.Ports))
	}
	for i, p := range s.Ports {
		if p.Port == 0 || p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP {
			return fmt.Errorf("port %d: %d/%s", i, p.Port, p.Protocol)
		}
	}
	for i, e := range s.Endpoints {
		if err := e.validate(s.Family); err != nil {
			return fmt.Errorf("endpoint %d: %w", i, err)
		}
	}
	return nil
}

func (e *SliceEndpoint) validate(f Family) error {
	if n := len(e.Addresses); n == 0 || n > MaxSliceAddresses {
		return fmt.Errorf("%d addresses: want 1 to %d", n, MaxSliceAddresses)
	}
	for _, a := range e.Addresses {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() || FamilyOf(a) != f {
			return fmt.Errorf("%q is no %s address", a, f)
		}
	}
	if e.Weight != nil && *e.Weight > MaxWeight {
		return fmt.Errorf("weight %d: want at most %d", *e.Weight, MaxWeight)
	}
	return nil
}
