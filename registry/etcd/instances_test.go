package etcd

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// instance returns the n-th instance of a service, whose lease outlives every test.
func instance(service string, n int) registry.Instance {
	return registry.Instance{
		InstanceID: registry.InstanceID{Namespace: "default", Service: service, ID: fmt.Sprint("i", n)},
		Addresses:  addrs(fmt.Sprintf("10.244.%d.%d", n/250, n%250+1)),
		Ports:      []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
		Status:     registry.InstanceUp,
		Lease:      3600,
	}
}

func register(t testing.TB, s *Store, i registry.Instance) (registry.Instance, int64) {
	t.Helper()
	got, rev, err := s.Register(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	return got, rev
}

// stored returns the keys of an instance that there are, without their prefix, and the lease that the second is
// attached to.
func stored(t testing.TB, s *Store, id registry.InstanceID) (kinds []string, lease clientv3.LeaseID) {
	t.Helper()
	keys, err := keysOf(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{keys.instance, keys.lease, keys.health} {
		kv, err := s.get(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		if kv != nil {
			kind, _, _ := strings.Cut(strings.TrimPrefix(k, prefix), "/")
			kinds = append(kinds, kind)
		}
		if k == keys.lease && kv != nil {
			lease = clientv3.LeaseID(kv.Lease)
		}
	}
	return kinds, lease
}

// leases returns how many leases etcd has.
func leases(t testing.TB, s *Store) int {
	t.Helper()
	r, err := s.client.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(r.Leases)
}

func TestRegister(t *testing.T) {
	s := open(t, defaultCIDRs...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := s.Watch(ctx)
	receive(t, batches)
	asked := instance("web", 1)
	asked.Ports = append(asked.Ports, registry.EndpointPort{Protocol: registry.UDP, Port: 53})
	got, rev := register(t, s, asked)
	want := asked
	want.Registered, want.Updated = got.Registered, got.Registered
	want.Ports = slices.Clone(asked.Ports)
	want.Ports[1].Name = "port-53"
	if !reflect.DeepEqual(got, want) || got.Registered.IsZero() {
		t.Errorf("registered as %+v, want %+v", got, want)
	}
	// Whoever watches gets it all at once.
	b := receive(t, batches)
	if b.Revision != rev {
		t.Errorf("revision %d, want %d", b.Revision, rev)
	}
	var svc *registry.Service
	var seen *registry.Instance
	var lease *registry.InstanceLease
	for _, c := range b.Changes {
		switch {
		case c.Deleted:
			t.Errorf("deleted: %+v", c)
		case c.Service != nil:
			svc = c.Service
		case c.Instance != nil:
			seen = c.Instance
		case c.Lease != nil:
			lease = c.Lease
		}
	}
	if !reflect.DeepEqual(seen, &got) || lease == nil || lease.InstanceID != got.InstanceID {
		t.Errorf("seen %+v and lease %+v, want %+v", seen, lease, got)
	}
	ports := []registry.ServicePort{
		{Name: "http", Protocol: registry.TCP, Port: 8080, TargetName: "http"},
		{Name: "port-53", Protocol: registry.UDP, Port: 53, TargetName: "port-53"},
	}
	if svc == nil || svc.Name != got.ServiceName() || len(svc.VIPs) != 2 || !reflect.DeepEqual(svc.Ports, ports) ||
		svc.Labels[registry.RegisteredLabel] != "true" {
		t.Fatalf("the service is %+v", svc)
	}
	audit(t, s)
	// A second instance leaves the service alone, and so does the end of both.
	second, _ := register(t, s, instance("web", 2))
	for _, id := range []registry.InstanceID{got.InstanceID, second.InstanceID} {
		if _, err := s.Deregister(t.Context(), id); err != nil {
			t.Error(err)
		}
		if kinds, _ := stored(t, s, id); len(kinds) != 0 {
			t.Errorf("of %s is left %v", id, kinds)
		}
		if _, err := s.Deregister(t.Context(), id); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("deregistered twice: %v", err)
		}
	}
	if n := leases(t, s); n != 0 {
		t.Errorf("%d leases are left", n)
	}
	if left := audit(t, s)[got.ServiceName()]; !slices.Equal(left.VIPs, svc.VIPs) {
		t.Errorf("the service is left as %+v", left)
	}
}

func TestRegisterAgain(t *testing.T) {
	s := open(t, defaultCIDRs...)
	first, rev := register(t, s, instance("web", 1))
	_, lease := stored(t, s, first.InstanceID)
	again, rev2 := register(t, s, instance("web", 1))
	if _, now := stored(t, s, first.InstanceID); !reflect.DeepEqual(again, first) || rev2 != rev || now != lease {
		t.Errorf("registered again: %+v at %d with lease %d, want %+v at %d with %d", again, rev2, now, first, rev, lease)
	}
	// The operator's word outlasts the client's.
	if _, _, err := s.Update(t.Context(), first.InstanceID, func(i *registry.Instance) error {
		i.Override = registry.InstanceOutOfService
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	changed := instance("web", 1)
	changed.Version, changed.Lease = "2", 1800
	got, _ := register(t, s, changed)
	_, now := stored(t, s, first.InstanceID)
	if got.Version != "2" || got.Override != registry.InstanceOutOfService || !got.Registered.Equal(first.Registered) || now == lease {
		t.Errorf("registered with another version: %+v with lease %d, was %d", got, now, lease)
	}
	if n := leases(t, s); n != 1 {
		t.Errorf("%d leases, want 1", n)
	}
	// For good, and with a lease again.
	changed.Lease = 0
	register(t, s, changed)
	if kinds, _ := stored(t, s, first.InstanceID); !slices.Equal(kinds, []string{"instances"}) || leases(t, s) != 0 {
		t.Errorf("without a lease there are %v and %d leases", kinds, leases(t, s))
	}
	if err := s.Renew(t.Context(), first.InstanceID); err != nil {
		t.Errorf("renew what has no lease: %v", err)
	}
	changed.Lease = 60
	register(t, s, changed)
	if kinds, _ := stored(t, s, first.InstanceID); !slices.Equal(kinds, []string{"instances", "leases"}) || leases(t, s) != 1 {
		t.Errorf("with a lease again there are %v and %d leases", kinds, leases(t, s))
	}
}

// TestRegisterBesideService: a service that is there stays as it is.
func TestRegisterBesideService(t *testing.T) {
	s := open(t, defaultCIDRs...)
	svc, rev := put(t, s, web("web"))
	register(t, s, instance("web", 1))
	again, rev2 := put(t, s, web("web"))
	if !reflect.DeepEqual(svc, again) || rev2 != rev {
		t.Errorf("the service became %+v at %d, was %+v at %d", again, rev2, svc, rev)
	}
	// Without a range there is no VIP for a new one.
	bare := open(t)
	if _, _, err := bare.Register(t.Context(), instance("web", 1)); !errors.Is(err, registry.ErrVIPsExhausted) {
		t.Errorf("no service range: %v", err)
	}
	if kinds, _ := stored(t, bare, instance("web", 1).InstanceID); len(kinds) != 0 || leases(t, bare) != 0 {
		t.Errorf("of a failed registration are left %v and %d leases", kinds, leases(t, bare))
	}
}

func TestUpdate(t *testing.T) {
	s := open(t, defaultCIDRs...)
	i := instance("web", 1)
	nothing := func(*registry.Instance) error { return nil }
	if _, _, err := s.Update(t.Context(), i.InstanceID, nothing); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("update of nothing: %v", err)
	}
	i.Metadata = map[string]string{"n": ""}
	first, rev := register(t, s, i)
	if got, same, err := s.Update(t.Context(), i.InstanceID, nothing); err != nil || same != rev || !reflect.DeepEqual(got, first) {
		t.Errorf("no change: %+v at %d, %v; want %+v at %d", got, same, err, first, rev)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 5 {
				if _, _, err := s.Update(t.Context(), i.InstanceID, func(i *registry.Instance) error {
					i.Metadata["n"] += "x"
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	got, _, err := s.Update(t.Context(), i.InstanceID, nothing)
	if err != nil || len(got.Metadata["n"]) != 40 {
		t.Errorf("after 40 updates at once: %+v, %v", got, err)
	}
	_, lease := stored(t, s, i.InstanceID)
	for name, edit := range map[string]func(*registry.Instance){
		"id":     func(i *registry.Instance) { i.ID = "other" },
		"lease":  func(i *registry.Instance) { i.Lease = 5 },
		"status": func(i *registry.Instance) { i.Status = "WELL" },
	} {
		_, _, err := s.Update(t.Context(), i.InstanceID, func(i *registry.Instance) error {
			edit(i)
			return nil
		})
		if !errors.Is(err, registry.ErrInvalid) || !contains(err, name+": ") {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	why := errors.New("why not")
	if _, _, err := s.Update(t.Context(), i.InstanceID, func(*registry.Instance) error { return why }); !errors.Is(err, why) {
		t.Errorf("refused by its caller: %v", err)
	}
	if kinds, now := stored(t, s, i.InstanceID); now != lease || len(kinds) != 2 {
		t.Errorf("updates left %v with lease %d, was %d", kinds, now, lease)
	}
}

func TestSetHealth(t *testing.T) {
	s := open(t, defaultCIDRs...)
	i := instance("web", 1)
	i.Checks = []registry.HealthCheck{{Type: registry.CheckTCP}}
	ill := &registry.InstanceHealth{Node: "n1", Since: time.Now(), Reason: strings.Repeat("é", maxHealth)}
	if _, err := s.SetHealth(t.Context(), i.InstanceID, ill); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("health of nobody: %v", err)
	}
	register(t, s, i)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := s.Watch(ctx)
	receive(t, batches)
	rev, err := s.SetHealth(t.Context(), i.InstanceID, ill)
	if err != nil {
		t.Fatal(err)
	}
	b := receive(t, batches)
	if h := b.Changes[0].Health; b.Revision != rev || h == nil || h.InstanceID != i.InstanceID || h.Reason != ill.Reason[:maxHealth] || h.Node != "n1" {
		t.Errorf("told %+v", b)
	}
	if _, err := s.SetHealth(t.Context(), i.InstanceID, nil); err != nil {
		t.Fatal(err)
	}
	if b := receive(t, batches); !b.Changes[0].Deleted || b.Changes[0].Health == nil || b.Changes[0].Health.InstanceID != i.InstanceID {
		t.Errorf("told %+v", b)
	}
	// Without checks there is nothing to fail.
	if _, err := s.SetHealth(t.Context(), i.InstanceID, ill); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Update(t.Context(), i.InstanceID, func(i *registry.Instance) error {
		i.Checks = nil
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if kinds, _ := stored(t, s, i.InstanceID); slices.Contains(kinds, "health") {
		t.Errorf("there are %v", kinds)
	}
}

func TestRenew(t *testing.T) {
	s := openWith(t, Options{keep: true})
	i := instance("web", 1)
	if err := s.Renew(t.Context(), i.InstanceID); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("renew nobody: %v", err)
	}
	_, rev := register(t, s, i)
	for range 3 {
		if err := s.Renew(t.Context(), i.InstanceID); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.client.Get(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	if r.Header.Revision != rev {
		t.Errorf("renewals made revision %d of %d", r.Header.Revision, rev)
	}
	// One that has lapsed lives again.
	_, lease := stored(t, s, i.InstanceID)
	if _, err := s.client.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	if kinds, _ := stored(t, s, i.InstanceID); !slices.Equal(kinds, []string{"instances"}) {
		t.Fatalf("a lapsed lease leaves %v", kinds)
	}
	if err := s.Renew(t.Context(), i.InstanceID); err != nil {
		t.Fatal(err)
	}
	if kinds, now := stored(t, s, i.InstanceID); now == lease || !slices.Equal(kinds, []string{"instances", "leases"}) {
		t.Errorf("a revived instance has %v with lease %d", kinds, now)
	}
}

// TestRegisterBound: with as many instances as may be, those that are there go on, and others wait for room.
func TestRegisterBound(t *testing.T) {
	s := openWith(t, Options{MaxInstances: 2})
	for n := range 2 {
		register(t, s, instance("web", n))
	}
	known(t, s)
	if _, _, err := s.Register(t.Context(), instance("web", 2)); !errors.Is(err, registry.ErrFull) || !contains(err, "has 2 instances") {
		t.Errorf("one too many: %v", err)
	}
	changed := instance("web", 1)
	changed.Version = "2"
	register(t, s, changed)
	if _, err := s.Deregister(t.Context(), instance("web", 0).InstanceID); err != nil {
		t.Fatal(err)
	}
	until(t, "there is room", func() bool { return s.instances.len() == 1 })
	register(t, s, instance("web", 2))
}
