package etcd

import (
	"context"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// ExpiryLimit bounds how many instances of one service whose leases have lapsed are deleted: no more than one, or
// Most percent of all that the service has, in any time of length Every. Many that lapse at once are more likely cut
// off than dead.
type ExpiryLimit struct {
	Most  int           // percent, 1 to 100
	Every time.Duration // 1 s to 1 h
}

// DefaultExpiryLimit is a third in 30 seconds.
func DefaultExpiryLimit() ExpiryLimit { return ExpiryLimit{Most: 33, Every: 30 * time.Second} }

// Validate returns what is wrong with the limit, or nil.
func (l ExpiryLimit) Validate() error {
	if l.Most < 1 || l.Most > 100 {
		return fmt.Errorf("most: %d: want 1 to 100 percent", l.Most)
	}
	if l.Every < time.Second || l.Every > time.Hour {
		return fmt.Errorf("every: %v: want 1s to 1h", l.Every)
	}
	return nil
}

// String returns what the limit is, as in 33% in 30s.
func (l ExpiryLimit) String() string { return fmt.Sprintf("%d%% in %s", l.Most, l.Every) }

func (l ExpiryLimit) orDefault() ExpiryLimit {
	if l.Most == 0 {
		l.Most = DefaultExpiryLimit().Most
	}
	if l.Every == 0 {
		l.Every = DefaultExpiryLimit().Every
	}
	return l
}

// of returns how many of so many instances may go at once.
func (l ExpiryLimit) of(instances int) int { return max(1, instances*l.Most/100) }

const (
	expiryRetry    = time.Second // after the store did not take a deletion
	expiryTogether = 32          // instances in one transaction: what any cluster takes
)

// expirer deletes the instances whose leases have lapsed. One agent of all runs it.
type expirer struct {
	store *Store
	// fence must hold for what it does: that it still is the one.
	fence []clientv3.Cmp
	now   func() time.Time
	// windows say how many of a service's instances went lately.
	windows map[registry.Name]*expiryWindow
	told    map[registry.Name]bool // services of which it was said that instances are held
}

// expiryWindow is what matters of a service's past: whatever went in the time of length Every before now.
type expiryWindow struct {
	from time.Time // nothing goes before
	gone []departure
}

type departure struct {
	at time.Time
	n  int
}

// allow returns how many of a service's instances may go now, and how long that stays so if none does.
func (w *expiryWindow) allow(now time.Time, l ExpiryLimit, instances int) (n int, until time.Time) {
	w.gone = slices.DeleteFunc(w.gone, func(d departure) bool { return now.Sub(d.at) >= l.Every })
	if now.Before(w.from) {
		return 0, w.from
	}
	recent := 0
	for _, d := range w.gone {
		recent += d.n
	}
	until = now.Add(l.Every)
	if len(w.gone) > 0 {
		until = w.gone[0].at.Add(l.Every)
	}
	return max(0, l.of(instances+recent)-recent), until
}

func newExpirer(s *Store) *expirer {
	return &expirer{store: s, now: time.Now, windows: map[registry.Name]*expiryWindow{}, told: map[registry.Name]bool{}}
}

// run works until ctx ends. What has lapsed before it began stays for a while: its predecessor may have used up the
// bound, and an instance may have been unable to renew its lease for as long as there was no store.
func (e *expirer) run(ctx context.Context) {
	x := e.store.instances
	if x.wait(ctx, 0) != nil {
		return
	}
	for _, name := range x.lapsingServices() {
		e.windows[name] = &expiryWindow{from: e.now().Add(e.store.expiry.Every)}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.woken:
		case <-timer.C:
		}
		if again := e.round(ctx); again > 0 {
			timer.Reset(again)
		}
	}
}

// round deletes what may go now, and returns after which time more may, or 0 if nothing waits.
func (e *expirer) round(ctx context.Context) (again time.Duration) {
	now := e.now()
	later := func(d time.Duration) {
		if again == 0 || d < again {
			again = max(d, time.Millisecond)
		}
	}
	lapsing := map[registry.Name]bool{}
	for _, name := range e.store.instances.lapsingServices() {
		lapsing[name] = true
		list, records := e.store.instances.lapsedOf(name)
		w := e.windows[name]
		if w == nil {
			w = &expiryWindow{}
			e.windows[name] = w
		}
		allowed, until := w.allow(now, e.store.expiry, records)
		n := min(len(list), allowed)
		gone, err := e.delete(ctx, list[:n])
		if gone > 0 {
			w.gone = append(w.gone, departure{now, gone})
			until = w.gone[0].at.Add(e.store.expiry.Every)
		}
		switch {
		case ctx.Err() != nil:
			return 0
		case err != nil:
			e.store.log.Warn("instances whose leases have lapsed were not deleted", "service", name, "err", err)
			later(expiryRetry)
		case len(list) > n:
			e.tell(name, len(list)-n, records)
			later(until.Sub(now))
		}
	}
	e.forget(now, lapsing)
	return again
}

// tell says that instances of a service are held, once until that has ended.
func (e *expirer) tell(name registry.Name, held, records int) {
	if e.told[name] {
		return
	}
	e.told[name] = true
	e.store.news.tell(registry.LeaseHeld, name, nil)
	e.store.log.Warn("many instances of a service do not renew their leases: they stay its backends for a while and go one part after the other",
		"service", name, "held", held, "instances", records, "percent", e.store.expiry.Most, "every", e.store.expiry.Every)
}

// forget drops what is known of services that nothing has lapsed of.
func (e *expirer) forget(now time.Time, lapsing map[registry.Name]bool) {
	for name, w := range e.windows {
		if w.allow(now, e.store.expiry, 0); !lapsing[name] && len(w.gone) == 0 {
			delete(e.windows, name)
		}
	}
	for name := range e.told {
		if list, _ := e.store.instances.lapsedOf(name); len(list) == 0 {
			delete(e.told, name)
			e.store.log.Info("no instance of the service waits any more for its end", "service", name)
		}
	}
}

// delete deletes instances that still are as they were found, and returns how many were.
func (e *expirer) delete(ctx context.Context, list []lapsedInstance) (gone int, err error) {
	for len(list) > 0 {
		n := min(len(list), expiryTogether)
		done, err := e.deleteTogether(ctx, list[:n])
		if err == nil && !done && n > 1 {
			for _, i := range list[:n] {
				one := false
				if one, err = e.deleteTogether(ctx, []lapsedInstance{i}); err != nil {
					break
				} else if one {
					gone++
				}
			}
		} else if done {
			gone += n
		}
		if err != nil {
			return gone, err
		}
		list = list[n:]
	}
	return gone, nil
}

// deleteTogether deletes all or, if one of them lives again, none.
func (e *expirer) deleteTogether(ctx context.Context, list []lapsedInstance) (bool, error) {
	s := e.store
	conditions := e.fence
	var then []clientv3.Op
	for _, i := range list {
		keys, err := keysOf(i.InstanceID)
		if err != nil {
			return false, err
		}
		conditions = append(conditions[:len(conditions):len(conditions)],
			clientv3.Compare(clientv3.ModRevision(keys.instance), "=", i.record),
			clientv3.Compare(clientv3.CreateRevision(keys.lease), "=", 0))
		then = append(then, clientv3.OpDelete(keys.instance), clientv3.OpDelete(keys.health))
	}
	r, err := s.client.Txn(ctx).If(conditions...).Then(then...).Commit()
	if err != nil || !r.Succeeded {
		return false, err
	}
	s.wrote(r.Header.Revision)
	for _, i := range list {
		s.instances.drop(i.InstanceID, i.record)
		s.expired.Add(1)
		s.log.Info("an instance did not renew its lease and is gone", "instance", i.InstanceID)
	}
	return true, nil
}

// Lapsed says of one service how many of its instances have lapsed and were not deleted yet.
type Lapsed struct {
	Service   registry.Name
	Lapsed    int
	Instances int // of the service, with those
}

// Lapsed returns the services of which lapsed instances are kept, because too many lapsed at once or because no
// agent is there that deletes them.
func (s *Store) Lapsed() []Lapsed {
	var list []Lapsed
	for _, name := range s.instances.lapsingServices() {
		if lapsed, records := s.instances.lapsedOf(name); len(lapsed) > 0 {
			list = append(list, Lapsed{name, len(lapsed), records})
		}
	}
	return list
}
