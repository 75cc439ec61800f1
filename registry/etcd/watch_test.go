package etcd

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
)

func endpoint(n int) registry.Endpoint {
	return registry.Endpoint{
		EndpointID: registry.EndpointID{Node: "n1", ContainerID: fmt.Sprint("c", n), Interface: "eth0"},
		Name:       registry.Name{Namespace: "default", Name: fmt.Sprint("w", n)},
		Network:    "sluice", Addresses: addrs(fmt.Sprint("10.244.1.", n+1)),
		Labels: map[string]string{"app": "web"},
		Ports:  []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
	}
}

func receive(t *testing.T, batches <-chan registry.Batch) registry.Batch {
	t.Helper()
	select {
	case b, ok := <-batches:
		if !ok {
			t.Fatal("watch has ended")
		}
		return b
	case <-time.After(10 * time.Second):
		t.Fatal("no batch")
	}
	return registry.Batch{}
}

func TestWatch(t *testing.T) {
	s := open(t, defaultCIDRs...)
	svc, rev := put(t, s, dual("web"))
	ctx, cancel := context.WithCancel(t.Context())
	batches := s.Watch(ctx)
	b := receive(t, batches)
	if !b.Snapshot || b.Revision != rev || len(b.Changes) != 1 || !reflect.DeepEqual(*b.Changes[0].Service, svc) {
		t.Errorf("first batch %+v, want a snapshot at %d with %+v", b, rev, svc)
	}

	e := endpoint(1)
	rev, err := s.PutEndpoint(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if b = receive(t, batches); b.Snapshot || b.Revision != rev || len(b.Changes) != 1 || !reflect.DeepEqual(*b.Changes[0].Endpoint, e) {
		t.Errorf("batch %+v, want %+v at %d", b, e, rev)
	}
	n := registry.Node{Name: "n1", Zone: "z1", Addresses: addrs("192.0.2.1")}
	if rev, err = s.PutNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if b = receive(t, batches); b.Revision != rev || !reflect.DeepEqual(*b.Changes[0].Node, n) {
		t.Errorf("batch %+v, want %+v at %d", b, n, rev)
	}
	if again, err := s.PutNode(t.Context(), n); err != nil || again != rev {
		t.Errorf("the same node again: revision %d, %v; want %d", again, err, rev)
	}
	if rev, err = s.DeleteService(t.Context(), svc.Name); err != nil {
		t.Fatal(err)
	}
	if b = receive(t, batches); b.Revision != rev || len(b.Changes) != 1 || !b.Changes[0].Deleted || b.Changes[0].Service.Name != svc.Name {
		t.Errorf("batch %+v, want the service deleted at %d", b, rev)
	}
	if rev, err = s.DeleteEndpoint(t.Context(), e.EndpointID); err != nil {
		t.Fatal(err)
	}
	if b = receive(t, batches); b.Revision != rev || !b.Changes[0].Deleted || b.Changes[0].Endpoint.EndpointID != e.EndpointID {
		t.Errorf("batch %+v, want the endpoint deleted at %d", b, rev)
	}
	if again, err := s.DeleteEndpoint(t.Context(), e.EndpointID); err != nil || again != rev {
		t.Errorf("deleted twice: revision %d, %v; want %d", again, err, rev)
	}
	cancel()
	for range batches {
	}
}

// TestWatchAgainstStore follows random writes while the history is compacted under the watcher's
// feet, and compares the catalog with what is stored in the end.
func TestWatchAgainstStore(t *testing.T) {
	s := open(t, defaultCIDRs...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := s.Watch(ctx)
	c := registry.NewCatalog("")
	r := rand.New(rand.NewPCG(1, 1))
	var last int64
	for i := range 400 {
		var rev int64
		var err error
		switch e := endpoint(r.IntN(20)); r.IntN(9) {
		case 0:
			_, rev = put(t, s, web(fmt.Sprint("s", r.IntN(10))))
		case 1:
			rev, _ = s.DeleteService(t.Context(), registry.Name{Namespace: "default", Name: fmt.Sprint("s", r.IntN(10))})
		case 2:
			rev, err = s.DeleteEndpoint(t.Context(), e.EndpointID)
		case 3:
			rev, err = s.PutEndpoint(t.Context(), e)
		case 4:
			if rev, err = s.LabelEndpoint(t.Context(), e.EndpointID, map[string]string{"n": fmt.Sprint(i)}, nil); contains(err, "not found") {
				err = nil
			}
		case 5:
			rev, err = s.PutPolicy(t.Context(), policy(registry.Tier(r.IntN(3)), r.IntN(5)))
		case 6:
			rev, _ = s.DeletePolicy(t.Context(), policy(registry.Tier(r.IntN(3)), r.IntN(5)).PolicyID)
		case 7:
			rev, err = s.PutNamespace(t.Context(), registry.Namespace{Name: fmt.Sprint("n", r.IntN(4)), Labels: map[string]string{"i": fmt.Sprint(i)}})
		case 8:
			rev, _ = s.DeleteNamespace(t.Context(), fmt.Sprint("n", r.IntN(4)))
		}
		if err != nil {
			t.Fatal(err)
		}
		last = max(last, rev)
		if i%100 == 50 {
			if _, err := s.client.Compact(t.Context(), last); err != nil {
				t.Fatal(err)
			}
		}
	}
	for c.Revision() < last {
		b := receive(t, batches)
		if b.Revision < c.Revision() {
			t.Fatalf("revision %d after %d", b.Revision, c.Revision())
		}
		c.Apply(b)
	}
	fresh := registry.NewCatalog("")
	now, err := newReader(s).snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fresh.Apply(now)
	if !reflect.DeepEqual(c.Services(), fresh.Services()) || !reflect.DeepEqual(c.Endpoints(), fresh.Endpoints()) ||
		!reflect.DeepEqual(c.Policies(), fresh.Policies()) || !reflect.DeepEqual(c.Namespaces(), fresh.Namespaces()) {
		t.Error("the catalog that followed differs from one that read everything")
	}
	stored, err := s.Endpoints(t.Context(), "n1")
	if err != nil || !reflect.DeepEqual(stored, c.Endpoints()) {
		t.Errorf("endpoints %v, error %v; want %v", stored, err, c.Endpoints())
	}
}

// TestFollowAfterCompaction starts a watch at a revision that is compacted away: the source must
// begin anew with a snapshot.
func TestFollowAfterCompaction(t *testing.T) {
	s := open(t, defaultCIDRs...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// The watcher has its snapshot but nobody takes it yet, so that its watch begins late.
	batches := s.Watch(ctx)
	put(t, s, web("a"))
	_, rev := put(t, s, web("b"))
	if _, err := s.client.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	c := registry.NewCatalog("")
	snapshots := 0
	for c.Revision() < rev {
		b := receive(t, batches)
		if b.Snapshot {
			snapshots++
		}
		c.Apply(b)
	}
	if len(c.Services()) != 2 || snapshots == 0 {
		t.Errorf("services %v after %d snapshots", c.Services(), snapshots)
	}
}

// TestKeepOnly: what the node was registered as under another name goes.
func TestKeepOnly(t *testing.T) {
	s := open(t)
	for _, node := range []string{"old", "n1", "n10"} {
		if _, err := s.PutNode(t.Context(), registry.Node{Name: node}); err != nil {
			t.Fatal(err)
		}
		e := registry.Endpoint{
			EndpointID: registry.EndpointID{Node: node, ContainerID: "c", Interface: "eth0"},
			Name:       registry.Name{Namespace: "default", Name: "c"},
			Addresses:  []netip.Addr{netip.MustParseAddr("10.244.1.2")},
		}
		if _, err := s.PutEndpoint(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if _, gone, err := s.KeepOnly(t.Context(), "n1"); gone != 4 || err != nil {
		t.Errorf("%d keys went, %v; want those of two nodes", gone, err)
	}
	for node, want := range map[string]int{"old": 0, "n1": 1, "n10": 0} {
		if got, err := s.Endpoints(t.Context(), node); len(got) != want || err != nil {
			t.Errorf("node %s has %d endpoints, %v, want %d", node, len(got), err, want)
		}
	}
}

func TestLabels(t *testing.T) {
	s := open(t)
	e := endpoint(1)
	id := e.EndpointID
	if _, err := s.LabelEndpoint(t.Context(), id, map[string]string{"a": "b"}, nil); !contains(err, "not found") {
		t.Errorf("labelling what is not there: %v", err)
	}
	steps := []struct {
		do   func() (int64, error)
		want map[string]string
	}{
		{func() (int64, error) { return s.PutEndpoint(t.Context(), e) }, map[string]string{"app": "web"}},
		{func() (int64, error) {
			return s.LabelEndpoint(t.Context(), id, map[string]string{"tier": "x", "app": "api"}, nil)
		}, map[string]string{"app": "api", "tier": "x"}},
		{func() (int64, error) { return s.PutEndpoint(t.Context(), e) }, map[string]string{"app": "api", "tier": "x"}},
		{func() (int64, error) { return s.LabelEndpoint(t.Context(), id, nil, []string{"app", "none"}) }, map[string]string{"tier": "x"}},
		{func() (int64, error) { return s.PutEndpoint(t.Context(), e) }, map[string]string{"tier": "x"}},
		{func() (int64, error) {
			return s.LabelEndpoint(t.Context(), id, map[string]string{"app": "web"}, []string{"tier"})
		}, map[string]string{"app": "web"}},
		{func() (int64, error) { return s.DeleteEndpoint(t.Context(), id) }, nil},
		// Another container by the same name starts with its own labels.
		{func() (int64, error) { return s.PutEndpoint(t.Context(), e) }, map[string]string{"app": "web"}},
	}
	var last int64
	for i, step := range steps {
		rev, err := step.do()
		if err != nil || rev < last {
			t.Fatalf("step %d: revision %d after %d, error %v", i, rev, last, err)
		}
		last = rev
		list, err := s.Endpoints(t.Context(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		if step.want == nil {
			if len(list) != 0 {
				t.Errorf("step %d: endpoints %v", i, list)
			}
		} else if len(list) != 1 || !reflect.DeepEqual(list[0].Labels, step.want) {
			t.Errorf("step %d: endpoints %v, want labels %v", i, list, step.want)
		}
	}
}

// TestDurable closes and opens: all is as it was.
func TestDurable(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "etcd"), Run: runDir(t), ServiceCIDRs: prefixes(t, defaultCIDRs...)}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	svc, rev := put(t, s, dual("web"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Another run directory and other ranges: the service keeps its addresses.
	o.Run, o.ServiceCIDRs = runDir(t), prefixes(t, "10.99.0.0/16", "fd00:99::/112")
	if s, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	again, rev2 := put(t, s, dual("web"))
	if !reflect.DeepEqual(again, svc) || rev2 != rev {
		t.Errorf("after a restart: %+v at %d, want %+v at %d", again, rev2, svc, rev)
	}
	audit(t, s)
}

// TestDamagedData: files beyond repair are an error that names the directory, not the end of the
// process.
func TestDamagedData(t *testing.T) {
	for _, pattern := range []string{"member/snap/db", "member/wal/*.wal"} {
		o := Options{Dir: filepath.Join(t.TempDir(), "etcd"), Run: runDir(t), ServiceCIDRs: prefixes(t, defaultCIDRs...)}
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, web("web"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(o.Dir, pattern))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: files %v, %v", pattern, files, err)
		}
		f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{0x5a}, 12<<10), 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if s, err := Open(t.Context(), o); err == nil {
			s.Close()
			t.Errorf("%s: damaged, but opened", pattern)
		} else if !contains(err, o.Dir) {
			t.Errorf("%s: error %v does not name the directory", pattern, err)
		}
	}
}
