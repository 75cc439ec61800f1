package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// Engine holds the policies, and everything they speak of, and tells what a change means. Its methods
// must not be called concurrently. The work for a change is in proportion to what it changes.
type Engine struct {
	node   string
	synced bool // a snapshot has been applied

	endpoints  map[registry.EndpointID]*endpoint
	own        []netip.Prefix // addresses of this node
	sites      [2]trie        // of IPv4 and IPv6
	namespaces map[string]*namespace
	objects    map[string]*registry.Namespace
	policies   map[registry.PolicyID]*policy

	world, self *identity // World and Node
	identities  map[string]*identity
	byID        map[ID]*identity
	last        ID // given to an identity
	workloads   map[string]*workload
	selectors   map[string]*selector
	index       index
	verdicts    verdictTable
	calc        calculation

	// What the next Delta is about.
	touched map[*site]struct{}
	fresh   []*identity
	loose   map[*identity]struct{} // that an address has lost
	dirty   map[*workload]*[2]dirtySide
	changes map[sideOf]*change
}

// New returns an engine without policies. node is the name of the node that it compiles for.
func New(node string) *Engine {
	e := &Engine{
		node:      node,
		endpoints: map[registry.EndpointID]*endpoint{}, namespaces: map[string]*namespace{},
		objects: map[string]*registry.Namespace{}, policies: map[registry.PolicyID]*policy{},
		world:      &identity{Identity: Identity{ID: World, Key: worldKey}},
		self:       &identity{Identity: Identity{ID: Node, Key: nodeKey}},
		identities: map[string]*identity{}, byID: map[ID]*identity{}, last: First - 1,
		workloads: map[string]*workload{}, selectors: map[string]*selector{},
		index: index{
			workloads: map[where]map[*workload]struct{}{}, selectors: map[where]map[*selector]struct{}{},
		},
		verdicts: verdictTable{known: map[string]weakVerdicts{}},
		calc:     calculation{next: map[step]int{}, done: map[class]*Verdicts{}},
		touched:  map[*site]struct{}{}, loose: map[*identity]struct{}{},
		dirty: map[*workload]*[2]dirtySide{}, changes: map[sideOf]*change{},
	}
	e.byID[World], e.byID[Node] = e.world, e.self
	return e
}

// Apply merges changes of endpoints, nodes, namespaces and policies; others are ignored. With snapshot
// they are all there are: what they do not name, and Attach does not hold, is gone.
//
// The Deltas are to be carried out in order, each completely before the next. There are several when
// one would open a moment in which a flow meets neither the verdict of before nor that of after: new
// blocks split identities first, then the policies change, and blocks that are gone merge them last.
// If one side of a flow may become stricter and the other one laxer, the stricter ones come first.
func (e *Engine) Apply(changes []registry.Change, snapshot bool) []Delta {
	b := e.sort(changes, snapshot)
	var deltas []Delta
	tell := func(list ...Delta) {
		for _, d := range list {
			if !d.empty() {
				deltas = append(deltas, d)
			}
		}
	}
	// The first snapshot has no before: it is one step.
	steps := e.synced || !snapshot
	for _, id := range b.policyIDs {
		if p := b.policies[id]; p != nil {
			e.holdBlocks(p)
		}
	}
	if steps {
		tell(e.settle())
	}
	for _, name := range slices.Sorted(maps.Keys(b.namespaces)) {
		e.setNamespace(name, b.namespaces[name])
	}
	released := make([]*policy, 0, len(b.policyIDs))
	for _, id := range b.policyIDs {
		if old := e.policies[id]; old != nil {
			released = append(released, old)
		}
		e.setPolicy(id, b.policies[id])
	}
	if steps {
		tell(e.settleRules()...)
	}
	for _, id := range b.endpointIDs {
		ep := e.endpoint(id)
		ep.known = b.endpoints[id]
		e.setEndpoint(ep)
	}
	if b.node {
		e.setNode(b.addresses)
	}
	if steps {
		tell(e.settle())
	}
	for _, p := range released {
		e.unholdBlocks(p)
	}
	tell(e.settle())
	e.synced = e.synced || snapshot
	return deltas
}

// Attach holds an endpoint before the registry knows it, and until Detach whatever the registry says.
// While the registry knows an endpoint of that id, what the registry says of its labels counts.
func (e *Engine) Attach(ep registry.Endpoint) Delta {
	at := e.endpoint(ep.EndpointID)
	at.attached = &ep
	e.setEndpoint(at)
	return e.settle()
}

// Detach undoes Attach. An endpoint that the registry still knows stays.
func (e *Engine) Detach(id registry.EndpointID) Delta {
	at := e.endpoint(id)
	at.attached = nil
	e.setEndpoint(at)
	return e.settle()
}

func (e *Engine) endpoint(id registry.EndpointID) *endpoint {
	if ep := e.endpoints[id]; ep != nil {
		return ep
	}
	return &endpoint{id: id}
}

// setNamespace gives a namespace the labels of its object; nil: there is none any more.
func (e *Engine) setNamespace(name string, object *registry.Namespace) {
	ns := e.namespace(name)
	ns.object = object != nil
	if object == nil {
		delete(e.objects, name)
		object = &registry.Namespace{Name: name}
	} else {
		e.objects[name] = object
	}
	if labels := registry.NamespaceLabels(object); !maps.Equal(labels, ns.labels) {
		e.relabel(ns, labels)
	}
	e.dropNamespace(ns)
}

// Lookup returns the identity of an address.
func (e *Engine) Lookup(a netip.Addr) Identity { return e.locate(a).Identity }

// Owner returns the container whose identity Lookup gives an address. One that is attached has the
// addresses and the network that it was attached with, and all else as the registry tells.
func (e *Engine) Owner(a netip.Addr) (registry.Endpoint, bool) {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return registry.Endpoint{}, false
	}
	p := netip.PrefixFrom(a, a.BitLen())
	if s := e.table(p).get(p); s != nil && s.container != nil {
		return *s.claims[0].effective(), true
	}
	return registry.Endpoint{}, false
}

// Identities returns all identities, by ID.
func (e *Engine) Identities() []Identity {
	list := make([]Identity, 0, len(e.byID))
	for _, id := range slices.Sorted(maps.Keys(e.byID)) {
		list = append(list, e.byID[id].Identity)
	}
	return list
}

// Rules returns all that holds for an identity in one direction: Default and Set.
func (e *Engine) Rules(subject ID, d registry.Direction) Rules {
	r := Rules{Subject: subject, Direction: d}
	if q := e.byID[subject]; q != nil && q.workload != nil {
		s := &q.workload.sides[d]
		r.Default, r.Set = s.def, maps.Clone(s.set)
	}
	return r
}

// batch is a set of changes by what they are about, with the last word on each thing; nil: it is gone.
// What is as before is left out.
type batch struct {
	policies    map[registry.PolicyID]*registry.Policy
	policyIDs   []registry.PolicyID // sorted
	namespaces  map[string]*registry.Namespace
	endpoints   map[registry.EndpointID]*registry.Endpoint
	endpointIDs []registry.EndpointID // sorted
	node        bool                  // the node's addresses are other ones:
	addresses   []netip.Addr
}

// sort finds out what changes mean.
func (e *Engine) sort(changes []registry.Change, snapshot bool) *batch {
	b := &batch{
		policies: map[registry.PolicyID]*registry.Policy{}, namespaces: map[string]*registry.Namespace{},
		endpoints: map[registry.EndpointID]*registry.Endpoint{},
	}
	if snapshot {
		e.expectNothing(b)
	}
	for _, c := range changes {
		switch {
		case c.Policy != nil:
			b.policies[c.Policy.PolicyID] = unless(c.Deleted, c.Policy)
		case c.Namespace != nil:
			b.namespaces[c.Namespace.Name] = unless(c.Deleted, c.Namespace)
		case c.Endpoint != nil:
			b.endpoints[c.Endpoint.EndpointID] = unless(c.Deleted, c.Endpoint)
		case c.Node != nil && c.Node.Name == e.node:
			b.node, b.addresses = true, nil
			if !c.Deleted {
				b.addresses = c.Node.Addresses
			}
		}
	}
	e.leaveOut(b)
	b.policyIDs = slices.SortedFunc(maps.Keys(b.policies), func(x, y registry.PolicyID) int {
		return cmp.Or(cmp.Compare(x.Tier, y.Tier), registry.CompareNames(x.Name, y.Name))
	})
	b.endpointIDs = slices.SortedFunc(maps.Keys(b.endpoints), registry.EndpointID.Compare)
	return b
}

// expectNothing makes everything that is known be gone, until a change names it.
func (e *Engine) expectNothing(b *batch) {
	for id := range e.policies {
		b.policies[id] = nil
	}
	for name := range e.objects {
		b.namespaces[name] = nil
	}
	for id, ep := range e.endpoints {
		if ep.known != nil {
			b.endpoints[id] = nil
		}
	}
	b.node = true
}

// leaveOut drops from a batch what is as before.
func (e *Engine) leaveOut(b *batch) {
	maps.DeleteFunc(b.policies, func(id registry.PolicyID, p *registry.Policy) bool {
		old := e.policies[id]
		return old == nil && p == nil || old != nil && p != nil && reflect.DeepEqual(old.Policy, p)
	})
	maps.DeleteFunc(b.endpoints, func(id registry.EndpointID, now *registry.Endpoint) bool {
		var old *registry.Endpoint
		if ep := e.endpoints[id]; ep != nil {
			old = ep.known
		}
		return old == nil && now == nil || old != nil && now != nil && sameEndpoint(old, now)
	})
}

func sameEndpoint(a, b *registry.Endpoint) bool {
	return a.Name == b.Name && a.Network == b.Network && slices.Equal(a.Addresses, b.Addresses) &&
		maps.Equal(a.Labels, b.Labels) && slices.Equal(a.Ports, b.Ports)
}

func unless[T any](deleted bool, v *T) *T {
	if deleted {
		return nil
	}
	return v
}

func (e *Engine) holdBlocks(p *registry.Policy) {
	for _, b := range blocksOf(p) {
		e.hold(b)
	}
}

func (e *Engine) unholdBlocks(p *policy) {
	for _, b := range p.blocks {
		e.unhold(b)
	}
}
