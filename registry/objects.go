package registry

// objects holds every object of a registry by its id.
type objects struct {
	services   map[Name]*Service
	slices     map[Name]*Slice
	endpoints  map[EndpointID]*Endpoint
	nodes      map[string]*Node
	agents     map[string]*NodeLease
	namespaces map[string]*Namespace
	policies   map[PolicyID]*Policy
	instances  map[InstanceID]*Instance
	leases     map[InstanceID]*InstanceLease
	health     map[InstanceID]*InstanceHealth
}

// newObjects returns an empty set, with room for what a snapshot brings.
func newObjects(snapshot []Change) objects {
	services, endpoints, instances, leases := 0, 0, 0, 0
	for i := range snapshot {
		switch ch := &snapshot[i]; {
		case ch.Service != nil:
			services++
		case ch.Endpoint != nil:
			endpoints++
		case ch.Instance != nil:
			instances++
		case ch.Lease != nil:
			leases++
		}
	}
	return objects{
		services:   make(map[Name]*Service, services),
		slices:     map[Name]*Slice{},
		endpoints:  make(map[EndpointID]*Endpoint, endpoints),
		nodes:      map[string]*Node{},
		agents:     map[string]*NodeLease{},
		namespaces: map[string]*Namespace{},
		policies:   map[PolicyID]*Policy{},
		instances:  make(map[InstanceID]*Instance, instances),
		leases:     make(map[InstanceID]*InstanceLease, leases),
		health:     map[InstanceID]*InstanceHealth{},
	}
}

func (o *objects) apply(ch *Change) {
	switch {
	case ch.Service != nil:
		keep(o.services, ch.Service.Name, ch.Service, ch.Deleted)
	case ch.Slice != nil:
		keep(o.slices, ch.Slice.Name, ch.Slice, ch.Deleted)
	case ch.Endpoint != nil:
		keep(o.endpoints, ch.Endpoint.EndpointID, ch.Endpoint, ch.Deleted)
	case ch.Node != nil:
		keep(o.nodes, ch.Node.Name, ch.Node, ch.Deleted)
	case ch.NodeLease != nil:
		keep(o.agents, ch.NodeLease.Node, ch.NodeLease, ch.Deleted)
	case ch.Namespace != nil:
		keep(o.namespaces, ch.Namespace.Name, ch.Namespace, ch.Deleted)
	case ch.Policy != nil:
		keep(o.policies, ch.Policy.PolicyID, ch.Policy, ch.Deleted)
	case ch.Instance != nil:
		keep(o.instances, ch.Instance.InstanceID, ch.Instance, ch.Deleted)
	case ch.Lease != nil:
		keep(o.leases, ch.Lease.InstanceID, ch.Lease, ch.Deleted)
	case ch.Health != nil:
		keep(o.health, ch.Health.InstanceID, ch.Health, ch.Deleted)
	}
}

func keep[K comparable, V any](all map[K]*V, k K, v *V, deleted bool) {
	if deleted {
		delete(all, k)
		return
	}
	all[k] = v
}

// all returns every object as a change, those of a kind together.
func (o *objects) all() []Change {
	n := len(o.services) + len(o.slices) + len(o.endpoints) + len(o.nodes) + len(o.agents) + len(o.namespaces) + len(o.policies) +
		len(o.instances) + len(o.leases) + len(o.health)
	list := make([]Change, 0, n)
	for _, v := range o.namespaces {
		list = append(list, Change{Namespace: v})
	}
	for _, v := range o.nodes {
		list = append(list, Change{Node: v})
	}
	for _, v := range o.agents {
		list = append(list, Change{NodeLease: v})
	}
	for _, v := range o.services {
		list = append(list, Change{Service: v})
	}
	for _, v := range o.slices {
		list = append(list, Change{Slice: v})
	}
	for _, v := range o.endpoints {
		list = append(list, Change{Endpoint: v})
	}
	for _, v := range o.policies {
		list = append(list, Change{Policy: v})
	}
	for _, v := range o.instances {
		list = append(list, Change{Instance: v})
	}
	for _, v := range o.leases {
		list = append(list, Change{Lease: v})
	}
	for _, v := range o.health {
		list = append(list, Change{Health: v})
	}
	return list
}

// What an object of a kind takes, roughly, in bytes; and one part of it.
const (
	roughObject = 512
	roughPart   = 128
)

// roughSize says how much memory the objects of a batch take, to within a small factor.
func (b *Batch) roughSize() int {
	n := roughPart
	for i := range b.Changes {
		n += b.Changes[i].roughSize()
	}
	return n
}

func (ch *Change) roughSize() int {
	parts := 0
	switch {
	case ch.Service != nil:
		parts = len(ch.Service.Ports) + len(ch.Service.Labels) + len(ch.Service.Selector)
	case ch.Slice != nil:
		parts = len(ch.Slice.Endpoints) + len(ch.Slice.Ports)
	case ch.Endpoint != nil:
		parts = len(ch.Endpoint.Labels) + len(ch.Endpoint.Ports)
	case ch.Policy != nil:
		for _, rules := range [...][]Rule{ch.Policy.Ingress, ch.Policy.Egress} {
			for i := range rules {
				parts += 1 + len(rules[i].Peers) + len(rules[i].Ports)
			}
		}
	case ch.Instance != nil:
		i := ch.Instance
		parts = len(i.Metadata) + len(i.Ports) + 2*len(i.Checks)
		return roughObject + parts*roughPart + len(i.Eureka)
	}
	return roughObject + parts*roughPart
}
