package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// lapse ends the lease of an instance, as etcd does when nobody renews it.
func lapse(t testing.TB, s *Store, id registry.InstanceID) {
	t.Helper()
	_, lease := stored(t, s, id)
	if lease == 0 {
		t.Fatalf("%s has no lease to lapse", id)
	}
	if _, err := s.client.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
}

// known waits until the store's index knows all that is stored now.
func known(t testing.TB, s *Store) {
	t.Helper()
	keys, err := s.client.Get(t.Context(), instancePrefix, clientv3.WithRange(clientv3.GetPrefixRangeEnd(leasePrefix)),
		clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	var rev int64
	if len(keys.Kvs) > 0 {
		rev = keys.Kvs[0].ModRevision
	}
	if err := s.instances.wait(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
}

// knownLapsed waits until the index knows that an instance has lapsed.
func knownLapsed(t testing.TB, s *Store, ids ...registry.InstanceID) {
	t.Helper()
	for _, id := range ids {
		until(t, id.String()+" has lapsed", func() bool {
			k, ok := s.instances.get(id)
			return ok && k.lapsed != 0
		})
	}
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(await); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so", what)
		}
	}
}

// ids returns the instances of a service that there are.
func ids(t testing.TB, s *Store, service string) (list []string) {
	t.Helper()
	p := instancePrefix + "default/" + service + "/"
	r, err := s.client.Get(t.Context(), p, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range r.Kvs {
		list = append(list, strings.TrimPrefix(string(kv.Key), p))
	}
	return list
}

// TestExpiry: who does not renew goes when the lease is over, who does stays, and those who watch see first that a
// lease has lapsed and then that the instance is gone.
func TestExpiry(t *testing.T) {
	s := open(t, defaultCIDRs...)
	batches := s.Watch(t.Context())
	receive(t, batches)
	for n, ttl := range []uint32{1, 2, 4} {
		i := instance(fmt.Sprint("s", ttl), n)
		i.Lease = ttl
		register(t, s, i)
	}
	stays := instance("stays", 1)
	stays.Lease = 1
	register(t, s, stays)
	ctx, cancel := context.WithCancel(t.Context())
	var renewing sync.WaitGroup
	defer renewing.Wait()
	defer cancel()
	renewing.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := s.Renew(ctx, stays.InstanceID); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		}
	})
	lapsed, gone := map[string]bool{}, map[string]bool{}
	for len(gone) < 3 {
		for _, c := range receive(t, batches).Changes {
			switch {
			case !c.Deleted:
			case c.Lease != nil:
				lapsed[c.Lease.Service] = true
			case c.Instance != nil:
				gone[c.Instance.Service] = true
				if !lapsed[c.Instance.Service] {
					t.Errorf("%s is gone before its lease", c.Instance.InstanceID)
				}
			}
		}
	}
	if lapsed["stays"] || len(ids(t, s, "stays")) != 1 {
		t.Error("the one that renews its lease is gone")
	}
	until(t, "three are counted", func() bool { return s.expired.Load() == 3 })
}

// TestExpiryBound: of a service no more than the bound go in a window, those first that lapsed first, and those
// that wait can live again.
func TestExpiryBound(t *testing.T) {
	var logs logBuffer
	s := openWith(t, Options{keep: true, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	for n := range 10 {
		register(t, s, instance("web", n))
	}
	register(t, s, instance("alone", 0))
	known(t, s)
	now := time.Now()
	e := newExpirer(s)
	e.now = func() time.Time { return now }
	for n := range 8 {
		lapse(t, s, instance("web", n).InstanceID)
		knownLapsed(t, s, instance("web", n).InstanceID)
	}
	lapse(t, s, instance("alone", 0).InstanceID)
	knownLapsed(t, s, instance("alone", 0).InstanceID)
	round := func(web ...string) {
		t.Helper()
		e.round(t.Context())
		if got := ids(t, s, "web"); !slices.Equal(got, web) {
			t.Errorf("left are %v, want %v", got, web)
		}
	}
	round("i3", "i4", "i5", "i6", "i7", "i8", "i9") // 33 % of 10
	if got := ids(t, s, "alone"); len(got) != 0 {
		t.Errorf("the only one of its service is left: %v", got)
	}
	if held := s.Lapsed(); len(held) != 1 || held[0] != (Lapsed{Service: registry.Name{Namespace: "default", Name: "web"}, Lapsed: 5, Instances: 7}) {
		t.Errorf("held are %+v", held)
	}
	now = now.Add(s.expiry.Every - 1)
	round("i3", "i4", "i5", "i6", "i7", "i8", "i9")
	if err := s.Renew(t.Context(), instance("web", 3).InstanceID); err != nil {
		t.Fatal(err)
	}
	known(t, s)
	now = now.Add(1)
	round("i3", "i6", "i7", "i8", "i9") // 33 % of 7
	now = now.Add(s.expiry.Every)
	round("i3", "i7", "i8", "i9") // of 5
	now = now.Add(s.expiry.Every)
	round("i3", "i8", "i9") // of 4
	if again := e.round(t.Context()); again != 0 || len(s.Lapsed()) != 0 {
		t.Errorf("nothing waits: %v, %+v", again, s.Lapsed())
	}
	text := logs.String()
	if strings.Count(text, "go one part after the other") != 1 || strings.Count(text, "waits any more") != 1 {
		t.Errorf("told:\n%s", text)
	}
	// A single one more goes at once.
	now = now.Add(s.expiry.Every)
	lapse(t, s, instance("web", 9).InstanceID)
	knownLapsed(t, s, instance("web", 9).InstanceID)
	round("i3", "i8")
	if len(e.told) != 0 {
		t.Errorf("told of %v", e.told)
	}
	now = now.Add(s.expiry.Every)
	if e.round(t.Context()); len(e.windows) != 0 {
		t.Errorf("remembered: %v", e.windows)
	}
}

// TestExpiryBegins: what had lapsed before an agent took office waits as if some had gone just now.
func TestExpiryBegins(t *testing.T) {
	s := openWith(t, Options{keep: true, Expiry: ExpiryLimit{Most: 100, Every: time.Hour}})
	for _, service := range []string{"before", "after"} {
		register(t, s, instance(service, 1))
	}
	known(t, s)
	lapse(t, s, instance("before", 1).InstanceID)
	knownLapsed(t, s, instance("before", 1).InstanceID)
	s.running.Go(func() { newExpirer(s).run(s.background) })
	lapse(t, s, instance("after", 1).InstanceID)
	until(t, "the later one is gone", func() bool { return len(ids(t, s, "after")) == 0 })
	if got := ids(t, s, "before"); len(got) != 1 {
		t.Errorf("left are %v", got)
	}
}

// TestMassExpiry lets many leases lapse by themselves.
func TestMassExpiry(t *testing.T) {
	s := openWith(t, Options{Expiry: ExpiryLimit{Most: 33, Every: time.Hour}})
	const large, small = 60, 60
	begin := func(i registry.Instance) {
		i.Lease = 1
		register(t, s, i)
	}
	for n := range max(large, small) {
		if n < large {
			begin(instance("large", n))
		}
		if n < small {
			begin(instance(fmt.Sprint("small", n), 0))
		}
	}
	until(t, "all leases have lapsed", func() bool { return leases(t, s) == 0 })
	until(t, "all that may go are gone", func() bool {
		return len(ids(t, s, "large")) < large && s.expired.Load() >= small && len(s.Lapsed()) == 1 && s.Lapsed()[0].Lapsed == len(ids(t, s, "large"))
	})
	// The services are left, and the bound is kept however the leases lapsed one after the other.
	left := len(ids(t, s, "large"))
	if gone := large - left; gone > s.expiry.of(large) {
		t.Errorf("%d of %d went in one window", gone, large)
	}
	for n := range small {
		if got := ids(t, s, fmt.Sprint("small", n)); len(got) > 0 {
			t.Errorf("the only instance of small%d is left", n)
		}
	}
	if n := len(audit(t, s)); n != small+1 {
		t.Errorf("%d services, want %d", n, small+1)
	}
}

// TestExpiryWindow: the bound holds for any time of its length, not only for those that begin when another ends.
func TestExpiryWindow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := ExpiryLimit{Most: 33, Every: 30 * time.Second}
	begin := time.Unix(0, 0)
	now, w := begin, expiryWindow{}
	instances := 1000
	var all []departure
	for instances > 0 {
		now = now.Add(time.Duration(r.IntN(8000)) * time.Millisecond)
		n, until := w.allow(now, l, instances)
		if n == 0 && !until.After(now) {
			t.Fatalf("nothing may go at %v, until %v", now.Sub(begin), until.Sub(begin))
		}
		if n = min(n, r.IntN(40), instances); n == 0 {
			continue
		}
		w.gone = append(w.gone, departure{now, n})
		all = append(all, departure{now, n})
		recent := 0
		for _, d := range all {
			if now.Sub(d.at) < l.Every {
				recent += d.n
			}
		}
		if instances -= n; recent > l.of(instances+recent) {
			t.Fatalf("at %v %d of %d went within %v", now.Sub(begin), recent, instances+recent, l.Every)
		}
	}
}

// modelled is an instance as TestInstancesAgainstModel has it.
type modelled struct {
	ttl    uint32
	alive  bool
	lapsed int // the how manieth to lapse
}

// TestInstancesAgainstModel compares the store with a map.
func TestInstancesAgainstModel(t *testing.T) {
	s := openWith(t, Options{keep: true})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	model := map[string]map[string]*modelled{}
	now := time.Now()
	e := newExpirer(s)
	e.now = func() time.Time { return now }
	lapses := 0
	for step := range 600 {
		service := fmt.Sprint("s", r.IntN(3))
		i := instance(service, r.IntN(8))
		i.Lease = []uint32{0, 1800, 3600}[r.IntN(3)]
		if model[service] == nil {
			model[service] = map[string]*modelled{}
		}
		m := model[service][i.ID]
		switch action := r.IntN(10); {
		case action < 4:
			i.Version = fmt.Sprint(r.IntN(2))
			register(t, s, i)
			model[service][i.ID] = &modelled{ttl: i.Lease, alive: i.Lease > 0}
		case action < 6:
			if err := s.Renew(t.Context(), i.InstanceID); (err == nil) != (m != nil) {
				t.Fatalf("step %d: renew %s: %v, model %+v", step, i.InstanceID, err, m)
			}
			if m != nil && m.ttl > 0 {
				m.alive, m.lapsed = true, 0
			}
		case action < 8:
			if m == nil || !m.alive {
				continue
			}
			lapse(t, s, i.InstanceID)
			knownLapsed(t, s, i.InstanceID)
			lapses++
			m.alive, m.lapsed = false, lapses
		case action < 9:
			if _, err := s.Deregister(t.Context(), i.InstanceID); (err == nil) != (m != nil) {
				t.Fatalf("step %d: deregister %s: %v, model %+v", step, i.InstanceID, err, m)
			}
			delete(model[service], i.ID)
		default:
			known(t, s)
			now = now.Add(s.expiry.Every)
			e.round(t.Context())
			for _, instances := range model {
				expireModel(instances, s.expiry)
			}
		}
		compareInstances(t, s, step, model)
	}
}

// expireModel does what a round of a new window does to one service.
func expireModel(instances map[string]*modelled, l ExpiryLimit) {
	var lapsed []string
	for id, m := range instances {
		if m.ttl > 0 && !m.alive {
			lapsed = append(lapsed, id)
		}
	}
	slices.SortFunc(lapsed, func(a, b string) int { return instances[a].lapsed - instances[b].lapsed })
	for _, id := range lapsed[:min(len(lapsed), l.of(len(instances)))] {
		delete(instances, id)
	}
}

func compareInstances(t *testing.T, s *Store, step int, model map[string]map[string]*modelled) {
	t.Helper()
	alive := 0
	for service, instances := range model {
		if got, want := ids(t, s, service), slices.Sorted(maps.Keys(instances)); !slices.Equal(got, want) {
			t.Fatalf("step %d: instances of %s are %v, want %v", step, service, got, want)
		}
		for id, m := range instances {
			kinds, lease := stored(t, s, registry.InstanceID{Namespace: "default", Service: service, ID: id})
			if (lease != 0) != m.alive {
				t.Fatalf("step %d: %s/%s has %v, want %+v", step, service, id, kinds, m)
			}
			if m.alive {
				alive++
			}
		}
	}
	if n := leases(t, s); n != alive {
		t.Fatalf("step %d: %d leases, want %d", step, n, alive)
	}
}

// TestLeaseNews: who follows the events is told what becomes of leases, and how much of it was missed.
func TestLeaseNews(t *testing.T) {
	s := openWith(t, Options{keep: true})
	n := s.News()
	defer n.Close()
	next := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), await)
		defer cancel()
		e, err := n.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Instance == nil {
			return fmt.Sprint(e.Type, " ", e.Reason, " ", e.Service, " ", e.Missed)
		}
		return fmt.Sprint(e.Type, " ", e.Reason, " ", e.Instance)
	}
	var all []registry.InstanceID
	for n := range 2 {
		i, _ := register(t, s, instance("web", n))
		all = append(all, i.InstanceID)
	}
	for _, id := range all {
		lapse(t, s, id)
		if got := next(); got != "lease lapsed "+id.String() {
			t.Errorf("told %s", got)
		}
	}
	e := newExpirer(s)
	e.round(t.Context())
	for _, want := range []string{"lease expired default/web/i0", "lease held default/web 0"} {
		if got := next(); got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	}
	if err := s.Renew(t.Context(), all[1]); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "lease renewed default/web/i1" {
		t.Errorf("told %s", got)
	}
	// Who leaves is no news, nor is who comes.
	if _, err := s.Deregister(t.Context(), all[1]); err != nil {
		t.Fatal(err)
	}
	for range newsQueue + 3 {
		s.news.tell(registry.LeaseHeld, registry.Name{Namespace: "a", Name: "b"}, nil)
	}
	if got := next(); !strings.HasPrefix(got, "lost") || !strings.HasSuffix(got, " 3") {
		t.Errorf("told %s, want that 3 are missed", got)
	}
	if got := next(); got != "lease held a/b 0" {
		t.Errorf("told %s", got)
	}
	n.Close()
	ended := s.News()
	ended.Close()
	if _, err := ended.Next(t.Context()); err == nil || len(s.news.readers) != 0 {
		t.Errorf("closed, and %d readers are left: %v", len(s.news.readers), err)
	}
}
