package registry

import "slices"

// instanceIndex holds the instances, and which service each is of.
type instanceIndex struct {
	all map[InstanceID]*catalogInstance
	of  map[Name][]*catalogInstance // by service; only those that are registered
}

// catalogInstance is what is known of an instance: itself, its lease, its health. They come and go one by one.
type catalogInstance struct {
	instance *Instance // nil: only the others are known
	leased   bool
	health   *InstanceHealth // nil: well
	member   *member
	at       int // its place in instanceIndex.of
}

func newInstanceIndex(instances int) instanceIndex {
	return instanceIndex{all: make(map[InstanceID]*catalogInstance, instances), of: map[Name][]*catalogInstance{}}
}

// entry returns what is known of an instance, which may be nothing.
func (x *instanceIndex) entry(id InstanceID) *catalogInstance {
	i := x.all[id]
	if i == nil {
		i = &catalogInstance{}
		x.all[id] = i
	}
	return i
}

// tidy forgets an instance of which nothing is known.
func (x *instanceIndex) tidy(id InstanceID, i *catalogInstance) {
	if i.instance == nil && !i.leased && i.health == nil {
		delete(x.all, id)
	}
}

func (x *instanceIndex) add(i *catalogInstance) {
	owner := i.instance.ServiceName()
	i.at = len(x.of[owner])
	x.of[owner] = append(x.of[owner], i)
}

func (x *instanceIndex) remove(i *catalogInstance) {
	owner := i.instance.ServiceName()
	list := x.of[owner]
	last := list[len(list)-1]
	list[i.at], last.at = last, i.at
	list[len(list)-1] = nil
	if x.of[owner] = list[:len(list)-1]; len(list) == 1 {
		delete(x.of, owner)
	}
}

func (c *Catalog) applyInstance(now *Instance, deleted bool) {
	i := c.instances.entry(now.InstanceID)
	if i.instance != nil {
		c.dismiss(i)
		c.instances.remove(i)
		i.instance = nil
	}
	if !deleted {
		i.instance = now
		c.instances.add(i)
		c.enrol(i)
	}
	c.instances.tidy(now.InstanceID, i)
}

// applyLease: a lease that has lapsed changes nothing about the backends. The instance goes when somebody deletes it.
func (c *Catalog) applyLease(l *InstanceLease, deleted bool) {
	i := c.instances.entry(l.InstanceID)
	i.leased = !deleted
	c.instances.tidy(l.InstanceID, i)
}

func (c *Catalog) applyHealth(h *InstanceHealth, deleted bool) {
	i := c.instances.entry(h.InstanceID)
	failed := i.health != nil
	if i.health = h; deleted {
		i.health = nil
	}
	if i.instance != nil && failed == deleted {
		c.dismiss(i)
		c.enrol(i)
	}
	c.instances.tidy(h.InstanceID, i)
}

// enrol makes an instance a member of its service, if there is one.
func (c *Catalog) enrol(i *catalogInstance) {
	m := instanceMember(i.instance, i.health != nil)
	i.member = &m
	if svc := c.services[i.instance.ServiceName()]; svc != nil {
		c.join(svc, i.member)
	}
}

// dismiss undoes enrol.
func (c *Catalog) dismiss(i *catalogInstance) {
	i.member.gone = true
	if svc := c.services[i.instance.ServiceName()]; svc != nil {
		c.leave(svc, i.member)
	}
}

// Registered is an instance with what else is known of it.
type Registered struct {
	*Instance
	// Lapsed: its lease has, and it waits for somebody to let it go or for a heartbeat.
	Lapsed bool `json:"lapsed,omitempty"`
	// Health tells why its checks fail; nil: they do not.
	Health *InstanceHealth `json:"health,omitempty"`
}

func (i *catalogInstance) registered() Registered {
	return Registered{Instance: i.instance, Lapsed: i.instance.Lease > 0 && !i.leased, Health: i.health}
}

func compareRegistered(a, b Registered) int { return a.Compare(b.InstanceID) }

// Instances returns all instances, sorted by id.
func (c *Catalog) Instances() []Registered {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]Registered, 0, len(c.instances.all))
	for _, i := range c.instances.all {
		if i.instance != nil {
			list = append(list, i.registered())
		}
	}
	slices.SortFunc(list, compareRegistered)
	return list
}

// InstancesOf returns the instances of one service, sorted by id. There may be some without a service.
func (c *Catalog) InstancesOf(service Name) []Registered {
	c.mu.RLock()
	defer c.mu.RUnlock()
	of := c.instances.of[service]
	list := make([]Registered, len(of))
	for n, i := range of {
		list[n] = i.registered()
	}
	slices.SortFunc(list, compareRegistered)
	return list
}

// Instance returns one instance.
func (c *Catalog) Instance(id InstanceID) (Registered, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	i := c.instances.all[id]
	if i == nil || i.instance == nil {
		return Registered{}, false
	}
	return i.registered(), true
}
