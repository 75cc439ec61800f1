package registry

import (
	"net/netip"
	"slices"
)

// pool is where frontends of one service port lead: those of one family that choose alike.
type pool struct {
	port     *ServicePort
	family   Family
	local    bool      // only members on this node
	backends []Backend // as of the last settle; never modified, only replaced
}

// claim is a service's wish for one frontend.
type claim struct {
	frontend *frontend
	service  *catalogService
	pool     *pool
	shared   bool
	next     *claim // after it in the frontend's list
}

// frontend is one address and port that services want or that was told of.
type frontend struct {
	Frontend
	// claims is the list of whoever wants it. Stores give an address to one service only; if foreign data says
	// otherwise, the service first by name has it.
	claims    *claim
	published Resolved // as the updates so far have told, if they have
	told      bool
	dirty     bool // is in Catalog.dirty
}

// addressKind says how an address is a service's.
type addressKind uint8

const (
	addressVIP    addressKind = iota // with all of its ports
	addressShared                    // at the service's ports only
	addressNode                      // at the service's node ports only
)

// claimAll makes the claims of all addresses but the node's. Of an address that a service has twice the first
// claim counts.
func (c *Catalog) claimAll(s *catalogService) {
	s.claims = slices.Grow(s.claims, len(s.Ports)*(len(s.VIPs)+len(s.ExternalIPs)+len(s.LoadBalancerIPs)))
	s.claims = c.claimAddresses(s.claims, s, addressVIP, s.VIPs)
	s.claims = c.claimAddresses(s.claims, s, addressShared, s.ExternalIPs)
	s.claims = c.claimAddresses(s.claims, s, addressShared, s.LoadBalancerIPs)
}

// claimNodePorts makes the claims of this node's own addresses, in place of those that there were.
func (c *Catalog) claimNodePorts(s *catalogService) {
	for _, cl := range s.nodeClaims {
		c.withdraw(cl)
	}
	s.nodeClaims = c.claimAddresses(nil, s, addressNode, c.own().Addresses)
}

// claimAddresses appends a claim for each port of each address of one kind. Apart from VIPs they are of families
// that the service has a VIP of: it has no others.
func (c *Catalog) claimAddresses(list []*claim, s *catalogService, kind addressKind, addrs []netip.Addr) []*claim {
	if s.Headless || s.Type == TypeExternalName {
		return list
	}
	for _, a := range addrs {
		family := FamilyOf(a)
		if !usable(a, family) || !s.hasFamily(family) {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			f := Frontend{Addr: a.Unmap(), Port: p.Port, Protocol: p.Protocol}
			if kind == addressNode {
				f.Port = p.NodePort
			}
			if f.Port == 0 {
				continue
			}
			cl := &claim{
				service: s, shared: kind != addressVIP,
				pool: c.poolFor(s, p, family, kind == addressVIP && s.InternalLocal),
			}
			list = append(list, cl)
			c.enter(f, cl)
		}
	}
	return list
}

// poolFor returns the pool of one of a service's ports, which it makes if need be.
func (c *Catalog) poolFor(s *catalogService, p *ServicePort, f Family, local bool) *pool {
	for _, have := range s.pools {
		if have.port == p && have.family == f && have.local == local {
			return have
		}
	}
	made := &pool{port: p, family: f, local: local}
	s.pools = append(s.pools, made)
	c.touch(s)
	return made
}

func (c *Catalog) enter(key Frontend, cl *claim) {
	f := c.frontends[key]
	if f == nil {
		f = &frontend{Frontend: key}
		c.frontends[key] = f
	}
	cl.frontend = f
	at := &f.claims
	for *at != nil && CompareNames((*at).service.Name, cl.service.Name) <= 0 {
		at = &(*at).next
	}
	cl.next, *at = *at, cl
	c.soil(f)
}

func (c *Catalog) withdraw(cl *claim) {
	f := cl.frontend
	at := &f.claims
	for *at != cl {
		at = &(*at).next
	}
	*at = cl.next
	c.soil(f)
}

// soil has flush look at a frontend.
func (c *Catalog) soil(f *frontend) {
	if !f.dirty {
		f.dirty = true
		c.dirty = append(c.dirty, f)
	}
}

// resolved returns what the first of a frontend's claims says, which there must be.
func (f *frontend) resolved() Resolved {
	cl := f.claims
	s := cl.service
	r := Resolved{
		Frontend: f.Frontend, Service: s.Name, PortName: cl.pool.port.Name, Backends: cl.pool.backends,
		AffinityTimeout: s.AffinityTimeout, Shared: cl.shared,
	}
	switch s.Algorithm {
	case AlgorithmRandom, AlgorithmMaglev: // any other, which a newer release may know, is left to the default
		r.Algorithm = s.Algorithm
	}
	return r
}

func equalResolved(a, b Resolved) bool {
	return a.Frontend == b.Frontend && a.Service == b.Service && a.PortName == b.PortName &&
		a.Algorithm == b.Algorithm && a.AffinityTimeout == b.AffinityTimeout && a.Shared == b.Shared &&
		equalBackends(a.Backends, b.Backends)
}

func equalBackends(a, b []Backend) bool {
	if len(a) > 0 && len(a) == len(b) && &a[0] == &b[0] {
		return true
	}
	return slices.Equal(a, b)
}
