package loader

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
)

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
