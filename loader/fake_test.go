package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/sluice-net/sluice/registry"
)

// fakeTables are tables in memory that look over the syncer's shoulder: after each single store they
// look at everything as a program would. They fail when told to.
type fakeTables struct {
	t        *testing.T
	clock    *clock
	grace    time.Duration
	limit    int // entries that services has room for
	services map[serviceKey]service
	slots    *memory
	backends *memory

	desired   func(registry.Frontend) (registry.Resolved, bool)
	settled   map[registry.Frontend]bool      // whether it was shared when the maps were last complete
	published map[serviceKey][]netip.AddrPort // what each slot led to when the service was written
	slotSeen  map[uint32]time.Time            // when a program could last see that slot
	idSeen    map[uint32]time.Time            // the same of a backend id

	stores int // how many there were
	failAt int // the store that fails, counted from 1; 0: none
}

var errInjected = errors.New("injected")

func heapMemory(entries, size uint32) *memory {
	b := make([]byte, entries*size)
	m := &memory{stride: uintptr(size), entries: entries, shift: 31, windows: make([]atomic.Pointer[byte], 1)}
	m.windows[0].Store(&b[0])
	return m
}

// heapBytes is all of what heapMemory made.
func heapBytes(m *memory) []byte {
	return unsafe.Slice(m.windows[0].Load(), uintptr(m.entries)*m.stride)
}

func newFake(t *testing.T, s Sizes) *fakeTables {
	return &fakeTables{
		t: t, clock: &clock{time.Unix(1, 0)}, grace: 5 * time.Second, limit: int(s.Services),
		services: map[serviceKey]service{},
		slots:    heapMemory(s.Slots, 8), backends: heapMemory(s.Backends, 32),
		settled: map[registry.Frontend]bool{}, published: map[serviceKey][]netip.AddrPort{},
		slotSeen: map[uint32]time.Time{}, idSeen: map[uint32]time.Time{},
	}
}

// store counts one store and says whether it is to fail.
func (f *fakeTables) store() error {
	f.stores++
	if f.stores == f.failAt {
		return errInjected
	}
	return nil
}

// read returns what a program finds behind a service's entry, slot by slot.
func (f *fakeTables) read(v service) (found []netip.AddrPort) {
	for i := range v.Count {
		slot := v.First + i
		id := f.slots.load32(slot, 0)
		b := f.backends.backend(id)
		f.slotSeen[slot], f.idSeen[id] = f.clock.t, f.clock.t
		if b.State != backendActive || b.Service != v.Id {
			f.t.Fatalf("slot %d: backend %d is state %d of service %d, want active of %d",
				slot, id, b.State, b.Service, v.Id)
		}
		found = append(found, netip.AddrPortFrom(fromAddress(b.Addr), b.Port))
	}
	return found
}

// look reads everything as programs do.
func (f *fakeTables) look() {
	f.t.Helper()
	for k, v := range f.services {
		if isMarker(k) {
			continue
		}
		if _, marked := f.services[serviceKey{Addr: k.Addr}]; !marked && f.wantsMark(fromKey(k)) {
			f.t.Fatalf("%s: its VIP is not marked", describeKey(k))
		}
		if found := f.read(v); !slices.Equal(found, f.published[k]) {
			f.t.Fatalf("%s: leads to %v, was published with %v", describeKey(k), found, f.published[k])
		}
	}
}

// wantsMark says whether the frontend's address must be marked: it is and was the service's alone.
func (f *fakeTables) wantsMark(of registry.Frontend) bool {
	want, wanted := f.desired(of)
	return wanted && !want.Shared && !f.settled[of]
}

// mustBeWanted fails the test unless an entry is what is wanted, and leads there.
func (f *fakeTables) mustBeWanted(k serviceKey, v service) {
	f.t.Helper()
	want, wanted := f.desired(fromKey(k))
	if !wanted {
		f.t.Fatalf("%s: published, but not wanted", describeKey(k))
	}
	if found := f.read(v); !slices.Equal(found, slowRun(want)) {
		f.t.Fatalf("%s: leads to %v, want %v", describeKey(k), found, slowRun(want))
	}
	algorithm := uint8(algorithmRandom)
	if want.Algorithm == registry.AlgorithmMaglev {
		algorithm = algorithmMaglev
	}
	if v.Algorithm != algorithm || v.AffinityTimeout != want.AffinityTimeout {
		f.t.Fatalf("%s: algorithm %d, affinity %d s; want %d, %d s", describeKey(k), v.Algorithm,
			v.AffinityTimeout, algorithm, want.AffinityTimeout)
	}
}

// fakeChoice is of services that name no algorithm; slowMaglev wants a small prime.
var fakeChoice = choice{algorithm: registry.AlgorithmRandom, tables: []uint32{13}}

// slowRun says in the obvious way what each slot of a service's run leads to.
func slowRun(r registry.Resolved) (run []netip.AddrPort) {
	var active []registry.Backend
	for _, b := range r.Backends {
		if !b.Draining {
			active = append(active, b)
		}
	}
	if r.Algorithm == registry.AlgorithmMaglev {
		return slowMaglev(active, fakeChoice.largest())
	}
	divisor := uint16(registry.MaxWeight)
	for slices.ContainsFunc(active, func(b registry.Backend) bool { return b.Weight%divisor != 0 }) {
		divisor--
	}
	for _, b := range active {
		run = append(run, slices.Repeat([]netip.AddrPort{b.AddrPort}, int(b.Weight/divisor))...)
	}
	return run
}

func (f *fakeTables) rests(seen map[uint32]time.Time, i uint32) bool {
	at, was := seen[i]
	return was && f.clock.t.Sub(at) < f.grace
}

func (f *fakeTables) putSlots(first uint32, ids []uint32) error {
	for i, id := range ids {
		slot := first + uint32(i)
		if err := f.store(); err != nil {
			return err
		}
		if f.rests(f.slotSeen, slot) {
			f.t.Fatalf("slot %d written while a program may still read it", slot)
		}
		f.slots.store32(slot, 0, id)
		f.look()
	}
	return nil
}

func (f *fakeTables) holds(first uint32, ids []uint32) bool { return f.slots.holds(first, ids) }

func (f *fakeTables) turnBackend(id uint32, state uint8) error {
	if err := f.store(); err != nil {
		return err
	}
	before := f.backends.backend(id)
	f.backends.turnBackend(id, state)
	after := f.backends.backend(id)
	if before.State == state || before.State == backendFree || after.Epoch != before.Epoch {
		f.t.Fatalf("turned backend %d from state %d to %d, epoch %d to %d", id, before.State, state,
			before.Epoch, after.Epoch)
	}
	f.look()
	return nil
}

func (f *fakeTables) putBackend(id uint32, b backend) error {
	if err := f.store(); err != nil {
		return err
	}
	if f.rests(f.idSeen, id) {
		f.t.Fatalf("backend %d written while a program may still read it", id)
	}
	f.backends.fillBackend(id, b)
	f.look()
	return nil
}

func (f *fakeTables) freeBackend(id uint32) error {
	if err := f.store(); err != nil {
		return err
	}
	before := f.backends.backend(id).Epoch
	f.backends.freeBackend(id)
	if after := f.backends.backend(id); after.Epoch == before || after.State != backendFree {
		f.t.Fatalf("freed backend %d: epoch %d after %d, state %d", id, after.Epoch, before, after.State)
	}
	f.look()
	return nil
}

func (f *fakeTables) putServices(keys []serviceKey, values []service) (int, error) {
	for i, k := range keys {
		if err := f.store(); err != nil {
			return i, err
		}
		if _, there := f.services[k]; !there && len(f.services) == f.limit {
			return i, fmt.Errorf("services: %w", ErrFull)
		}
		f.services[k] = values[i]
		if !isMarker(k) {
			f.published[k] = f.read(values[i])
			f.mustBeWanted(k, values[i])
		}
		f.look()
	}
	return len(keys), nil
}

func (f *fakeTables) deleteServices(keys []serviceKey) (int, error) {
	for i, k := range keys {
		if err := f.store(); err != nil {
			return i, err
		}
		if _, wanted := f.desired(fromKey(k)); wanted && !isMarker(k) {
			f.t.Fatalf("%s: deleted, but wanted", describeKey(k))
		}
		delete(f.services, k)
		f.look()
	}
	return len(keys), nil
}

func (f *fakeTables) resetStats(uint32) error { return f.store() }

// wait lets no program go on reading what it read before.
func (f *fakeTables) wait() error {
	if err := f.store(); err != nil {
		return err
	}
	clear(f.slotSeen)
	clear(f.idSeen)
	return nil
}
