package loader

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

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
		w.s.backendIDs.live() != active+draining || w.s.use.draining != int(draining) {
		w.t.Fatalf("%d backends active, %d draining (%d are known of), %d ids taken; want %d and %d",
			states[backendActive], states[backendDraining], w.s.use.draining, w.s.backendIDs.live(), active, draining)
	}
	if want := (use{slots, active + draining, int(draining)}); w.s.use != want {
		w.t.Fatalf("what is in use is counted as %+v, want %+v", w.s.use, want)
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
