package eureka

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// memory is a store without one.
type memory struct {
	mu      sync.Mutex
	rev     int64
	items   map[registry.InstanceID]registry.Instance
	batches chan registry.Batch
}

func newMemory(items ...registry.Instance) *memory {
	m := &memory{items: map[registry.InstanceID]registry.Instance{}, batches: make(chan registry.Batch, 16)}
	b := registry.Batch{Snapshot: true}
	for i := range items {
		m.items[items[i].InstanceID] = items[i]
		b.Changes = append(b.Changes, registry.Change{Instance: &items[i]})
	}
	m.batches <- b
	return m
}

func (m *memory) Watch(ctx context.Context) <-chan registry.Batch {
	out := make(chan registry.Batch)
	go func() {
		defer close(out)
		for {
			select {
			case b := <-m.batches:
				out <- b
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (m *memory) write(i registry.Instance, deleted bool) int64 {
	m.rev++
	m.batches <- registry.Batch{Revision: m.rev, Changes: []registry.Change{{Instance: &i, Deleted: deleted}}}
	return m.rev
}

func (m *memory) Register(_ context.Context, i registry.Instance) (registry.Instance, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i.Updated = time.UnixMilli(m.rev + 1)
	m.items[i.InstanceID] = i
	return i, m.write(i, false), nil
}

func (m *memory) Renew(_ context.Context, id registry.InstanceID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.items[id]; !ok {
		return registry.ErrNotFound
	}
	return nil
}

func (m *memory) Update(ctx context.Context, id registry.InstanceID, edit func(*registry.Instance) error) (registry.Instance, int64, error) {
	m.mu.Lock()
	i, ok := m.items[id]
	m.mu.Unlock()
	if !ok {
		return i, 0, registry.ErrNotFound
	}
	i.Metadata = maps.Clone(i.Metadata)
	if err := edit(&i); err != nil {
		return i, 0, err
	}
	return m.Register(ctx, i)
}

func (m *memory) Deregister(_ context.Context, id registry.InstanceID) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.items[id]
	if !ok {
		return 0, registry.ErrNotFound
	}
	delete(m.items, id)
	return m.write(i, true), nil
}

// serve runs a server on a store in memory.
func serve(t testing.TB, m *memory) *Server {
	t.Helper()
	own := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	s := New(Options{Source: m, Registrar: m, Node: "n", Guard: &access.Guard{Own: func(netip.Addr) []netip.Addr { return own }}})
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		stop()
		group.Wait()
	})
	if err := s.Wait(ctx, 0); err != nil {
		t.Fatal(err)
	}
	return s
}

func instances(n, apps int) []registry.Instance {
	list := make([]registry.Instance, n)
	for i := range list {
		app := fmt.Sprintf("service-%d", i%apps)
		w := &wire.Instance{
			InstanceID: fmt.Sprintf("host-%d.example:%s:8080", i, app), HostName: fmt.Sprintf("host-%d.example", i), App: strings.ToUpper(app),
			IPAddr: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Status: wire.Up, Overridden: wire.Unknown,
			Port: wire.Port{Number: 8080, Enabled: true}, SecurePort: wire.Port{Number: 443}, CountryID: 1, DataCenter: &wire.DataCenter{Name: wire.MyOwn},
			Lease: wire.Lease{Renewal: 30, Duration: 90}, Metadata: map[string]string{"management.port": "8080", "zone": fmt.Sprintf("z%d", i%3)},
			HomePage: fmt.Sprintf("http://host-%d.example:8080/", i), StatusPage: fmt.Sprintf("http://host-%d.example:8080/actuator/info", i),
			HealthCheck: fmt.Sprintf("http://host-%d.example:8080/actuator/health", i), VIP: app, SecureVIP: app, LastDirty: int64(1 + i),
		}
		var err error
		if list[i], err = register("default", w, nil, false, time.UnixMilli(1)); err != nil {
			panic(err)
		}
		list[i].Registered, list[i].Updated = time.UnixMilli(1), time.UnixMilli(1)
	}
	return list
}
