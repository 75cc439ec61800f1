package loader

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// world is a syncer on fake tables, with the desired state that the slow obvious way keeps.
type world struct {
	*fakeTables
	s    *syncer
	want map[registry.Frontend][]registry.Backend
	rnd  *rand.Rand
}

func newWorld(t *testing.T, seed uint64, sizes Sizes) *world {
	w := &world{
		fakeTables: newFake(t, sizes), want: map[registry.Frontend][]registry.Backend{},
		rnd: rand.New(rand.NewPCG(seed, 3)),
	}
	w.desired = func(f registry.Frontend) ([]registry.Backend, bool) { b, ok := w.want[f]; return b, ok }
	w.s = newSyncer(w.fakeTables, sizes, w.grace, w.clock.now)
	return w
}

// restart is what a new agent does with what the old one left.
func (w *world) restart(sizes Sizes) {
	// Programs that were running are over: the loader waits for that.
	clear(w.slotSeen)
	clear(w.idSeen)
	w.s = newSyncer(w.fakeTables, sizes, w.grace, w.clock.now)
	for _, wrong := range w.s.restore(w.services, w.slots, w.backends) {
		w.t.Fatalf("restore: %v", wrong)
	}
	w.look()
}

// some returns a few frontends and backends from a small world, so that they meet often.
func (w *world) frontend() registry.Frontend {
	vips := []string{"10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00:10:96::1"}
	return registry.Frontend{
		Addr: netip.MustParseAddr(vips[w.rnd.IntN(len(vips))]), Port: uint16(80 + w.rnd.IntN(3)),
		Protocol: []registry.Protocol{registry.TCP, registry.UDP}[w.rnd.IntN(2)],
	}
}

func (w *world) someBackends() []registry.Backend {
	all := []registry.Backend{}
	for i := range 8 {
		if w.rnd.IntN(3) == 0 {
			all = append(all, registry.Evenly(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}), 8080))...)
		}
	}
	return all
}

func (w *world) resolve(f registry.Frontend, b []registry.Backend) registry.Resolved {
	w.want[f] = b
	return registry.Resolved{Frontend: f, Backends: b}
}

// update makes up a change and notes what is wanted after it.
func (w *world) update() registry.Update {
	var u registry.Update
	if w.rnd.IntN(10) == 0 {
		u.Snapshot = true
		clear(w.want)
	}
	for range w.rnd.IntN(4) {
		f := w.frontend()
		switch {
		case w.rnd.IntN(3) > 0:
			u.Set = slices.DeleteFunc(u.Set, func(r registry.Resolved) bool { return r.Frontend == f })
			u.Delete = slices.DeleteFunc(u.Delete, func(g registry.Frontend) bool { return g == f })
			u.Set = append(u.Set, w.resolve(f, w.someBackends()))
		case !u.Snapshot:
			u.Set = slices.DeleteFunc(u.Set, func(r registry.Resolved) bool { return r.Frontend == f })
			u.Delete = append(u.Delete, f)
			delete(w.want, f)
		}
	}
	return u
}

func (w *world) snapshot() registry.Update {
	u := registry.Update{Snapshot: true}
	for f, b := range w.want {
		u.Set = append(u.Set, registry.Resolved{Frontend: f, Backends: b})
	}
	return u
}

// mustHold fails the test unless the maps hold what is wanted and nothing is leaked.
func (w *world) mustHold() {
	w.t.Helper()
	vips := map[netip.Addr]bool{}
	for f, b := range w.want {
		vips[f.Addr] = true
		v, there := w.services[toKey(f)]
		if found := w.read(v); !there || !slices.Equal(found, b) {
			w.t.Fatalf("%s: %v (there: %v), want %v", describe(f), found, there, b)
		}
	}
	if len(w.services) != len(w.want)+len(vips) {
		w.t.Fatalf("%d entries, want %d and %d marks", len(w.services), len(w.want), len(vips))
	}
	var backends, slots uint32
	for _, b := range w.want {
		backends += uint32(len(b))
		if len(b) > 0 {
			slots += 1 << orderOf(uint32(len(b)))
		}
	}
	active := uint32(0)
	for id := uint32(1); id < w.backends.entries; id++ {
		if w.backends.backend(id).State == backendActive {
			active++
		}
	}
	if active != backends || w.s.backendIDs.live() != backends {
		w.t.Fatalf("%d backends active, %d ids taken, want %d", active, w.s.backendIDs.live(), backends)
	}
	if got := w.s.runs.used - w.s.runs.idle; got != slots {
		w.t.Fatalf("%d slots taken, want %d", got, slots)
	}
	if got := w.s.serviceIDs.live(); got != uint32(len(w.want)) {
		w.t.Fatalf("%d service ids taken, want %d", got, len(w.want))
	}
}

func roomySizes() Sizes {
	s := smallSizes()
	s.Services, s.Slots, s.Backends = 512, 8192, 4096
	return s
}

func TestSyncAgainstModel(t *testing.T) {
	for seed := range uint64(30) {
		w := newWorld(t, seed, roomySizes())
		for range 200 {
			w.clock.t = w.clock.t.Add(time.Duration(w.rnd.IntN(2000)) * time.Millisecond)
			if err := w.s.update(w.update()); err != nil {
				t.Fatal(err)
			}
			w.mustHold()
		}
	}
}

// TestSyncFailsAnywhere lets each store of an update fail in turn: programs never see a mix, and a
// retry gets there.
func TestSyncFailsAnywhere(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, roomySizes())
		for range 60 {
			w.clock.t = w.clock.t.Add(time.Second)
			// The store that fails is any of those that there will be, and now and then none.
			w.stores, w.failAt = 0, 1+w.rnd.IntN(20)
			err := w.s.update(w.update())
			if failed := w.stores >= w.failAt; failed && err == nil && w.s.pending() {
				t.Fatalf("seed %d: store %d failed, something is pending, but no error", seed, w.failAt)
			} else if !failed && err != nil {
				t.Fatal(err)
			}
			w.failAt = 0
			if err := w.s.retry(); err != nil {
				t.Fatalf("seed %d: retry: %v", seed, err)
			}
			w.mustHold()
		}
	}
}

// TestSyncKilledAnywhere ends the syncer after each store of an update in turn. Its successor reads
// back what there is, and a snapshot brings it there.
func TestSyncKilledAnywhere(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, roomySizes())
		for range 60 {
			w.clock.t = w.clock.t.Add(time.Second)
			w.stores = 0
			die := 1 + w.rnd.IntN(20)
			u := w.update()
			func() {
				defer func() {
					if r := recover(); r != nil && r != errInjected {
						panic(r)
					}
				}()
				w.s.tables = killed{w.fakeTables, die}
				if err := w.s.update(u); err != nil {
					t.Fatal(err)
				}
			}()
			w.restart(roomySizes())
			before := maps.Clone(w.services)
			if err := w.s.update(w.snapshot()); err != nil {
				t.Fatal(err)
			}
			w.mustHold()
			for f := range w.want {
				old, there := before[toKey(f)]
				if there && old.Id != w.services[toKey(f)].Id {
					t.Fatalf("%s: id %d became %d", describe(f), old.Id, w.services[toKey(f)].Id)
				}
			}
		}
	}
}

// killed is tables that end their user, by a panic, at some store.
type killed struct {
	*fakeTables
	at int
}

func (k killed) die() {
	if k.stores >= k.at {
		panic(errInjected)
	}
}

func (k killed) putSlots(first uint32, ids []uint32) error {
	k.die()
	return k.fakeTables.putSlots(first, ids)
}

func (k killed) putBackend(id uint32, b backend) error {
	k.die()
	return k.fakeTables.putBackend(id, b)
}

func (k killed) freeBackend(id uint32) error {
	k.die()
	return k.fakeTables.freeBackend(id)
}

func (k killed) putServices(keys []serviceKey, values []service) (int, error) {
	k.die()
	if len(keys) == 0 {
		return 0, nil
	}
	return k.fakeTables.putServices(keys[:1], values[:1])
}

func (k killed) deleteServices(keys []serviceKey) (int, error) {
	k.die()
	if len(keys) == 0 {
		return 0, nil
	}
	return k.fakeTables.deleteServices(keys[:1])
}

// TestSyncFull: what finds no room is named, the rest is done, and room is used when it appears.
func TestSyncFull(t *testing.T) {
	for _, test := range []struct {
		name  string
		sizes func(*Sizes)
	}{
		{"services", func(s *Sizes) { s.Services = 12 }},
		{"slots", func(s *Sizes) { s.Slots = 16 }},
		{"backends", func(s *Sizes) { s.Backends = 12 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			sizes := roomySizes()
			test.sizes(&sizes)
			for seed := range uint64(20) {
				w := newWorld(t, seed, sizes)
				full := false
				for range 100 {
					w.clock.t = w.clock.t.Add(time.Second)
					err := w.s.update(w.update())
					if err != nil && !errors.Is(err, ErrFull) {
						t.Fatal(err)
					}
					full = full || err != nil
					if missing := w.missing(); (missing > 0) != (err != nil) {
						t.Fatalf("%d frontends are missing, error: %v", missing, err)
					}
				}
				if !full {
					t.Error("never full")
				}
				// Make room.
				u := w.snapshot()
				u.Set = u.Set[:min(1, len(u.Set))]
				clear(w.want)
				for _, r := range u.Set {
					w.resolve(r.Frontend, r.Backends)
				}
				_ = w.s.update(u)
				w.clock.t = w.clock.t.Add(time.Minute)
				if err := w.s.retry(); err != nil {
					t.Fatal(err)
				}
				w.mustHold()
			}
		})
	}
}

// missing counts the frontends that are not as they should be.
func (w *world) missing() (n int) {
	for f, b := range w.want {
		v, there := w.services[toKey(f)]
		if !there || !slices.Equal(w.read(v), b) {
			n++
		}
	}
	return n
}

// TestSyncKeepsWhatStays: a change of one backend leaves the ids and epochs of the others alone, so
// that their flows stay warm, and writes nothing else.
func TestSyncKeepsWhatStays(t *testing.T) {
	w := newWorld(t, 1, roomySizes())
	var u registry.Update
	u.Snapshot = true
	for i := range 20 {
		r := resolved(fmt.Sprintf("10.96.1.%d", i), 80, 4)
		u.Set = append(u.Set, w.resolve(r.Frontend, r.Backends))
	}
	if err := w.s.update(u); err != nil {
		t.Fatal(err)
	}
	f := u.Set[3].Frontend
	before := w.idsOf(f)
	w.stores = 0
	if err := w.s.update(registry.Update{Set: []registry.Resolved{
		w.resolve(f, slices.Delete(slices.Clone(u.Set[3].Backends), 1, 2)),
	}}); err != nil {
		t.Fatal(err)
	}
	w.mustHold()
	gone := before[1]
	if got, want := w.idsOf(f), slices.Delete(slices.Clone(before), 1, 2); !slices.Equal(got, want) {
		t.Errorf("backends %v became %v, want %v", before, got, want)
	}
	if b := w.backends.backend(gone.id); b.State != backendFree || b.Epoch == gone.epoch {
		t.Errorf("the backend that went has state %d, epoch %d after %d", b.State, b.Epoch, gone.epoch)
	}
	// Three slots, one service, one backend freed.
	if w.stores != 5 {
		t.Errorf("%d stores for one backend less, want 5", w.stores)
	}
	w.stores = 0
	if err := w.s.update(w.snapshot()); err != nil || w.stores != 0 {
		t.Errorf("a snapshot that changes nothing: %d stores, %v", w.stores, err)
	}
}

// TestSyncUnmarks: a VIP whose service found no room does not stay marked.
func TestSyncUnmarks(t *testing.T) {
	sizes := roomySizes()
	sizes.Services = 3
	w := newWorld(t, 1, sizes)
	a, b := resolved("10.96.0.1", 80, 1), resolved("10.96.0.2", 80, 1)
	w.resolve(a.Frontend, a.Backends)
	w.resolve(b.Frontend, b.Backends)
	if err := w.s.update(w.snapshot()); !errors.Is(err, ErrFull) {
		t.Fatalf("two VIPs in three entries: %v", err)
	}
	if len(w.services) != 2 {
		t.Errorf("services holds %v, want one service and one mark", w.services)
	}
}

// TestSyncEndsRest: more changes than there is room to rest for are no reason to be full.
func TestSyncEndsRest(t *testing.T) {
	sizes := roomySizes()
	sizes.Slots, sizes.Backends = 64, 64
	w := newWorld(t, 1, sizes)
	r := resolved("10.96.0.1", 80, 9)
	for i := range 100 { // and no time passes
		w.resolve(r.Frontend, r.Backends[i%2:])
		u := registry.Update{Set: []registry.Resolved{{Frontend: r.Frontend, Backends: r.Backends[i%2:]}}}
		if err := w.s.update(u); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}
}

type idEpoch struct{ id, epoch uint32 }

func (w *world) idsOf(f registry.Frontend) (ids []idEpoch) {
	v := w.services[toKey(f)]
	for i := range v.Count {
		id := w.slots.load32(v.First+i, 0)
		ids = append(ids, idEpoch{id, w.backends.backend(id).Epoch})
	}
	return ids
}

func BenchmarkSyncOne(b *testing.B) {
	sizes := roomySizes()
	w := newWorld(nil, 1, sizes)
	w.s.tables = nullTables{}
	r := resolved("10.96.0.1", 80, 100)
	for i := range b.N {
		w.clock.t = w.clock.t.Add(time.Second)
		u := registry.Update{Set: []registry.Resolved{r}}
		u.Set[0].Backends = r.Backends[i%2:]
		if err := w.s.update(u); err != nil {
			b.Fatal(err)
		}
	}
}

// nullTables take everything.
type nullTables struct{}

func (nullTables) putSlots(uint32, []uint32) error                      { return nil }
func (nullTables) putBackend(uint32, backend) error                     { return nil }
func (nullTables) freeBackend(uint32) error                             { return nil }
func (nullTables) putServices(k []serviceKey, _ []service) (int, error) { return len(k), nil }
func (nullTables) deleteServices(k []serviceKey) (int, error)           { return len(k), nil }
func (nullTables) resetStats(uint32) error                              { return nil }
func (nullTables) wait() error                                          { return nil }
