package registry

import (
	"net/netip"
	"slices"
	"sync"
)

// Catalog is a copy of the registry in memory, with its services resolved to backends as one node sees them.
// Applying a batch costs work in proportion to what the batch changes and to the members of the services that this
// concerns, of which each gets a fresh run of slots anyway; not to what there is.
//
// One goroutine applies; any number may read meanwhile. What the accessors return is shared and
// must not be modified.
type Catalog struct {
	node string // whose view it is; "": nobody's

	mu        sync.RWMutex
	revision  int64
	synced    bool
	services  map[Name]*catalogService
	endpoints map[EndpointID]*catalogEndpoint
	nodes     map[string]Node
	agents    map[string]NodeLease // by node
	selectors selectorIndex
	slices    sliceIndex
	instances instanceIndex
	topology  topologyIndex
	nodePorts map[*catalogService]struct{} // services that have any
	isolation isolationIndex

	frontends map[Frontend]*frontend
	dirty     []*frontend       // to be compared with what was published
	touched   []*catalogService // to be settled
	scratch   []candidate
}

type catalogService struct {
	*Service
	claims     []*claim
	nodeClaims []*claim // of the node's own addresses
	pools      []*pool
	rosters    [2]roster // IPv4, IPv6
	selected   int       // endpoints
	touched    bool      // is in Catalog.touched
	under      *label    // in Catalog.selectors; nil: nowhere
	at         int       // its place there
	onNodes    map[string]int
}

type catalogEndpoint struct {
	*Endpoint
	member   member
	labels   []labelSpot
	at       int               // its place in isolationIndex.endpoints
	services []*catalogService // that select it
}

// NewCatalog returns an empty catalog at revision 0, for the view of one node. With "" no node counts as one's
// own: no backend is local or near, and no node's address is a frontend.
func NewCatalog(node string) *Catalog {
	c := &Catalog{node: node, frontends: map[Frontend]*frontend{}}
	c.clear(nil)
	return c
}

// clear makes room for what a snapshot brings, so that the large maps need not grow while it is read.
func (c *Catalog) clear(snapshot []Change) {
	services, endpoints, instances := 0, 0, 0
	for i := range snapshot {
		switch ch := &snapshot[i]; {
		case ch.Service != nil:
			services++
		case ch.Endpoint != nil:
			endpoints++
		case ch.Instance != nil:
			instances++
		}
	}
	c.services = make(map[Name]*catalogService, services)
	c.endpoints = make(map[EndpointID]*catalogEndpoint, endpoints)
	c.nodes = map[string]Node{}
	c.agents = map[string]NodeLease{}
	c.selectors = selectorIndex{}
	c.slices = newSliceIndex()
	c.instances = newInstanceIndex(instances)
	c.topology = newTopologyIndex()
	c.nodePorts = map[*catalogService]struct{}{}
	c.isolation = newIsolationIndex()
}

// Apply brings the catalog to the batch's revision and returns what that means for the dataplane:
// the frontends whose backends, owner or settings have really changed, or after a snapshot all of them.
// The objects of the batch become the catalog's own: nobody may modify them afterwards.
func (c *Catalog) Apply(b Batch) Update {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.Snapshot {
		c.clear(b.Changes)
		for _, f := range c.frontends {
			f.claims = nil
			c.soil(f)
		}
		c.synced = true
	}
	for _, change := range b.Changes {
		c.apply(change)
	}
	c.revision = b.Revision
	c.settle()
	u := c.flush(b.Snapshot)
	u.Isolation = isolationOf(b.Changes)
	return u
}

func (c *Catalog) apply(change Change) {
	switch {
	case change.Service != nil:
		c.applyService(change.Service, change.Deleted)
	case change.Slice != nil:
		c.applySlice(change.Slice, change.Deleted)
	case change.Endpoint != nil:
		c.applyEndpoint(change.Endpoint, change.Deleted)
	case change.Node != nil:
		c.applyNode(change.Node, change.Deleted)
	case change.NodeLease != nil && change.Deleted:
		delete(c.agents, change.NodeLease.Node)
	case change.NodeLease != nil:
		c.agents[change.NodeLease.Node] = *change.NodeLease
	case change.Namespace != nil:
		c.isolation.applyNamespace(change.Namespace, change.Deleted)
	case change.Policy != nil:
		c.isolation.applyPolicy(change.Policy, change.Deleted)
	case change.Instance != nil:
		c.applyInstance(change.Instance, change.Deleted)
	case change.Lease != nil:
		c.applyLease(change.Lease, change.Deleted)
	case change.Health != nil:
		c.applyHealth(change.Health, change.Deleted)
	}
}

// isolationOf returns the changes that concern isolation, as they are.
func isolationOf(changes []Change) []Change {
	n := 0
	for i := range changes {
		if changes[i].concernsIsolation() {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]Change, 0, n)
	for i := range changes {
		if changes[i].concernsIsolation() {
			out = append(out, changes[i])
		}
	}
	return out
}

func (ch *Change) concernsIsolation() bool {
	return ch.Endpoint != nil || ch.Node != nil || ch.Namespace != nil || ch.Policy != nil
}

func (c *Catalog) applyService(s *Service, deleted bool) {
	if old := c.services[s.Name]; old != nil {
		c.dropService(old)
	}
	if deleted {
		return
	}
	svc := &catalogService{Service: s}
	c.services[s.Name] = svc
	c.selectors.addService(svc)
	c.topology.addService(svc)
	for _, e := range c.selectors.candidates(s) {
		if selects(s, e.Endpoint) {
			c.joinEndpoint(svc, e)
		}
	}
	for _, sl := range c.slices.of[s.Name] {
		for _, m := range sl.members {
			c.join(svc, m)
		}
	}
	for _, i := range c.instances.of[s.Name] {
		c.join(svc, i.member)
	}
	c.claimAll(svc)
	if svc.hasNodePorts() {
		c.nodePorts[svc] = struct{}{}
		c.claimNodePorts(svc)
	}
}

func (c *Catalog) dropService(s *catalogService) {
	for _, e := range c.selectors.candidates(s.Service) {
		if i := slices.Index(e.services, s); i >= 0 {
			takeOut(&e.services, i)
		}
	}
	c.selectors.removeService(s)
	c.topology.removeService(s)
	for _, cl := range s.claims {
		c.withdraw(cl)
	}
	for _, cl := range s.nodeClaims {
		c.withdraw(cl)
	}
	delete(c.nodePorts, s)
	delete(c.services, s.Name)
}

func (c *Catalog) applyEndpoint(e *Endpoint, deleted bool) {
	if old := c.endpoints[e.EndpointID]; old != nil {
		c.selectors.removeEndpoint(old)
		c.isolation.removeEndpoint(old)
		old.member.gone = true
		for _, s := range old.services {
			s.selected--
			c.leave(s, &old.member)
		}
		delete(c.endpoints, e.EndpointID)
	}
	if deleted {
		return
	}
	ep := &catalogEndpoint{Endpoint: e, member: endpointMember(e)}
	c.endpoints[e.EndpointID] = ep
	c.selectors.addEndpoint(ep)
	c.isolation.addEndpoint(ep)
	// The services that stand under its labels: all that select it are among them.
	for _, spot := range ep.labels {
		for _, s := range spot.label.services {
			if selects(s.Service, e) {
				c.joinEndpoint(s, ep)
			}
		}
	}
}

func (c *Catalog) joinEndpoint(s *catalogService, e *catalogEndpoint) {
	s.selected++
	e.services = append(e.services, s)
	c.join(s, &e.member)
}

// join makes a member one of a service.
func (c *Catalog) join(s *catalogService, m *member) {
	c.topology.join(s, m)
	ready, leaving := m.conditions(s.PublishNotReady)
	for i, f := range [...]Family{IPv4, IPv6} {
		if a := m.addr(f); a.IsValid() {
			s.rosters[i].added = append(s.rosters[i].added, seat{
				addr: a, member: m, weight: m.weight, ready: ready, leaving: leaving,
				local: c.node != "" && m.node() == c.node, direct: m.endpoint != nil,
			})
		}
	}
	c.touch(s)
}

// leave is for a member that is gone.
func (c *Catalog) leave(s *catalogService, m *member) {
	c.topology.leave(s, m)
	for i, f := range [...]Family{IPv4, IPv6} {
		if a := m.addr(f); a.IsValid() {
			s.rosters[i].gone = append(s.rosters[i].gone, a)
		}
	}
	c.touch(s)
}

// touch has settle look at a service.
func (c *Catalog) touch(s *catalogService) {
	if !s.touched {
		s.touched = true
		c.touched = append(c.touched, s)
	}
}

// settle chooses the backends of the services that were touched.
func (c *Catalog) settle() {
	for _, s := range c.touched {
		s.touched = false
		if c.services[s.Name] != s {
			continue // replaced or deleted meanwhile
		}
		for i := range s.rosters {
			s.rosters[i].settle()
		}
		for _, p := range s.pools {
			if now := c.choose(s, p); !slices.Equal(p.backends, now) {
				p.backends = now
			}
		}
		for _, cl := range s.claims {
			c.soil(cl.frontend)
		}
		for _, cl := range s.nodeClaims {
			c.soil(cl.frontend)
		}
	}
	clear(c.touched)
	c.touched = c.touched[:0]
}

// flush compares every dirty frontend with what was published of it.
func (c *Catalog) flush(snapshot bool) Update {
	u := Update{Revision: c.revision, Snapshot: snapshot}
	if snapshot {
		u.Set = make([]Resolved, 0, len(c.frontends))
	}
	slices.SortFunc(c.dirty, func(a, b *frontend) int { return a.Compare(b.Frontend) })
	for _, f := range c.dirty {
		f.dirty = false
		if f.claims == nil {
			delete(c.frontends, f.Frontend)
			if f.told && !snapshot {
				u.Delete = append(u.Delete, f.Frontend)
			}
			continue
		}
		now := f.resolved()
		if f.told && !snapshot && equalResolved(f.published, now) {
			continue
		}
		f.published, f.told = now, true
		u.Set = append(u.Set, now)
	}
	clear(c.dirty)
	c.dirty = c.dirty[:0]
	return u
}

func (s *catalogService) prefers() bool {
	return s.Distribution == PreferSameZone || s.Distribution == PreferSameNode
}

func (s *catalogService) hasFamily(f Family) bool {
	return slices.ContainsFunc(s.VIPs, func(a netip.Addr) bool { return usable(a, f) })
}

func (s *catalogService) hasNodePorts() bool {
	return slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.NodePort != 0 })
}

func (s *catalogService) roster(f Family) *roster {
	if f == IPv4 {
		return &s.rosters[0]
	}
	return &s.rosters[1]
}
