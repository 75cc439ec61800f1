package eureka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// view is the registry as this protocol tells of it: one namespace's instances, kept up to date with a registry.Source.
type view struct {
	namespace string
	retention time.Duration    // of changes in the delta
	now       func() time.Time // of the machine

	mu       sync.Mutex // guards what follows
	synced   bool
	revision int64
	changed  chan struct{} // closed and replaced when a batch came

	real    map[registry.InstanceID]*entry // every instance
	byID    map[string][]registry.InstanceID
	failing map[registry.InstanceID]bool
	said    map[registry.InstanceID]wire.Status // what operators said
	groups  map[string]*group                   // by service

	listed  book                       // what is told of: instances, and what stands for VIPs
	counts  wire.Counts                // of them
	vips    [2]map[string]map[key]bool // of them, by name: plain and secure ones
	recent  recent                     // what changed of them
	version int64                      // rises with every change of them, and with every one that recent forgets
	shot    *snapshot                  // as of version; nil: nobody has asked
}

// group is a service and its instances.
type group struct {
	service *registry.Service              // nil: there is none
	members map[registry.InstanceID]*entry // nil: none yet
	stands  []key                          // what is told of instead of the instances
}

// newView returns one that knows nothing. Changes stay in the delta for so long.
func newView(namespace string, retention time.Duration, now func() time.Time) *view {
	v := &view{
		namespace: namespace, retention: retention, now: now, changed: make(chan struct{}), version: 1,
		counts: wire.Counts{}, vips: [2]map[string]map[key]bool{{}, {}}, recent: newRecent(),
	}
	v.reset()
	return v
}

func (v *view) reset() {
	v.real = map[registry.InstanceID]*entry{}
	v.byID = map[string][]registry.InstanceID{}
	v.failing = map[registry.InstanceID]bool{}
	v.said = map[registry.InstanceID]wire.Status{}
	v.groups = map[string]*group{}
}

// follow keeps the view up to date until ctx ends.
func (v *view) follow(ctx context.Context, src registry.Source) {
	for b := range src.Watch(ctx) {
		v.take(b)
	}
}

func (v *view) take(b registry.Batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.real
	if b.Snapshot {
		v.reset()
	}
	for i := range b.Changes {
		v.health(&b.Changes[i])
	}
	t := touched{instances: map[registry.InstanceID]*entry{}, services: map[string]bool{}}
	for i := range b.Changes {
		v.apply(&b.Changes[i], before, &t)
	}
	if b.Snapshot {
		v.listAll()
	} else {
		v.list(&t)
	}
	v.purge()
	v.synced = true
	v.revision = b.Revision
	close(v.changed)
	v.changed = make(chan struct{})
}

// touched is what a batch changed, with the entries that the instances had before; nil: none.
type touched struct {
	instances map[registry.InstanceID]*entry
	services  map[string]bool
}

// health learns first whose checks fail, because an instance's entry depends on it.
func (v *view) health(c *registry.Change) {
	h := c.Health
	switch {
	case h == nil || h.Namespace != v.namespace:
	case c.Deleted:
		delete(v.failing, h.InstanceID)
	default:
		v.failing[h.InstanceID] = true
	}
}

// apply takes one change. before holds the entries that there were.
func (v *view) apply(c *registry.Change, before map[registry.InstanceID]*entry, t *touched) {
	var id registry.InstanceID
	switch {
	case c.Service != nil && c.Service.Namespace == v.namespace:
		name := c.Service.Name.Name
		v.group(name).service = c.Service
		if c.Deleted {
			v.group(name).service = nil
		}
		t.services[name] = true
		return
	case c.Instance != nil:
		id = c.Instance.InstanceID
	case c.Health != nil:
		id = c.Health.InstanceID
	}
	if id.Namespace != v.namespace || id.ID == "" {
		return
	}
	old := before[id]
	if _, noted := t.instances[id]; !noted {
		t.instances[id] = old
	}
	switch {
	case c.Instance != nil && c.Deleted:
		v.drop(id)
	case c.Instance != nil:
		v.set(newEntry(c.Instance, v.failing[id], old))
	case v.real[id] != nil:
		v.set(newEntry(v.real[id].instance, v.failing[id], v.real[id]))
	}
}

func (v *view) group(name string) *group {
	g := v.groups[name]
	if g == nil {
		g = &group{}
		v.groups[name] = g
	}
	return g
}

func (v *view) set(e *entry) {
	id := e.instance.InstanceID
	if v.real[id] == nil {
		v.byID[id.ID] = append(v.byID[id.ID], id)
	}
	v.real[id] = e
	if delete(v.said, id); e.wire.Overridden != wire.Unknown {
		v.said[id] = e.wire.Overridden
	}
	g := v.group(id.Service)
	if g.members == nil {
		g.members = map[registry.InstanceID]*entry{}
	}
	g.members[id] = e
}

func (v *view) drop(id registry.InstanceID) {
	if v.real[id] == nil {
		return
	}
	delete(v.real, id)
	delete(v.failing, id)
	delete(v.said, id)
	delete(v.group(id.Service).members, id)
	rest := slices.DeleteFunc(v.byID[id.ID], func(o registry.InstanceID) bool { return o == id })
	if v.byID[id.ID] = rest; len(rest) == 0 {
		delete(v.byID, id.ID)
	}
}

// wait returns when the view has come to a revision, or ctx ends.
func (v *view) wait(ctx context.Context, revision int64) error {
	for {
		v.mu.Lock()
		there, changed := v.synced && v.revision >= revision, v.changed
		v.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// instance returns the entry of an application's instance, or of what stands for its VIP; nil: there is none.
func (v *view) instance(k key) *entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.real[registry.InstanceID{Namespace: v.namespace, Service: serviceName(k.app), ID: k.id}]; e != nil {
		if e.app != k.app {
			return nil
		}
		return e
	}
	return v.listed.get(k)
}

// registered returns what is known of an id of the registry, whatever the application; nil: nothing.
func (v *view) registered(id registry.InstanceID) *entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.real[id]
}

// withID returns the entry of the first instance of an id; nil: there is none.
func (v *view) withID(id string) *entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ids := v.byID[id]; len(ids) > 0 {
		return v.real[slices.MinFunc(ids, registry.InstanceID.Compare)]
	}
	return nil
}

// overrides returns all that operators said.
func (v *view) overrides() map[string]wire.Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := make(map[string]wire.Status, len(v.said))
	for id, s := range v.said {
		m[id.ID] = s
	}
	return m
}
