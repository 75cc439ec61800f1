package loader

import (
	"errors"
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
	want map[registry.Frontend]registry.Resolved
	kept map[registry.Frontend]map[netip.AddrPort]idEpoch // as of the last time that all was there
	rnd  *rand.Rand
}

func newWorld(t *testing.T, seed uint64, sizes Sizes) *world {
	w := &world{
		fakeTables: newFake(t, sizes), want: map[registry.Frontend]registry.Resolved{},
		rnd: rand.New(rand.NewPCG(seed, 3)),
	}
	w.desired = func(f registry.Frontend) (registry.Resolved, bool) { b, ok := w.want[f]; return b, ok }
	w.s = newSyncer(w.fakeTables, sizes, fakeChoice, w.grace, w.clock.now)
	return w
}

// restart is what a new agent does with what the old one left.
func (w *world) restart(sizes Sizes) {
	// Programs that were running are over: the loader waits for that.
	clear(w.slotSeen)
	clear(w.idSeen)
	w.s = newSyncer(w.fakeTables, sizes, fakeChoice, w.grace, w.clock.now)
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
		if w.rnd.IntN(3) > 0 {
			continue
		}
		b := registry.Backend{
			AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}), 8080),
			Weight:   uint16(1 + w.rnd.IntN(3)), Draining: w.rnd.IntN(4) == 0,
		}
		if b.Draining {
			b.Weight = 0
		}
		all = append(all, b)
	}
	return all
}

// some makes up what is wanted of a frontend.
func (w *world) some(f registry.Frontend) registry.Resolved {
	r := registry.Resolved{Frontend: f, Backends: w.someBackends(), Shared: w.rnd.IntN(4) == 0}
	r.Algorithm = []registry.Algorithm{"", registry.AlgorithmRandom, registry.AlgorithmMaglev}[w.rnd.IntN(3)]
	r.AffinityTimeout = uint32(w.rnd.IntN(3))
	if old, there := w.want[f]; there && w.rnd.IntN(2) == 0 {
		r.Backends = old.Backends // and so only what is around them differs, if anything
	}
	return r
}

func (w *world) resolve(r registry.Resolved) registry.Resolved {
	w.want[r.Frontend] = r
	return r
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
			u.Set = append(u.Set, w.resolve(w.some(f)))
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
	for _, r := range w.want {
		u.Set = append(u.Set, r)
	}
	return u
}

// mustHold fails the test unless the maps hold what is wanted and nothing is leaked. What stayed since the
// last time has the ids and epochs that it had.
func (w *world) mustHold() {
	w.t.Helper()
	vips := map[netip.Addr]bool{}
	clear(w.settled)
	for f, r := range w.want {
		v, there := w.services[toKey(f)]
		if !there {
			w.t.Fatalf("%s is missing", describe(f))
		}
		w.mustBeWanted(toKey(f), v)
		if w.settled[f] = r.Shared; !r.Shared {
			vips[f.Addr] = true
		}
	}
	for k := range w.services {
		if isMarker(k) && !vips[fromAddress(k.Addr)] {
			w.t.Fatalf("%s is marked, but no service has it for itself", describeKey(k))
		}
	}
	if len(w.services) != len(w.want)+len(vips) {
		w.t.Fatalf("%d entries, want %d and %d marks", len(w.services), len(w.want), len(vips))
	}
	w.look()
	w.mustOwnAll()
	w.mustKeep()
}

// mustOwnAll fails the test unless what is taken of the maps is what the wanted frontends take.
func (w *world) mustOwnAll() {
	w.t.Helper()
	var active, draining, slots uint32
	for _, r := range w.want {
		for _, b := range r.Backends {
			if b.Draining {
				draining++
			} else {
				active++
			}
		}
		if n := len(slowRun(r)); n > 0 {
			slots += 1 << orderOf(uint32(n))
		}
	}
	states := map[uint8]uint32{}
	for id := uint32(1); id < w.backends.entries; id++ {
		states[w.backends.backend(id).State]++
	}
	if states[backendActive] != active || states[backendDraining] != draining ||
		w.s.backendIDs.live() != active+draining || w.s.draining != int(draining) {
		w.t.Fatalf("%d backends active, %d draining (%d are known of), %d ids taken; want %d and %d",
			states[backendActive], states[backendDraining], w.s.draining, w.s.backendIDs.live(), active, draining)
	}
	if got := w.s.runs.used - w.s.runs.idle; got != slots {
		w.t.Fatalf("%d slots taken, want %d", got, slots)
	}
	if got := w.s.serviceIDs.live(); got != uint32(len(w.want)) {
		w.t.Fatalf("%d service ids taken, want %d", got, len(w.want))
	}
}

// mustKeep fails the test unless each backend has the entry that it had before, and the state that it
// should have now.
func (w *world) mustKeep() {
	w.t.Helper()
	before := w.kept
	w.kept = map[registry.Frontend]map[netip.AddrPort]idEpoch{}
	for f := range w.want {
		w.kept[f] = map[netip.AddrPort]idEpoch{}
	}
	for id := uint32(1); id < w.backends.entries; id++ {
		b := w.backends.backend(id)
		if b.State == backendFree {
			continue
		}
		f, addr := w.s.byID[b.Service], netip.AddrPortFrom(fromAddress(b.Addr), b.Port)
		now := idEpoch{id, b.Epoch}
		if old, was := before[f][addr]; was && old != now {
			w.t.Fatalf("%s: backend %s was %+v and is %+v", describe(f), addr, old, now)
		}
		w.kept[f][addr] = now
		if !slices.ContainsFunc(w.want[f].Backends, func(want registry.Backend) bool {
			return want.AddrPort == addr && want.Draining == (b.State == backendDraining)
		}) {
			w.t.Fatalf("%s: backend %s is in state %d, want %v", describe(f), addr, b.State, w.want[f].Backends)
		}
	}
}

func roomySizes() Sizes {
	s := smallSizes()
	s.Services, s.Slots, s.Backends = 512, 16384, 4096
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
			if w.rnd.IntN(20) > 0 {
				continue
			}
			w.restart(roomySizes())
			w.stores = 0
			if err := w.s.update(w.snapshot()); err != nil || w.stores != 0 {
				t.Fatalf("seed %d: a snapshot that changes nothing after a restart: %d stores, %v", seed, w.stores, err)
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

func (k killed) turnBackend(id uint32, state uint8) error {
	k.die()
	return k.fakeTables.turnBackend(id, state)
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
		{"slots", func(s *Sizes) { s.Slots = 32 }},
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
					for f, h := range w.s.held {
						w.settled[f] = h.shared // of what did not fit the old state stays
					}
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
					w.resolve(r)
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
	for f, r := range w.want {
		v, there := w.services[toKey(f)]
		if !there || v.AffinityTimeout != r.AffinityTimeout || !slices.Equal(w.read(v), slowRun(r)) {
			n++
		}
	}
	return n
}

// TestSyncUnmarks: a VIP whose service found no room does not stay marked.
func TestSyncUnmarks(t *testing.T) {
	sizes := roomySizes()
	sizes.Services = 3
	w := newWorld(t, 1, sizes)
	a, b := resolved("10.96.0.1", 80, 1), resolved("10.96.0.2", 80, 1)
	w.resolve(a)
	w.resolve(b)
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
		u := registry.Update{Set: []registry.Resolved{w.resolve(registry.Resolved{
			Frontend: r.Frontend, Backends: r.Backends[i%2:],
		})}}
		if err := w.s.update(u); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}
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
func (nullTables) holds(uint32, []uint32) bool                          { return false }
func (nullTables) turnBackend(uint32, uint8) error                      { return nil }
func (nullTables) putBackend(uint32, backend) error                     { return nil }
func (nullTables) freeBackend(uint32) error                             { return nil }
func (nullTables) putServices(k []serviceKey, _ []service) (int, error) { return len(k), nil }
func (nullTables) deleteServices(k []serviceKey) (int, error)           { return len(k), nil }
func (nullTables) resetStats(uint32) error                              { return nil }
func (nullTables) wait() error                                          { return nil }
