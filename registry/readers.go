package registry

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Revision returns the revision of the last batch applied; 0 before the first.
func (c *Catalog) Revision() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.revision
}

// Synced reports whether a snapshot has been applied: before that the catalog knows nothing.
func (c *Catalog) Synced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

// Services returns all services, sorted by name.
func (c *Catalog) Services() []Service {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]Service, 0, len(c.services))
	for _, s := range c.services {
		list = append(list, *s.Service)
	}
	slices.SortFunc(list, func(a, b Service) int { return CompareNames(a.Name, b.Name) })
	return list
}

// Service returns one service.
func (c *Catalog) Service(n Name) (Service, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, ok := c.services[n]
	if !ok {
		return Service{}, false
	}
	return *s.Service, true
}

// Members returns how many stand behind a service, whatever their addresses, ports and conditions: the endpoints
// that it selects, what its slices list and its instances.
func (c *Catalog) Members(n Name) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, ok := c.services[n]
	if !ok {
		return 0
	}
	count := s.selected + len(c.instances.of[n])
	for _, sl := range c.slices.of[n] {
		count += len(sl.members)
	}
	return count
}

// Counts says how much there is.
type Counts struct {
	Services  int
	Endpoints int
	Instances int // registered
	Frontends int // addresses and ports of services, seen from the node
	Backends  int // of all frontends, those that drain included
}

// Counts returns how much there is.
func (c *Catalog) Counts() Counts {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := Counts{
		Services: len(c.services), Endpoints: len(c.endpoints), Frontends: len(c.frontends),
	}
	for _, of := range c.instances.of {
		n.Instances += len(of)
	}
	for _, f := range c.frontends {
		n.Backends += len(f.published.Backends)
	}
	return n
}

// Endpoints returns all endpoints, sorted by id.
func (c *Catalog) Endpoints() []Endpoint {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]Endpoint, 0, len(c.endpoints))
	for _, e := range c.endpoints {
		list = append(list, *e.Endpoint)
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return a.Compare(b.EndpointID) })
	return list
}

// Nodes returns all nodes, sorted by name.
func (c *Catalog) Nodes() []Node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.SortedFunc(maps.Values(c.nodes), func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
}

// EndpointsByNode counts the endpoints of each node that has any.
func (c *Catalog) EndpointsByNode() map[string]int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := map[string]int{}
	for id := range c.endpoints {
		n[id.Node]++
	}
	return n
}

// NodeLease returns the lease of a node's agent; false: the agent is away.
func (c *Catalog) NodeLease(node string) (NodeLease, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l, ok := c.agents[node]
	return l, ok
}

// Frontends returns all frontends with their backends, sorted by address.
func (c *Catalog) Frontends() []Resolved {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]Resolved, 0, len(c.frontends))
	for _, f := range c.frontends {
		list = append(list, f.published)
	}
	slices.SortFunc(list, func(a, b Resolved) int { return a.Compare(b.Frontend) })
	return list
}

// Backends returns those of one frontend, none if there is no such frontend.
func (c *Catalog) Backends(f Frontend) []Backend {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if known := c.frontends[f]; known != nil {
		return known.published.Backends
	}
	return nil
}

// CompareNames orders names by namespace, then name.
func CompareNames(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Compare orders endpoint ids by node, container, interface.
func (id EndpointID) Compare(o EndpointID) int {
	return cmp.Or(cmp.Compare(id.Node, o.Node), cmp.Compare(id.ContainerID, o.ContainerID),
		cmp.Compare(id.Interface, o.Interface))
}

// Compare orders frontends by address, port, protocol.
func (f Frontend) Compare(o Frontend) int {
	return cmp.Or(netip.Addr.Compare(f.Addr, o.Addr), cmp.Compare(f.Port, o.Port),
		cmp.Compare(f.Protocol, o.Protocol))
}
