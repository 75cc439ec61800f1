package loader

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

type idEpoch struct{ id, epoch uint32 }

// apply brings the maps to what is wanted of some frontends, and returns how many stores that took.
func (w *world) apply(set ...registry.Resolved) int {
	w.t.Helper()
	for _, r := range set {
		w.resolve(r)
	}
	w.stores = 0
	if err := w.s.update(registry.Update{Set: set}); err != nil {
		w.t.Fatal(err)
	}
	stores := w.stores
	w.mustHold()
	return stores
}

// TestSyncChangesCost: each change writes what differs and nothing else. That ids and epochs stay, so that
// flows do, is mustHold's.
func TestSyncChangesCost(t *testing.T) {
	const maglev = 13 // slots of a table; see fakeChoice
	edit := func(i int, change func(*registry.Backend)) func(*registry.Resolved) {
		return func(r *registry.Resolved) { change(&r.Backends[i]) }
	}
	drain := func(b *registry.Backend) { b.Draining, b.Weight = true, 0 }
	serve := func(b *registry.Backend) { b.Draining, b.Weight = false, 1 }
	remove := func(r *registry.Resolved) { r.Backends = slices.Delete(r.Backends, 1, 2) }
	algorithm := func(a registry.Algorithm) func(*registry.Resolved) {
		return func(r *registry.Resolved) { r.Algorithm = a }
	}
	for _, test := range []struct {
		name   string
		first  []func(*registry.Resolved)
		then   func(*registry.Resolved)
		stores int
	}{
		{"nothing", nil, func(*registry.Resolved) {}, 0},
		{"the name", nil, func(r *registry.Resolved) { r.Service.Name = "other" }, 0},
		{"affinity", nil, func(r *registry.Resolved) { r.AffinityTimeout = 60 }, 1},
		{"a backend gone", nil, remove, 3 + 1 + 1},
		{"a backend come", []func(*registry.Resolved){remove}, func(r *registry.Resolved) {
			r.Backends = resolved("10.96.0.1", 80, 4).Backends
		}, 1 + 4 + 1},
		{"a backend drains", nil, edit(1, drain), 3 + 1 + 1},
		{"a backend serves again", []func(*registry.Resolved){edit(1, drain)}, edit(1, serve), 1 + 4 + 1},
		{"a draining backend gone", []func(*registry.Resolved){edit(1, drain)}, remove, 1},
		{"weight", nil, edit(1, func(b *registry.Backend) { b.Weight = 3 }), 6 + 1},
		{"the same weights, doubled", nil, func(r *registry.Resolved) {
			for i := range r.Backends {
				r.Backends[i].Weight *= 2
			}
		}, 0},
		{"random to Maglev", nil, algorithm(registry.AlgorithmMaglev), maglev + 1},
		{"Maglev to random", []func(*registry.Resolved){algorithm(registry.AlgorithmMaglev)},
			algorithm(registry.AlgorithmRandom), 4 + 1},
		{"a backend of Maglev gone", []func(*registry.Resolved){algorithm(registry.AlgorithmMaglev)}, remove, maglev + 1 + 1},
		{"shared, with a mark", nil, func(r *registry.Resolved) { r.Shared = true }, 1},
		{"unshared, without a mark", []func(*registry.Resolved){func(r *registry.Resolved) { r.Shared = true }},
			func(r *registry.Resolved) { r.Shared = false }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1, roomySizes())
			for i := range 20 {
				w.apply(resolved(fmt.Sprintf("10.96.1.%d", i), 80, 4))
			}
			r := resolved("10.96.0.1", 80, 4)
			for _, change := range test.first {
				change(&r)
			}
			w.apply(r)
			r.Backends = slices.Clone(r.Backends)
			test.then(&r)
			if got := w.apply(r); got != test.stores {
				t.Errorf("%d stores, want %d", got, test.stores)
			}
			w.stores = 0
			if err := w.s.update(w.snapshot()); err != nil || w.stores != 0 {
				t.Errorf("a snapshot that changes nothing: %d stores, %v", w.stores, err)
			}
		})
	}
}

// TestSyncSharesAddress: an address stays marked as long as one frontend has it for itself.
func TestSyncSharesAddress(t *testing.T) {
	w := newWorld(t, 1, roomySizes())
	shared, alone := resolved("10.96.0.1", 80, 2), resolved("10.96.0.1", 81, 2)
	shared.Shared = true
	mark := markerKey(netip.MustParseAddr("10.96.0.1"))
	marked := func(want bool) {
		t.Helper()
		if _, is := w.services[mark]; is != want {
			t.Errorf("marked: %v, want %v", is, want)
		}
	}
	w.apply(shared)
	marked(false)
	w.restart(roomySizes())
	w.apply(alone)
	marked(true)
	w.restart(roomySizes()) // which cannot tell that one is shared
	if err := w.s.update(w.snapshot()); err != nil {
		t.Fatal(err)
	}
	marked(true)
	delete(w.want, alone.Frontend)
	if err := w.s.update(registry.Update{Delete: []registry.Frontend{alone.Frontend}}); err != nil {
		t.Fatal(err)
	}
	w.mustHold()
	marked(false)
}

// TestSyncAfterNewConfig: an agent with another configuration rewrites what that changes, and keeps ids.
func TestSyncAfterNewConfig(t *testing.T) {
	w := newWorld(t, 1, roomySizes())
	plain, maglev := resolved("10.96.0.1", 80, 4), resolved("10.96.0.2", 80, 4)
	maglev.Algorithm = registry.AlgorithmMaglev
	w.apply(plain, maglev)
	w.restart(roomySizes())
	before := maps.Clone(w.services)
	w.s.choice.tables = []uint32{17}
	w.s.tables = repairing{w.fakeTables} // which know no size but one
	if err := w.s.update(w.snapshot()); err != nil {
		t.Fatal(err)
	}
	if was, is := before[toKey(plain.Frontend)], w.services[toKey(plain.Frontend)]; is != was {
		t.Errorf("the service without Maglev was %+v and is %+v", was, is)
	}
	if was, is := before[toKey(maglev.Frontend)], w.services[toKey(maglev.Frontend)]; is.Count != 17 || is.Id != was.Id {
		t.Errorf("the service with Maglev was %+v and is %+v", was, is)
	}
	w.mustKeep()

	w.s = newSyncer(repairing{w.fakeTables}, roomySizes(), choice{registry.AlgorithmMaglev, []uint32{17}}, w.grace, w.clock.now)
	w.s.restore(w.services, w.slots, w.fakeTables.backends)
	if err := w.s.update(w.snapshot()); err != nil {
		t.Fatal(err)
	}
	if is := w.services[toKey(plain.Frontend)]; is.Count != 17 || is.Algorithm != algorithmMaglev {
		t.Errorf("with Maglev as the default, the service that names none is %+v", is)
	}
	w.mustKeep()
}

// TestSyncTooManyForMaglev: more backends than slots are served at random, and that is told until it is over.
func TestSyncTooManyForMaglev(t *testing.T) {
	w := newWorld(t, 1, roomySizes())
	w.s.tables = repairing{w.fakeTables} // which expect a table
	r := resolved("10.96.0.1", 80, 14)
	r.Algorithm = registry.AlgorithmMaglev
	update := func(r registry.Resolved) error {
		return w.s.update(registry.Update{Set: []registry.Resolved{w.resolve(r)}})
	}
	for _, again := range []func() error{func() error { return update(r) }, w.s.retry} {
		if err := again(); err == nil || errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "maglevTableSize") {
			t.Fatalf("14 backends in 13 slots: %v", err)
		}
	}
	v := w.services[toKey(r.Frontend)]
	if v.Count != 14 || v.Algorithm != algorithmRandom {
		t.Errorf("the service is %+v, want 14 slots at random", v)
	}
	r.Backends = slices.Clone(r.Backends)
	r.Backends[3].Draining = true
	if err := update(r); err != nil {
		t.Fatal(err)
	}
	if v := w.services[toKey(r.Frontend)]; v.Count != 13 || v.Algorithm != algorithmMaglev {
		t.Errorf("the service is %+v, want a table of 13 slots", v)
	}
}

// TestSyncRestoresDraining: what a predecessor was about to do with a backend when it died is done after
// the first snapshot, which alone knows; until then its flows go on.
func TestSyncRestoresDraining(t *testing.T) {
	for name, then := range map[string]func(*registry.Resolved){
		"it drains":         func(r *registry.Resolved) { r.Backends[1].Draining = true },
		"it serves":         func(*registry.Resolved) {},
		"it is gone":        func(r *registry.Resolved) { r.Backends = slices.Delete(r.Backends, 1, 2) },
		"the service is no": nil,
	} {
		for _, state := range []uint8{backendActive, backendDraining} {
			t.Run(fmt.Sprintf("%s, was in state %d", name, state), func(t *testing.T) {
				w := newWorld(t, 1, roomySizes())
				r := resolved("10.96.0.1", 80, 3)
				r.Backends[1].Draining = true
				w.apply(r)
				id := w.s.held[r.Frontend].members[1].id
				before := w.backends.backend(id)
				w.backends.turnBackend(id, state)
				w.restart(roomySizes())
				if now := w.backends.backend(id); now.State != state || now.Epoch != before.Epoch {
					t.Fatalf("before the snapshot the backend was %+v and is %+v", before, now)
				}
				r.Backends = slices.Clone(r.Backends)
				if r.Backends[1].Draining = false; then == nil {
					delete(w.want, r.Frontend)
				} else {
					then(&r)
					w.resolve(r)
				}
				if err := w.s.update(w.snapshot()); err != nil {
					t.Fatal(err)
				}
				w.mustHold()
			})
		}
	}
}

// TestCanonicalBackends: those that are in canonical form are not copied; all others become so, and stay what they were.
func TestCanonicalBackends(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:80")
	mapped := netip.MustParseAddrPort("[::ffff:10.0.0.1]:80")
	want := registry.Evenly(a, b)
	if got := canonicalBackends(want); &got[0] != &want[0] {
		t.Error("a canonical list was copied")
	}
	for _, addrs := range [][]netip.AddrPort{{b, a}, {a, a, b}, {mapped, b}, {b, mapped, a}} {
		given := registry.Evenly(addrs...)
		if got := canonicalBackends(given); !slices.Equal(got, want) || given[0].AddrPort != addrs[0] {
			t.Errorf("%v becomes %v, and is %v", addrs, got, given)
		}
	}
}
