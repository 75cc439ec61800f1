package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// The limits of a service.
const (
	MaxServicePorts    = 1024
	MaxVIPs            = 2  // one of each IP family
	MaxExternal        = 64 // addresses beside the VIPs: each is a frontend of its own for each port
	MaxAffinityTimeout = 86400
)

// Validate returns why nobody can act on the service, or nil. It is for what was stored, by whomever: a service that
// registry/kube has read always passes once a store has given it its VIPs and node ports.
func (s *Service) Validate() error {
	external := len(s.ExternalIPs) + len(s.LoadBalancerIPs)
	if len(s.VIPs) > MaxVIPs || len(s.Families) > MaxVIPs || len(s.Ports) > MaxServicePorts || external > MaxExternal {
		return fmt.Errorf("%d VIPs, %d IP families, %d ports and %d external addresses are too many", len(s.VIPs), len(s.Families), len(s.Ports), external)
	}
	if s.AffinityTimeout > MaxAffinityTimeout {
		return fmt.Errorf("affinity of %d seconds: want at most %d", s.AffinityTimeout, MaxAffinityTimeout)
	}
	if err := s.validWords(); err != nil {
		return err
	}
	for _, list := range [][]netip.Addr{s.VIPs, s.ExternalIPs, s.LoadBalancerIPs} {
		for _, a := range list {
			if !a.IsValid() || a.Zone() != "" {
				return fmt.Errorf("address %q", a)
			}
		}
	}
	for i := range s.Ports {
		if err := s.validPort(&s.Ports[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) validWords() error {
	external := len(s.ExternalIPs) + len(s.LoadBalancerIPs)
	none := s.Headless || s.Type == TypeExternalName
	switch {
	case !slices.Contains([]ServiceType{TypeClusterIP, TypeNodePort, TypeLoadBalancer, TypeExternalName}, s.Type):
		return fmt.Errorf("type %q is unknown", s.Type)
	case !slices.Contains([]Distribution{DistributeEvenly, PreferSameZone, PreferSameNode}, s.Distribution):
		return fmt.Errorf("distribution %q is unknown", s.Distribution)
	case s.Algorithm != AlgorithmDefault && !slices.Contains(Algorithms(), s.Algorithm):
		return fmt.Errorf("algorithm %q is unknown", s.Algorithm)
	case (s.Type == TypeExternalName) != (s.ExternalName != ""):
		return fmt.Errorf("external name %q of a service of type %q", s.ExternalName, s.Type)
	case s.Headless && s.Type != TypeClusterIP:
		return fmt.Errorf("headless service of type %q", s.Type)
	case none && len(s.VIPs)+external > 0:
		return errors.New("addresses of a service that has none")
	case len(s.LoadBalancerIPs) > 0 && s.Type != TypeLoadBalancer:
		return fmt.Errorf("addresses of load balancers of a service of type %q", s.Type)
	}
	return nil
}

func (s *Service) validPort(p *ServicePort) error {
	switch {
	case p.Port == 0 || p.TargetPort == 0 && p.TargetName == "":
		return errors.New("port 0")
	case p.Protocol == 0:
		return errors.New("port without protocol")
	case p.NodePort != 0 && s.Type != TypeNodePort && s.Type != TypeLoadBalancer:
		return fmt.Errorf("node port %d of a service of type %q", p.NodePort, s.Type)
	}
	return nil
}
