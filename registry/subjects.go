package registry

import (
	"cmp"
	"maps"
	"slices"
)

// isolationIndex holds the policies and what they may select.
type isolationIndex struct {
	policies   map[PolicyID]*Policy
	namespaces map[string]*Namespace
	endpoints  map[string][]*catalogEndpoint // by namespace, in no order
}

func newIsolationIndex() isolationIndex {
	return isolationIndex{
		policies:   map[PolicyID]*Policy{},
		namespaces: map[string]*Namespace{},
		endpoints:  map[string][]*catalogEndpoint{},
	}
}

func (x *isolationIndex) applyPolicy(p *Policy, deleted bool) {
	if deleted {
		delete(x.policies, p.PolicyID)
		return
	}
	x.policies[p.PolicyID] = p
}

func (x *isolationIndex) applyNamespace(n *Namespace, deleted bool) {
	if deleted {
		delete(x.namespaces, n.Name)
		return
	}
	x.namespaces[n.Name] = n
}

func (x *isolationIndex) addEndpoint(e *catalogEndpoint) {
	place := e.Name.Namespace
	e.at = len(x.endpoints[place])
	x.endpoints[place] = append(x.endpoints[place], e)
}

func (x *isolationIndex) removeEndpoint(e *catalogEndpoint) {
	place := e.Name.Namespace
	list := x.endpoints[place]
	takeOut(&list, e.at).at = e.at
	if x.endpoints[place] = list; len(list) == 0 {
		delete(x.endpoints, place)
	}
}

// labels returns a namespace's labels, whether it has an object or not.
func (x *isolationIndex) labels(namespace string) map[string]string {
	if n := x.namespaces[namespace]; n != nil {
		return NamespaceLabels(n)
	}
	return NamespaceLabels(&Namespace{Name: namespace})
}

// each calls do for all endpoints that a policy selects.
func (x *isolationIndex) each(p *Policy, do func(*Endpoint)) {
	if p.Tier == TierNamespaced {
		x.eachIn(p.Namespace, p, do)
		return
	}
	for namespace := range x.endpoints {
		x.eachIn(namespace, p, do)
	}
}

func (x *isolationIndex) eachIn(namespace string, p *Policy, do func(*Endpoint)) {
	if len(x.endpoints[namespace]) == 0 || !p.inScope(namespace, x.labels(namespace)) {
		return
	}
	for _, e := range x.endpoints[namespace] {
		if p.Subject.Pods.matchesPod(e.Endpoint) {
			do(e.Endpoint)
		}
	}
}

// Policies returns all policies in the order in which they are asked: TierAdmin by priority and name,
// TierNamespaced and TierBaseline by name.
func (c *Catalog) Policies() []Policy {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]Policy, 0, len(c.isolation.policies))
	for _, p := range c.isolation.policies {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(a.Tier.Rank(), b.Tier.Rank()), cmp.Compare(a.Priority, b.Priority), CompareNames(a.Name, b.Name))
	})
	return list
}

// Policy returns one policy.
func (c *Catalog) Policy(id PolicyID) (Policy, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, ok := c.isolation.policies[id]
	if !ok {
		return Policy{}, false
	}
	return *p, true
}

// Selected returns the endpoints that a policy selects as its subjects, sorted by workload and id. Of a
// policy that is not there it returns none.
func (c *Catalog) Selected(id PolicyID) []Endpoint {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var list []Endpoint
	if p, ok := c.isolation.policies[id]; ok {
		c.isolation.each(p, func(e *Endpoint) { list = append(list, *e) })
	}
	slices.SortFunc(list, func(a, b Endpoint) int {
		return cmp.Or(CompareNames(a.Name, b.Name), a.Compare(b.EndpointID))
	})
	return list
}

// SelectedCount returns how many Selected would return.
func (c *Catalog) SelectedCount(id PolicyID) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := 0
	if p, ok := c.isolation.policies[id]; ok {
		c.isolation.each(p, func(*Endpoint) { n++ })
	}
	return n
}

// Namespaces returns the namespaces that have an object or that something lies in, sorted by name.
func (c *Catalog) Namespaces() []Namespace {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := map[string]Namespace{}
	for name := range c.isolation.endpoints {
		all[name] = Namespace{Name: name}
	}
	for n := range c.services {
		all[n.Namespace] = Namespace{Name: n.Namespace}
	}
	for id := range c.isolation.policies {
		if id.Namespace != "" {
			all[id.Namespace] = Namespace{Name: id.Namespace}
		}
	}
	for name, n := range c.isolation.namespaces {
		all[name] = *n
	}
	return slices.SortedFunc(maps.Values(all), func(a, b Namespace) int { return cmp.Compare(a.Name, b.Name) })
}

// Rank is the place of a tier in the order in which they are asked.
func (t Tier) Rank() int {
	switch t {
	case TierAdmin:
		return 0
	case TierNamespaced:
		return 1
	}
	return 2
}
