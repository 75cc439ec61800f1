package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// kind says what an object is.
type kind uint8

const (
	kindService kind = iota
	kindSlice
	kindEndpoint
	kindNode
	kindNamespace
	kindPolicy
	kindInstance
	kindCount
)

// maxKept is how many snapshots are kept for lists whose next page is still to be asked for. What they hold in
// common with the present takes no memory.
const maxKept = 16

// toldPatience is how long a request waits at the start for what there is to be known.
const toldPatience = 2 * time.Second

// View is what of the registry lists and watches are answered from: every object once, as its source has it. It
// may be used concurrently.
type View struct {
	mu       sync.Mutex
	synced   bool // it has been told what there is
	revision int64
	changed  chan struct{} // closed and replaced after each batch
	kinds    [kindCount]kindView
	now      *snapshot   // nil: to be made
	kept     []*snapshot // pages of which are out, the oldest first
}

// kindView holds the objects of one kind.
type kindView struct {
	items  map[string]*item // by id
	sorted []*item          // as of the last snapshot, which shares it
	fresh  map[string]*item // written since
	stale  bool             // sorted holds some that are gone, or not all
}

// item is one object. Only gone is ever written again.
type item struct {
	id     string
	order  string // objects of a kind are sorted by it
	object any    // *registry.Service, …, *instance
	gone   bool   // replaced or deleted; guarded by View.mu
}

// instance is what is known of one that registered.
type instance struct {
	*registry.Instance // nil: only its lease or health is known yet
	health             *registry.InstanceHealth
	leased             bool
}

// node is what is known of one.
type node struct {
	*registry.Node                     // nil: only its agent is known yet
	agent          *registry.NodeLease // nil: away
}

// known reports whether an object is there: of some only what stands beside it is.
func known(object any) bool {
	switch o := object.(type) {
	case nil:
		return false
	case *instance:
		return o.Instance != nil
	case *node:
		return o.Node != nil
	}
	return true
}

// snapshot is every object at one revision, sorted.
type snapshot struct {
	revision int64
	kinds    [kindCount][]*item
}

// NewView returns one that knows nothing yet.
func NewView() *View {
	v := &View{changed: make(chan struct{})}
	v.clear()
	return v
}

func (v *View) clear() {
	for k := range v.kinds {
		v.kinds[k] = kindView{items: map[string]*item{}, fresh: map[string]*item{}}
	}
}

// Follow keeps the view equal to a source until ctx ends.
func (v *View) Follow(ctx context.Context, src registry.Source) {
	for b := range src.Watch(ctx) {
		v.Apply(b)
	}
}

// Apply brings the view to the batch's revision. Nobody may modify the batch's objects afterwards.
func (v *View) Apply(b registry.Batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b.Snapshot {
		v.clear()
	}
	for i := range b.Changes {
		v.apply(&b.Changes[i])
	}
	v.revision, v.now, v.synced = b.Revision, nil, true
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *View) apply(ch *registry.Change) {
	k, id, ok := keyOf(ch)
	if !ok {
		return
	}
	switch k {
	case kindInstance:
		v.applyInstance(ch, id)
		return
	case kindNode:
		v.applyNode(ch, id)
		return
	}
	if ch.Deleted {
		v.kinds[k].drop(id)
		return
	}
	it := &item{id: id, order: id}
	switch k {
	case kindService:
		it.object = ch.Service
	case kindSlice:
		it.object = ch.Slice
	case kindEndpoint:
		it.object = ch.Endpoint
	case kindNamespace:
		it.object = ch.Namespace
	case kindPolicy:
		it.object, it.order = ch.Policy, policyOrder(ch.Policy)
	}
	v.kinds[k].put(it)
}

// applyInstance notes what a change says of an instance: the object, its lease or its health.
func (v *View) applyInstance(ch *registry.Change, id string) {
	var now instance
	if old := v.kinds[kindInstance].items[id]; old != nil {
		now = *old.object.(*instance)
	}
	switch {
	case ch.Instance != nil && ch.Deleted:
		now.Instance = nil
	case ch.Instance != nil:
		now.Instance = ch.Instance
	case ch.Lease != nil:
		now.leased = !ch.Deleted
	case ch.Deleted:
		now.health = nil
	default:
		now.health = ch.Health
	}
	if now == (instance{}) {
		v.kinds[kindInstance].drop(id)
		return
	}
	v.kinds[kindInstance].put(&item{id: id, order: id, object: &now})
}

// applyNode notes what a change says of a node: the object, or its agent's lease.
func (v *View) applyNode(ch *registry.Change, id string) {
	var now node
	if old := v.kinds[kindNode].items[id]; old != nil {
		now = *old.object.(*node)
	}
	switch {
	case ch.Node != nil && ch.Deleted:
		now.Node = nil
	case ch.Node != nil:
		now.Node = ch.Node
	case ch.Deleted:
		now.agent = nil
	default:
		now.agent = ch.NodeLease
	}
	if now == (node{}) {
		v.kinds[kindNode].drop(id)
		return
	}
	v.kinds[kindNode].put(&item{id: id, order: id, object: &now})
}

func (k *kindView) put(it *item) {
	k.drop(it.id)
	k.items[it.id], k.fresh[it.id], k.stale = it, it, true
}

func (k *kindView) drop(id string) {
	if old := k.items[id]; old != nil {
		old.gone, k.stale = true, true
		delete(k.items, id)
		delete(k.fresh, id)
	}
}

// keyOf returns which object a change is about.
func keyOf(ch *registry.Change) (k kind, id string, ok bool) {
	switch {
	case ch.Service != nil:
		return kindService, joinID(ch.Service.Namespace, ch.Service.Name.Name), true
	case ch.Slice != nil:
		return kindSlice, joinID(ch.Slice.Namespace, ch.Slice.Name.Name), true
	case ch.Endpoint != nil:
		return kindEndpoint, joinID(ch.Endpoint.Node, ch.Endpoint.ContainerID, ch.Endpoint.Interface), true
	case ch.Node != nil:
		return kindNode, ch.Node.Name, true
	case ch.NodeLease != nil:
		return kindNode, ch.NodeLease.Node, true
	case ch.Namespace != nil:
		return kindNamespace, ch.Namespace.Name, true
	case ch.Policy != nil:
		return kindPolicy, policyID(ch.Policy.PolicyID), true
	case ch.Instance != nil:
		return kindInstance, instanceID(ch.Instance.InstanceID), true
	case ch.Lease != nil:
		return kindInstance, instanceID(ch.Lease.InstanceID), true
	case ch.Health != nil:
		return kindInstance, instanceID(ch.Health.InstanceID), true
	}
	return 0, "", false
}

// joinID makes an id that sorts by its parts, of which none holds a NUL.
func joinID(parts ...string) string { return strings.Join(parts, "\x00") }

func instanceID(id registry.InstanceID) string { return joinID(id.Namespace, id.Service, id.ID) }

func policyID(id registry.PolicyID) string {
	return joinID(id.Tier.String(), id.Namespace, id.Name.Name)
}

// policyOrder sorts policies as they are asked.
func policyOrder(p *registry.Policy) string {
	return joinID(fmt.Sprintf("%d%05d", p.Tier.Rank(), p.Priority), p.Namespace, p.Name.Name)
}

// get returns one object as it is now, nil if there is none.
func (v *View) get(k kind, id string) any {
	v.mu.Lock()
	defer v.mu.Unlock()
	it := v.kinds[k].items[id]
	if it == nil || !known(it.object) {
		return nil
	}
	return it.object
}

// instance returns one that registered.
func (v *View) instance(id registry.InstanceID) (*instance, error) {
	if i, ok := v.get(kindInstance, instanceID(id)).(*instance); ok {
		return i, nil
	}
	return nil, fmt.Errorf("instance %s: %w", id, registry.ErrNotFound)
}

// told returns once it is known what there is. Until then nothing can be said not to be there: the store may be away.
func (v *View) told(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, toldPatience)
	defer cancel()
	for {
		v.mu.Lock()
		synced, changed := v.synced, v.changed
		v.mu.Unlock()
		if synced {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: this node does not know its contents yet", registry.ErrUnavailable)
		}
	}
}

// wait returns once the view has come to a revision.
func (v *View) wait(ctx context.Context, revision int64) error {
	for {
		v.mu.Lock()
		now, changed := v.revision, v.changed
		v.mu.Unlock()
		if now >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for revision %d, at %d: %w", revision, now, ctx.Err())
		}
	}
}

// snapshot returns all objects as they are now.
func (v *View) snapshot() *snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.now != nil {
		return v.now
	}
	s := &snapshot{revision: v.revision}
	for k := range v.kinds {
		s.kinds[k] = v.kinds[k].sort()
	}
	v.now = s
	return s
}

// sort merges what was written since the last time into the rest.
func (k *kindView) sort() []*item {
	if !k.stale {
		return k.sorted
	}
	fresh := make([]*item, 0, len(k.fresh))
	for _, it := range k.fresh {
		fresh = append(fresh, it)
	}
	slices.SortFunc(fresh, func(a, b *item) int { return strings.Compare(a.order, b.order) })
	all := make([]*item, 0, len(k.items))
	for _, it := range k.sorted {
		if it.gone {
			continue
		}
		for len(fresh) > 0 && fresh[0].order < it.order {
			all, fresh = append(all, fresh[0]), fresh[1:]
		}
		all = append(all, it)
	}
	k.sorted, k.stale = append(all, fresh...), false
	clear(k.fresh)
	return k.sorted
}

// keep has at answer for its revision for a while.
func (v *View) keep(s *snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if slices.Contains(v.kept, s) {
		return
	}
	if v.kept = append(v.kept, s); len(v.kept) > maxKept {
		v.kept = slices.Delete(v.kept, 0, 1)
	}
}

// at returns the objects as they were at a revision of which a page has been handed out; nil: too long ago.
func (v *View) at(revision int64) *snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.kept {
		if s.revision == revision {
			return s
		}
	}
	return nil
}

// shown is an instance as the API shows it.
func (i *instance) shown() api.Instance {
	a := api.Instance{
		Instance: *i.Instance, Effective: i.Effective(), Lapsed: i.Lease > 0 && !i.leased,
		Ready: i.Effective() == registry.InstanceUp && i.health == nil,
	}
	if a.Addresses == nil {
		a.Addresses = []netip.Addr{}
	}
	if i.health != nil {
		a.Health = &api.Health{Node: i.health.Node, Since: i.health.Since, Reason: i.health.Reason}
	}
	return a
}
