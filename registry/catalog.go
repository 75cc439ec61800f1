package registry

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// Catalog is a copy of the registry in memory, with the services' selectors resolved to backends.
// Applying a batch costs work in proportion to what the batch changes, not to what there is.
//
// One goroutine applies; any number may read meanwhile. What the accessors return is shared and
// must not be modified.
type Catalog struct {
	mu        sync.RWMutex
	revision  int64
	synced    bool
	services  map[Name]*catalogService
	endpoints map[EndpointID]*catalogEndpoint
	slices    map[Name]Slice
	nodes     map[string]Node
	selectors selectorIndex
	isolation isolationIndex

	// claims holds, per frontend, whoever wants it. Stores give an address to one service only; if
	// foreign data says otherwise, the service first by name has it.
	claims    map[Frontend][]*claim
	published map[Frontend]Resolved // as the updates so far have told
	dirty     map[Frontend]struct{} // to be compared with published
}

type catalogService struct {
	Service
	claims  []*claim
	members map[EndpointID]*catalogEndpoint
}

type catalogEndpoint struct {
	Endpoint
	services map[Name]*catalogService // that select it
}

// NewCatalog returns an empty catalog at revision 0.
func NewCatalog() *Catalog {
	c := &Catalog{published: map[Frontend]Resolved{}}
	c.clear()
	return c
}

func (c *Catalog) clear() {
	c.services = map[Name]*catalogService{}
	c.endpoints = map[EndpointID]*catalogEndpoint{}
	c.slices = map[Name]Slice{}
	c.nodes = map[string]Node{}
	c.selectors = newSelectorIndex()
	c.isolation = newIsolationIndex()
	c.claims = map[Frontend][]*claim{}
	c.dirty = map[Frontend]struct{}{}
}

// Apply brings the catalog to the batch's revision and returns what that means for the dataplane:
// the frontends whose backends or owner have really changed, or after a snapshot all of them.
func (c *Catalog) Apply(b Batch) Update {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.Snapshot {
		c.clear()
		for f := range c.published {
			c.dirty[f] = struct{}{}
		}
		c.synced = true
	}
	for _, change := range b.Changes {
		switch {
		case change.Service != nil:
			c.applyService(change.Service, change.Deleted)
		case change.Slice != nil:
			c.applySlice(change.Slice, change.Deleted)
		case change.Endpoint != nil:
			c.applyEndpoint(change.Endpoint, change.Deleted)
			c.isolation.applyEndpoint(change.Endpoint, change.Deleted)
		case change.Node != nil && change.Deleted:
			delete(c.nodes, change.Node.Name)
		case change.Node != nil:
			c.nodes[change.Node.Name] = *change.Node
		case change.Namespace != nil:
			c.isolation.applyNamespace(change.Namespace, change.Deleted)
		case change.Policy != nil:
			c.isolation.applyPolicy(change.Policy, change.Deleted)
		}
	}
	c.revision = b.Revision
	u := c.flush(b.Snapshot)
	u.Isolation = isolationOf(b.Changes)
	return u
}

// isolationOf returns the changes that concern isolation, as they are.
func isolationOf(changes []Change) []Change {
	var out []Change
	for _, ch := range changes {
		if ch.Endpoint != nil || ch.Node != nil || ch.Namespace != nil || ch.Policy != nil {
			out = append(out, ch)
		}
	}
	return out
}

func (c *Catalog) applyService(s *Service, deleted bool) {
	if old := c.services[s.Name]; old != nil {
		c.selectors.removeService(&old.Service)
		for _, e := range old.members {
			delete(e.services, s.Name)
		}
		for _, cl := range old.claims {
			c.withdraw(cl)
		}
		delete(c.services, s.Name)
	}
	if deleted {
		return
	}
	svc := &catalogService{Service: *s, members: map[EndpointID]*catalogEndpoint{}}
	svc.claims = newClaims(&svc.Service)
	c.services[s.Name] = svc
	c.selectors.addService(&svc.Service)
	for id := range c.selectors.candidates(&svc.Service) {
		if e := c.endpoints[id]; selects(&svc.Service, &e.Endpoint) {
			svc.join(e)
		}
	}
	for _, cl := range svc.claims {
		c.enter(cl)
	}
}

func (c *Catalog) applyEndpoint(e *Endpoint, deleted bool) {
	if old := c.endpoints[e.EndpointID]; old != nil {
		c.selectors.removeEndpoint(&old.Endpoint)
		for _, svc := range old.services {
			svc.leave(old)
			c.touch(svc)
		}
		delete(c.endpoints, e.EndpointID)
	}
	if deleted {
		return
	}
	ep := &catalogEndpoint{Endpoint: *e, services: map[Name]*catalogService{}}
	c.endpoints[e.EndpointID] = ep
	c.selectors.addEndpoint(&ep.Endpoint)
	for name := range c.selectors.interested(&ep.Endpoint) {
		if svc := c.services[name]; selects(&svc.Service, &ep.Endpoint) {
			svc.join(ep)
			c.touch(svc)
		}
	}
}

func (s *catalogService) join(e *catalogEndpoint) {
	s.members[e.EndpointID] = e
	e.services[s.Name] = s
	for _, cl := range s.claims {
		cl.add(&e.Endpoint)
	}
}

func (s *catalogService) leave(e *catalogEndpoint) {
	delete(s.members, e.EndpointID)
	delete(e.services, s.Name)
	for _, cl := range s.claims {
		cl.remove(&e.Endpoint)
	}
}

func (c *Catalog) touch(s *catalogService) {
	for _, cl := range s.claims {
		if cl.touched() {
			c.dirty[cl.Frontend] = struct{}{}
		}
	}
}

func (c *Catalog) enter(cl *claim) {
	list := append(c.claims[cl.Frontend], cl)
	slices.SortFunc(list, func(a, b *claim) int { return CompareNames(a.service, b.service) })
	c.claims[cl.Frontend] = list
	c.dirty[cl.Frontend] = struct{}{}
}

func (c *Catalog) withdraw(cl *claim) {
	list := slices.DeleteFunc(c.claims[cl.Frontend], func(o *claim) bool { return o == cl })
	if len(list) == 0 {
		delete(c.claims, cl.Frontend)
	} else {
		c.claims[cl.Frontend] = list
	}
	c.dirty[cl.Frontend] = struct{}{}
}

// flush compares every dirty frontend with what was published of it.
func (c *Catalog) flush(snapshot bool) Update {
	u := Update{Revision: c.revision, Snapshot: snapshot}
	for f := range c.dirty {
		old, was := c.published[f]
		list := c.claims[f]
		for _, cl := range list {
			cl.settle()
		}
		if len(list) == 0 {
			if was {
				delete(c.published, f)
				u.Delete = append(u.Delete, f)
			}
			continue
		}
		now := list[0].resolved()
		if was && !snapshot && equalResolved(old, now) {
			continue
		}
		c.published[f] = now
		u.Set = append(u.Set, now)
	}
	clear(c.dirty)
	if snapshot {
		u.Delete = nil
	}
	slices.SortFunc(u.Set, func(a, b Resolved) int { return a.Compare(b.Frontend) })
	slices.SortFunc(u.Delete, Frontend.Compare)
	return u
}

func equalResolved(a, b Resolved) bool {
	return a.Frontend == b.Frontend && a.Service == b.Service && a.PortName == b.PortName &&
		slices.Equal(a.Backends, b.Backends)
}

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
		list = append(list, s.Service)
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
	return s.Service, true
}

// Members returns how many endpoints a service selects.
func (c *Catalog) Members(n Name) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if s, ok := c.services[n]; ok {
		return len(s.members)
	}
	return 0
}

// Endpoints returns all endpoints, sorted by id.
func (c *Catalog) Endpoints() []Endpoint {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]Endpoint, 0, len(c.endpoints))
	for _, e := range c.endpoints {
		list = append(list, e.Endpoint)
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

// Frontends returns all frontends with their backends, sorted by address.
func (c *Catalog) Frontends() []Resolved {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.SortedFunc(maps.Values(c.published), func(a, b Resolved) int { return a.Compare(b.Frontend) })
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
