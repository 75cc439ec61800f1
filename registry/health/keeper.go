package health

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// keeper is what the one goroutine knows.
type keeper struct {
	*Checker
	spawn func(func(context.Context))

	synced   bool
	revision int64
	places   *places
	health   map[registry.InstanceID]*registry.InstanceHealth // as the registry has it
	watched  map[registry.InstanceID]*watched
	byAddr   map[netip.Addr]map[*watched]struct{}

	agenda  agenda
	ready   queue // of checks that are due
	failing queue // the same, of those that failed last
	running int   // checks under way
	slow    int   // of running, those that failed last

	writes  []*watched // that wait for a write
	writing int
	unheard map[*watched]struct{} // written, and the registry has not said so yet
	short   bool                  // of files, processes or memory, when the last check was made
	refused string                // why the last write failed; "": it did not
}

// watched is an instance that has checks.
type watched struct {
	*registry.Instance
	addrs []netip.Addr
	owner string // the node that is to check it
	mine  bool   // that is this one
	tasks []*task

	since   time.Time // when it last failed, and why
	reason  string
	counted bool          // among those that fail
	queued  bool          // is in keeper.writes, or under way
	heard   int64         // revision of the last write
	backoff time.Duration // after the next write that is refused
	retry   entry
}

// failing: one check that fails is enough.
func (w *watched) failing() bool {
	return slices.ContainsFunc(w.tasks, func(t *task) bool { return t.failing })
}

// task is one check of one instance, while this agent does it.
type task struct {
	of      *watched
	check   *registry.HealthCheck
	subject subject
	failing bool
	streak  uint16 // results in a row that speak against failing
	entry   entry
	dead    bool // nobody wants the result any more
}

type result struct {
	task    *task
	slow    bool
	started time.Time
	err     error // nil: well
}

func newKeeper(c *Checker, spawn func(func(context.Context))) *keeper {
	return &keeper{
		Checker: c, spawn: spawn, places: newPlaces(c.o.Node),
		health:  map[registry.InstanceID]*registry.InstanceHealth{},
		watched: map[registry.InstanceID]*watched{},
		byAddr:  map[netip.Addr]map[*watched]struct{}{},
		unheard: map[*watched]struct{}{},
	}
}

// apply follows the registry: first where everything is, then the instances, then who checks them.
func (k *keeper) apply(b registry.Batch) {
	moved := map[*watched]struct{}{}
	if b.Snapshot {
		k.places, k.health = newPlaces(k.o.Node), map[registry.InstanceID]*registry.InstanceHealth{}
	}
	if b.Revision < k.revision {
		clear(k.unheard) // an old copy of the registry was restored, without our writes
	}
	k.revision = b.Revision
	everywhere := b.Snapshot
	for i := range b.Changes {
		ch := &b.Changes[i]
		addrs, all := k.places.apply(ch)
		everywhere = everywhere || all
		for _, a := range addrs {
			for w := range k.byAddr[a.Unmap()] {
				moved[w] = struct{}{}
			}
		}
		if ch.Health != nil {
			k.applyHealth(ch.Health, ch.Deleted)
		}
	}
	k.applyInstances(b, moved)
	if everywhere {
		for _, w := range k.watched {
			k.place(w)
		}
	} else {
		for w := range moved {
			k.place(w)
		}
	}
	k.synced = true
	k.hear(b)
}

func (k *keeper) applyHealth(h *registry.InstanceHealth, deleted bool) {
	if deleted {
		delete(k.health, h.InstanceID)
	} else {
		k.health[h.InstanceID] = h
	}
}

// applyInstances notes which instances have checks.
func (k *keeper) applyInstances(b registry.Batch, moved map[*watched]struct{}) {
	if b.Snapshot {
		present := make(map[registry.InstanceID]struct{}, len(k.watched))
		for i := range b.Changes {
			if in := b.Changes[i].Instance; in != nil {
				present[in.InstanceID] = struct{}{}
			}
		}
		for id, w := range k.watched {
			if _, ok := present[id]; !ok {
				k.forget(w)
			}
		}
	}
	for i := range b.Changes {
		if in := b.Changes[i].Instance; in != nil {
			if w := k.applyInstance(in, b.Changes[i].Deleted); w != nil {
				moved[w] = struct{}{}
			}
		}
	}
}

// applyInstance returns what is watched of an instance, if it is to be placed.
func (k *keeper) applyInstance(in *registry.Instance, deleted bool) *watched {
	old := k.watched[in.InstanceID]
	if deleted || len(in.Checks) == 0 {
		if old != nil {
			k.forget(old)
		}
		return nil
	}
	addrs := in.Dialable()
	if old != nil && reflect.DeepEqual(old.Checks, in.Checks) && reflect.DeepEqual(old.addrs, addrs) && samePorts(old.Ports, in.Ports) {
		hurry := old.Effective() != in.Effective() // it says that something has happened to it
		if old.Instance = in; hurry {
			k.bringForward(old)
		}
		return old
	}
	if old != nil {
		k.forget(old)
	}
	w := &watched{Instance: in, addrs: addrs}
	w.retry.fire = func() { k.reconcile(w) }
	k.watched[in.InstanceID] = w
	for _, a := range addrs {
		if k.byAddr[a] == nil {
			k.byAddr[a] = map[*watched]struct{}{}
		}
		k.byAddr[a][w] = struct{}{}
	}
	return w
}

// samePorts says whether checks that name no port go to the same one.
func samePorts(a, b []registry.EndpointPort) bool {
	return firstPort(a) == firstPort(b)
}

func firstPort(ports []registry.EndpointPort) uint16 {
	if len(ports) == 0 {
		return 0
	}
	return ports[0].Port
}

func (k *keeper) forget(w *watched) {
	k.release(w)
	delete(k.watched, w.InstanceID)
	delete(k.unheard, w)
	for _, a := range w.addrs {
		if delete(k.byAddr[a], w); len(k.byAddr[a]) == 0 {
			delete(k.byAddr, a)
		}
	}
}

// place starts or ends checking an instance, as its place wants.
func (k *keeper) place(w *watched) {
	fresh := w.owner == "" && k.synced
	w.owner = k.places.nearest(w.Instance, w.addrs)
	switch mine := w.owner == k.o.Node; {
	case mine && !w.mine:
		k.take(w, fresh)
	case !mine && w.mine:
		k.release(w)
	}
}

// take starts checking an instance. One that has just registered is asked at once. Those that another has checked
// until now, or that were there when this agent came, may be many.
func (k *keeper) take(w *watched, fresh bool) {
	w.mine = true
	k.metrics.checked.Add(1)
	failing := k.believe(w)
	for i := range w.Checks {
		check := &w.Checks[i]
		if len(w.addrs) == 0 || check.Type == registry.CheckExec && !k.o.Exec {
			continue
		}
		t := &task{of: w, check: check, subject: newSubject(w, check), failing: failing}
		t.entry.fire = func() { k.due(t) }
		w.tasks = append(w.tasks, t)
		within := interval(check)
		if fresh {
			within = min(within/10, time.Second)
		}
		k.agenda.set(&t.entry, time.Now().Add(time.Duration(rand.Int64N(int64(within)+1))))
	}
	k.count(w)
	k.reconcile(w) // without a check left nothing can be wrong
}

// believe returns what the registry says of an instance, and takes over its reason.
func (k *keeper) believe(w *watched) (failing bool) {
	h := k.health[w.InstanceID]
	if h == nil {
		return false
	}
	w.since, w.reason = h.Since, h.Reason
	return true
}

func (k *keeper) release(w *watched) {
	if !w.mine {
		return
	}
	for _, t := range w.tasks {
		t.dead = true
		k.agenda.remove(&t.entry)
	}
	k.agenda.remove(&w.retry)
	w.mine, w.tasks = false, nil
	k.metrics.checked.Add(-1)
	k.count(w)
}

// bringForward has an instance checked now.
func (k *keeper) bringForward(w *watched) {
	for _, t := range w.tasks {
		if t.entry.listed() {
			k.agenda.set(&t.entry, time.Now())
		}
	}
}

func interval(c *registry.HealthCheck) time.Duration {
	ms, _ := c.Times()
	return time.Duration(ms) * time.Millisecond
}
