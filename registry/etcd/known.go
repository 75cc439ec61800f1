package etcd

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// knownInstance is what is known of an instance without asking the store. Either of its keys may be missing.
type knownInstance struct {
	record  int64        // revision that wrote the record; 0: there is none
	ttl     uint32       // seconds; 0: for good
	addrs   []netip.Addr // of the record
	alive   bool         // the lease's key is there
	lease   clientv3.LeaseID
	renewed time.Time // when this agent last renewed that lease
	lapsed  int64     // when the record was found without the lease it should have, as a number that rises; 0: it was not
}

// knownService holds the instances of one service by id.
type knownService struct {
	instances map[string]*knownInstance
	records   int
	lapsed    map[string]*knownInstance
}

// instanceIndex knows all instances and their leases. A follower of the store keeps it up to date, so that a renewal
// reads nothing and whoever ends lapsed instances finds them.
type instanceIndex struct {
	mu       sync.Mutex
	synced   bool  // a whole snapshot has been read
	revision int64 // of the store, as of which this is
	services map[registry.Name]*knownService
	lapsing  map[registry.Name]*knownService // those of the services with lapsed instances
	byAddr   map[netip.Addr]int              // records, by place
	records  int
	lapses   int64         // so far
	woken    chan struct{} // holds one when lapsing may have changed
	moved    chan struct{} // closed and replaced when the revision rises
	// tell is told what becomes of leases; nil: nobody is.
	tell func(reason string, service registry.Name, id *registry.InstanceID)
}

func newInstanceIndex() *instanceIndex {
	x := &instanceIndex{woken: make(chan struct{}, 1), moved: make(chan struct{})}
	x.clear()
	return x
}

func (x *instanceIndex) clear() {
	x.services, x.lapsing = map[registry.Name]*knownService{}, map[registry.Name]*knownService{}
	x.byAddr, x.records, x.synced = map[netip.Addr]int{}, 0, false
}

// get returns a copy of what is known of an instance. ok is false if it has no record, or is not known yet.
func (x *instanceIndex) get(id registry.InstanceID) (k knownInstance, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if svc := x.services[id.ServiceName()]; svc != nil {
		if i := svc.instances[id.ID]; i != nil {
			return *i, i.record != 0
		}
	}
	return k, false
}

// len returns how many instances there are.
func (x *instanceIndex) len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.records
}

// InstancesAt returns how many instances are registered at an address. All loopback addresses are one.
func (s *Store) InstancesAt(a netip.Addr) int {
	s.instances.mu.Lock()
	defer s.instances.mu.Unlock()
	return s.instances.byAddr[place(a)]
}

// place is the address that an instance's counts as.
func place(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.IsLoopback() {
		return netip.IPv6Loopback()
	}
	return a
}

// renewed remembers that a lease was renewed.
func (x *instanceIndex) renewed(id registry.InstanceID, lease clientv3.LeaseID, at time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if svc := x.services[id.ServiceName()]; svc != nil {
		if i := svc.instances[id.ID]; i != nil && i.lease == lease {
			i.renewed = at
		}
	}
}

// apply takes keys and values of the store as of a revision, or with deleted that they are gone.
func (x *instanceIndex) apply(revision int64, kvs []*mvccpb.KeyValue, deleted func(n int) bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	// Only what stands at the end counts: a record is written before its lease.
	for n, kv := range kvs {
		x.take(kv, deleted(n))
	}
	for _, kv := range kvs {
		x.judge(string(kv.Key))
	}
	x.move(revision)
}

// move tells of a revision, and of instances that may have lapsed.
func (x *instanceIndex) move(revision int64) {
	x.revision = revision
	close(x.moved)
	x.moved = make(chan struct{})
	x.wake()
}

// wake has whoever ends lapsed instances look.
func (x *instanceIndex) wake() {
	select {
	case x.woken <- struct{}{}:
	default:
	}
}

// whose returns the instance that a key is of. Of one that names none, whoever watches the store tells.
func whose(k string) (id registry.InstanceID, lease, ok bool) {
	p := instancePrefix
	if lease = strings.HasPrefix(k, leasePrefix); lease {
		p = leasePrefix
	}
	id, err := idOf(k, p)
	return id, lease, err == nil
}

func (x *instanceIndex) take(kv *mvccpb.KeyValue, deleted bool) {
	id, isLease, ok := whose(string(kv.Key))
	if !ok {
		return
	}
	name := id.ServiceName()
	svc := x.services[name]
	if svc == nil {
		svc = &knownService{instances: map[string]*knownInstance{}, lapsed: map[string]*knownInstance{}}
		x.services[name] = svc
	}
	i := svc.instances[id.ID]
	if i == nil {
		i = &knownInstance{}
		svc.instances[id.ID] = i
	}
	if isLease {
		if lease := clientv3.LeaseID(kv.Lease); deleted || lease != i.lease {
			i.renewed = time.Time{}
		}
		i.alive, i.lease = !deleted, clientv3.LeaseID(kv.Lease)
	} else {
		x.record(svc, i, kv, deleted)
	}
}

// record takes the record of an instance. One that cannot be read counts as none.
func (x *instanceIndex) record(svc *knownService, i *knownInstance, kv *mvccpb.KeyValue, deleted bool) {
	for _, a := range i.addrs {
		a = place(a)
		if x.byAddr[a]--; x.byAddr[a] == 0 {
			delete(x.byAddr, a)
		}
	}
	if i.record != 0 {
		svc.records--
		x.records--
	}
	i.record, i.ttl, i.addrs = 0, 0, nil
	if deleted {
		return
	}
	var short struct {
		Lease     uint32       `json:"lease"`
		Addresses []netip.Addr `json:"addresses"`
	}
	if json.Unmarshal(kv.Value, &short) != nil || len(short.Addresses) > registry.MaxVIPs {
		return
	}
	i.record, i.ttl, i.addrs = kv.ModRevision, short.Lease, short.Addresses
	svc.records++
	x.records++
	for _, a := range i.addrs {
		x.byAddr[place(a)]++
	}
}

// judge says whether the instance of a key has lapsed, and drops it if there is nothing left of it.
func (x *instanceIndex) judge(k string) {
	if id, _, ok := whose(k); ok {
		name := id.ServiceName()
		if svc := x.services[name]; svc != nil && svc.instances[id.ID] != nil {
			x.judgeOne(name, svc, id.ID, svc.instances[id.ID])
		}
	}
}

func (x *instanceIndex) judgeOne(name registry.Name, svc *knownService, id string, i *knownInstance) {
	if i.record != 0 && i.ttl > 0 && !i.alive {
		if i.lapsed == 0 {
			x.say(registry.LeaseLapsed, name, id)
			x.lapses++
			i.lapsed = x.lapses
			svc.lapsed[id] = i
			x.lapsing[name] = svc
		}
	} else if i.lapsed != 0 {
		if i.record == 0 {
			x.say(registry.LeaseExpired, name, id)
		} else {
			x.say(registry.LeaseRenewed, name, id)
		}
		i.lapsed = 0
		delete(svc.lapsed, id)
		if len(svc.lapsed) == 0 {
			delete(x.lapsing, name)
		}
	}
	if i.record == 0 && !i.alive {
		if delete(svc.instances, id); len(svc.instances) == 0 {
			delete(x.services, name)
		}
	}
}

func (x *instanceIndex) say(reason string, service registry.Name, id string) {
	if x.tell != nil {
		x.tell(reason, service, &registry.InstanceID{Namespace: service.Namespace, Service: service.Name, ID: id})
	}
}

// drop forgets the record of an instance that was deleted, as it was at a revision, before the store tells so.
func (x *instanceIndex) drop(id registry.InstanceID, record int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	svc := x.services[id.ServiceName()]
	if svc == nil {
		return
	}
	if i := svc.instances[id.ID]; i != nil && i.record == record {
		x.record(svc, i, nil, true)
		x.judgeOne(id.ServiceName(), svc, id.ID, i)
	}
}

// lapsedInstance is one that only its record is left of.
type lapsedInstance struct {
	registry.InstanceID
	record int64
	order  int64
}

// lapsedOf returns the instances of a service that have lapsed, those first that did so first, and how many
// instances the service has.
func (x *instanceIndex) lapsedOf(name registry.Name) (list []lapsedInstance, records int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	svc := x.lapsing[name]
	if svc == nil {
		return nil, 0
	}
	for id, i := range svc.lapsed {
		list = append(list, lapsedInstance{registry.InstanceID{Namespace: name.Namespace, Service: name.Name, ID: id}, i.record, i.lapsed})
	}
	slices.SortFunc(list, func(a, b lapsedInstance) int { return int(a.order - b.order) })
	return list, svc.records
}

// lapsingServices returns the services with instances that have lapsed, or nothing as long as not all is known.
func (x *instanceIndex) lapsingServices() []registry.Name {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.synced {
		return nil
	}
	return slices.SortedFunc(maps.Keys(x.lapsing), registry.CompareNames)
}

// wait returns when a revision is known.
func (x *instanceIndex) wait(ctx context.Context, revision int64) error {
	for {
		x.mu.Lock()
		done, moved := x.synced && x.revision >= revision, x.moved
		x.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// followInstances keeps s.instances up to date until ctx ends.
func (s *Store) followInstances(ctx context.Context) {
	var at followed
	for wait := retryFirst; ctx.Err() == nil; wait = min(2*wait, retryMost) {
		progressed, err := s.followInstancesOnce(ctx, &at)
		if ctx.Err() != nil {
			return
		}
		if progressed {
			wait = retryFirst
		}
		s.log.Debug("the watch of instances starts again", "err", err, "in", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// followed is how far a watch has come. The zero value has seen nothing.
type followed struct {
	revision int64
	cluster  uint64
}

// followInstancesOnce follows from where the last call came to until something breaks. When the store cannot go on from
// there, and at first, it reads all.
func (s *Store) followInstancesOnce(ctx context.Context, at *followed) (progressed bool, err error) {
	// A member that has lost its leader says so, and another one is asked.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	if at.revision > 0 {
		now, err := s.client.Get(ctx, prefix, clientv3.WithKeysOnly())
		if err != nil {
			return false, err
		}
		if now.Header.ClusterId != at.cluster || now.Header.Revision < at.revision {
			*at = followed{}
		}
	}
	if at.revision == 0 {
		if err := s.readInstances(ctx, at); err != nil {
			return false, err
		}
	}
	end := clientv3.GetPrefixRangeEnd(leasePrefix)
	for response := range s.client.Watch(ctx, instancePrefix, clientv3.WithRange(end), clientv3.WithRev(at.revision+1)) {
		if response.CompactRevision > 0 {
			*at = followed{}
		}
		if err := response.Err(); err != nil {
			return progressed, err
		}
		progressed = true
		kvs := make([]*mvccpb.KeyValue, len(response.Events))
		for n, e := range response.Events {
			kvs[n] = e.Kv
		}
		if len(kvs) > 0 {
			at.revision = kvs[len(kvs)-1].ModRevision
			s.instances.apply(at.revision, kvs, func(n int) bool { return response.Events[n].Type == clientv3.EventTypeDelete })
		}
	}
	return progressed, errWatchEnded
}

// readInstances reads all instances and leases. Between their prefixes there is no other.
func (s *Store) readInstances(ctx context.Context, at *followed) error {
	end := clientv3.GetPrefixRangeEnd(leasePrefix)
	fresh := newInstanceIndex()
	var read followed
	for from := instancePrefix; ; {
		page, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(read.revision))
		if err != nil {
			return err
		}
		if read.revision == 0 {
			read = followed{page.Header.Revision, page.Header.ClusterId}
		}
		fresh.apply(read.revision, page.Kvs, func(int) bool { return false })
		if !page.More {
			break
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	s.instances.replace(fresh)
	*at = read
	return nil
}

// replace takes a whole snapshot in place of what was known. In which order instances lapsed is not lost.
func (x *instanceIndex) replace(o *instanceIndex) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, svc := range o.services {
		for id, i := range svc.instances {
			var old knownInstance
			if was := x.services[name]; was != nil && was.instances[id] != nil {
				old = *was.instances[id]
			}
			if old.lease == i.lease {
				i.renewed = old.renewed
			}
			switch {
			case i.lapsed != 0 && old.lapsed != 0:
				i.lapsed = old.lapsed
			case i.lapsed != 0:
				i.lapsed += x.lapses
			}
		}
	}
	x.services, x.lapsing, x.byAddr, x.records = o.services, o.lapsing, o.byAddr, o.records
	x.lapses += o.lapses
	x.synced = true
	x.move(o.revision)
}
