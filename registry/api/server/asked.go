package server

import (
	"fmt"
	"net/netip"

	"github.com/sluice-net/sluice/registry"
)

// asked is what the services of one input ask for by name. The store finds out only once it writes them, one after
// the other; then it is too late to write none.
type asked struct {
	ports     map[registry.Frontend]registry.Name // a node port has no address
	vips      map[netip.Addr]registry.Name
	externals map[netip.Addr]registry.Name
}

func newAsked() *asked {
	return &asked{
		ports: map[registry.Frontend]registry.Name{},
		vips:  map[netip.Addr]registry.Name{}, externals: map[netip.Addr]registry.Name{},
	}
}

// add returns what of a service's is asked for by one before it.
func (a *asked) add(s *registry.Service) error {
	for i, p := range s.Ports {
		f := registry.Frontend{Port: p.NodePort, Protocol: p.Protocol}
		if other, taken := a.ports[f]; taken && p.NodePort != 0 {
			return &registry.FieldError{Field: fmt.Sprintf("spec.ports[%d].nodePort", i), Err: fmt.Errorf(
				"%w: %d/%s is asked for by service %s too", registry.ErrNodePortTaken, p.NodePort, p.Protocol, other)}
		}
		a.ports[f] = s.Name
	}
	for _, addr := range s.VIPs {
		if err := a.address(s, addr, "spec.clusterIP", a.vips, a.externals); err != nil {
			return err
		}
	}
	for i, addr := range s.ExternalIPs {
		if err := a.address(s, addr, fmt.Sprintf("spec.externalIPs[%d]", i), a.externals, a.vips); err != nil {
			return err
		}
	}
	for _, addr := range s.LoadBalancerIPs {
		if err := a.address(s, addr, "spec.loadBalancerIP", a.externals, a.vips); err != nil {
			return err
		}
	}
	return nil
}

func (a *asked) address(s *registry.Service, addr netip.Addr, field string, same, opposite map[netip.Addr]registry.Name) error {
	if other, taken := opposite[addr]; taken && other != s.Name {
		return &registry.FieldError{Field: field, Err: fmt.Errorf(
			"%w: %s is asked for by service %s too, and cannot be the VIP of one and an external address of another", registry.ErrVIPTaken, addr, other)}
	}
	same[addr] = s.Name
	for _, p := range s.Ports {
		f := registry.Frontend{Addr: addr, Port: p.Port, Protocol: p.Protocol}
		if other, taken := a.ports[f]; taken && other != s.Name {
			return &registry.FieldError{Field: field, Err: fmt.Errorf(
				"%w: port %d/%s of %s is asked for by service %s too", registry.ErrVIPTaken, p.Port, p.Protocol, addr, other)}
		}
		a.ports[f] = s.Name
	}
	return nil
}
