package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

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

	desired   func(registry.Frontend) ([]registry.Backend, bool)
	published map[serviceKey][]registry.Backend // what each service led to when it was written
	slotSeen  map[uint32]time.Time              // when a program could last see that slot
	idSeen    map[uint32]time.Time              // the same of a backend id

	stores int // how many there were
	failAt int // the store that fails, counted from 1; 0: none
}

var errInjected = errors.New("injected")

func heapMemory(entries, size uint32) *memory {
	return &memory{b: make([]byte, entries*size), stride: uintptr(size), entries: entries}
}

func newFake(t *testing.T, s Sizes) *fakeTables {
	return &fakeTables{
		t: t, clock: &clock{time.Unix(1, 0)}, grace: 5 * time.Second, limit: int(s.Services),
		services: map[serviceKey]service{},
		slots:    heapMemory(s.Slots, 8), backends: heapMemory(s.Backends, 32),
		published: map[serviceKey][]registry.Backend{},
		slotSeen:  map[uint32]time.Time{}, idSeen: map[uint32]time.Time{},
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

// read returns what a program finds behind a service's entry.
func (f *fakeTables) read(v service) (found []registry.Backend) {
	for i := range v.Count {
		slot := v.First + i
		id := f.slots.load32(slot, 0)
		b := f.backends.backend(id)
		f.slotSeen[slot], f.idSeen[id] = f.clock.t, f.clock.t
		if b.State != backendActive || b.Service != v.Id {
			f.t.Fatalf("slot %d: backend %d is state %d of service %d, want active of %d",
				slot, id, b.State, b.Service, v.Id)
		}
		found = append(found, registry.Evenly(netip.AddrPortFrom(fromAddress(b.Addr), b.Port))...)
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
		if _, marked := f.services[serviceKey{Addr: k.Addr}]; !marked {
			f.t.Fatalf("%s: its VIP is not marked", describeKey(k))
		}
		if found := f.read(v); !slices.Equal(found, f.published[k]) {
			f.t.Fatalf("%s: leads to %v, was published with %v", describeKey(k), found, f.published[k])
		}
	}
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
			want, wanted := f.desired(fromKey(k))
			if !wanted || !slices.Equal(want, f.published[k]) {
				f.t.Fatalf("%s: published %v, want %v", describeKey(k), f.published[k], want)
			}
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
