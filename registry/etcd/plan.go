package etcd

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// wanted is one VIP of a service to be: an address that it has or asks for, or any of a family.
type wanted struct {
	family registry.Family
	addr   netip.Addr // invalid: any
}

// plan decides which VIPs a service is to have. old is the service as stored, or empty.
func (s *Store) plan(req registry.ServiceRequest, old registry.Service) ([]wanted, error) {
	if req.Type == registry.TypeExternalName {
		if len(req.VIPs) > 0 {
			return nil, fmt.Errorf("%w: an ExternalName has no VIP", registry.ErrInvalid)
		}
		return nil, nil
	}
	hasAddresses := old.Name != registry.Name{} && old.Type != registry.TypeExternalName
	if hasAddresses && old.Headless != req.Headless {
		return nil, fmt.Errorf("%w: the service was made with headless=%t; delete it first", registry.ErrVIPImmutable, old.Headless)
	}
	if req.Headless {
		if len(req.VIPs) > 0 {
			return nil, fmt.Errorf("%w: a headless service has no VIP", registry.ErrInvalid)
		}
		return nil, nil
	}
	if err := s.checkAsked(req, old); err != nil {
		return nil, err
	}
	families, err := s.planFamilies(req, old)
	if err != nil {
		return nil, err
	}
	if len(old.VIPs) > 0 && len(req.VIPs) == 0 && families[0] != registry.FamilyOf(old.VIPs[0]) {
		return nil, fmt.Errorf("%w: the first VIP of the service is %s and cannot become one of %s; name the new one in spec.clusterIP, or delete the service first",
			registry.ErrVIPImmutable, old.VIPs[0], families[0])
	}
	var list []wanted
	for _, f := range families {
		w := wanted{family: f}
		switch asked, kept := ofFamily(req.VIPs, f), ofFamily(old.VIPs, f); {
		case asked.IsValid():
			w.addr = asked
		case kept.IsValid():
			w.addr = kept
		case !s.hasFamily(f):
			return nil, fmt.Errorf("%w: no %s range is configured (services.cidrs: %s)", registry.ErrFamily, f, s.describeRanges())
		}
		list = append(list, w)
	}
	return list, nil
}

// checkAsked checks the addresses that the user insists on.
func (s *Store) checkAsked(req registry.ServiceRequest, old registry.Service) error {
	if len(req.VIPs) > registry.MaxVIPs || len(req.Families) > registry.MaxVIPs {
		return fmt.Errorf("%w: a service has at most one VIP of each family", registry.ErrFamily)
	}
	if len(req.VIPs) == 2 && registry.FamilyOf(req.VIPs[0]) == registry.FamilyOf(req.VIPs[1]) {
		return fmt.Errorf("%w: %s and %s are of one family", registry.ErrFamily, req.VIPs[0], req.VIPs[1])
	}
	if len(req.Families) == 2 && req.Families[0] == req.Families[1] {
		return fmt.Errorf("%w: %s is named twice", registry.ErrFamily, req.Families[0])
	}
	for i, a := range req.VIPs {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("%w: address %q", registry.ErrInvalid, a)
		}
		f := registry.FamilyOf(a)
		if i < len(req.Families) && req.Families[i] != f {
			return fmt.Errorf("%w: %s is not an %s address", registry.ErrFamily, a, req.Families[i])
		}
		if ofFamily(old.VIPs, f) != a && !s.inRange(a) {
			return fmt.Errorf("%w: %s (services.cidrs: %s)", registry.ErrVIPOutOfRange, a, s.describeRanges())
		}
	}
	return nil
}

// planFamilies returns the families of the service's VIPs, in order.
func (s *Store) planFamilies(req registry.ServiceRequest, old registry.Service) ([]registry.Family, error) {
	list := slices.Clone(req.Families)
	for _, addrs := range [][]netip.Addr{req.VIPs, old.VIPs} {
		if len(list) == 0 {
			for _, a := range addrs {
				list = append(list, registry.FamilyOf(a))
			}
			if len(addrs) > 0 && req.FamilyPolicy == registry.SingleStack && len(req.VIPs) == 0 {
				list = list[:1]
			}
		}
	}
	if len(list) == 0 {
		if list = s.families(); len(list) == 0 {
			return nil, fmt.Errorf("%w: no service range is configured (services.cidrs)", registry.ErrVIPsExhausted)
		}
		list = list[:1]
	}
	if req.FamilyPolicy == registry.SingleStack {
		if len(list) > 1 {
			return nil, fmt.Errorf("%w: %s has one family, not %s and %s", registry.ErrFamily, req.FamilyPolicy, list[0], list[1])
		}
		return list, nil
	}
	if len(list) == 1 {
		list = append(list, registry.IPv4+registry.IPv6-list[0])
	}
	second := list[1]
	if s.hasFamily(second) || ofFamily(req.VIPs, second).IsValid() || ofFamily(old.VIPs, second).IsValid() {
		return list, nil
	}
	if req.FamilyPolicy == registry.RequireDualStack {
		return nil, fmt.Errorf("%w: %s needs ranges of both families (services.cidrs: %s)", registry.ErrFamily, req.FamilyPolicy, s.describeRanges())
	}
	return list[:1], nil
}

func ofFamily(list []netip.Addr, f registry.Family) netip.Addr {
	for _, a := range list {
		if registry.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}
