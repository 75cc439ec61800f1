package loader

import (
	"encoding/binary"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// TestRestoreUnsound: what contradicts itself is named, and the first snapshot puts it right.
func TestRestoreUnsound(t *testing.T) {
	f := resolved("10.96.0.1", 80, 3)
	for name, spoil := range map[string]func(w *world, v *service){
		"slots beyond the map":      func(w *world, v *service) { v.First = w.slots.entries - 1 },
		"slots not aligned":         func(w *world, v *service) { v.First++ },
		"service id beyond the map": func(w *world, v *service) { v.Id = 1 << 20 },
		"service id 0":              func(w *world, v *service) { v.Id = 0 },
		"service id used twice":     func(w *world, v *service) { v.Id = w.services[toKey(resolved("10.96.0.2", 80, 0).Frontend)].Id },
		"slot leads nowhere":        func(w *world, v *service) { w.slots.store32(v.First+1, 0, 1<<30) },
		"slot leads to backend 0":   func(w *world, v *service) { w.slots.store32(v.First+1, 0, 0) },
		"slot leads to draining backend": func(w *world, v *service) {
			w.fakeTables.backends.turnBackend(w.slots.load32(v.First, 0), backendDraining)
		},
		"two backends, one address": func(w *world, v *service) {
			b := w.fakeTables.backends.backend(w.slots.load32(v.First, 0))
			w.fakeTables.backends.fillBackend(w.slots.load32(v.First+1, 0), b)
		},
		"slot leads to free backend": func(w *world, v *service) { w.fakeTables.backends.freeBackend(w.slots.load32(v.First, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, roomySizes())
			g := resolved("10.96.0.2", 80, 2)
			w.resolve(f)
			w.resolve(g)
			if err := w.s.update(w.snapshot()); err != nil {
				t.Fatal(err)
			}
			v := w.services[toKey(f.Frontend)]
			spoil(w, &v)
			w.services[toKey(f.Frontend)] = v
			w.s = newSyncer(repairing{w.fakeTables}, roomySizes(), fakeChoice, w.grace, w.clock.now)
			if wrong := w.s.restore(w.services, w.slots, w.backends); len(wrong) == 0 {
				t.Error("nothing was found wrong")
			}
			if err := w.s.update(w.snapshot()); err != nil {
				t.Fatal(err)
			}
			w.mustHold()
			w.look()
		})
	}
}

// repairing is tables that do not look: the maps are spoiled.
type repairing struct{ f *fakeTables }

func (r repairing) putSlots(first uint32, ids []uint32) error {
	for i, id := range ids {
		r.f.slots.store32(first+uint32(i), 0, id)
	}
	return nil
}

func (r repairing) putBackend(id uint32, b backend) error {
	r.f.backends.fillBackend(id, b)
	return nil
}

func (r repairing) holds(first uint32, ids []uint32) bool { return r.f.holds(first, ids) }

func (r repairing) turnBackend(id uint32, state uint8) error {
	r.f.backends.turnBackend(id, state)
	return nil
}

func (r repairing) freeBackend(id uint32) error {
	r.f.backends.freeBackend(id)
	return nil
}

func (r repairing) putServices(keys []serviceKey, values []service) (int, error) {
	for i, k := range keys {
		r.f.services[k] = values[i]
		r.f.published[k] = r.f.read(values[i])
	}
	return len(keys), nil
}

func (r repairing) deleteServices(keys []serviceKey) (int, error) {
	for _, k := range keys {
		delete(r.f.services, k)
	}
	return len(keys), nil
}

func (r repairing) resetStats(uint32) error { return nil }
func (repairing) wait() error               { return nil }

// FuzzRestore reads back maps that hold anything. It may find whatever it likes wrong, but a snapshot
// puts it right.
func FuzzRestore(f *testing.F) {
	f.Add([]byte{}, []byte{}, []byte{})
	f.Add([]byte{0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 60, 0, 0, 0, 1, 0, 0, 0}, []byte{1, 0, 0, 0, 0, 0, 0, 0, 2}, []byte("backends"))
	f.Fuzz(func(t *testing.T, services, slots, backends []byte) {
		w := newWorld(t, 1, roomySizes())
		copy(heapBytes(w.slots), slots)
		copy(heapBytes(w.fakeTables.backends), backends)
		for i := 0; len(services) >= 20; i++ {
			w.services[toKey(resolved("10.96.0.1", uint16(80+i%8), 0).Frontend)] = service{
				First: binary.LittleEndian.Uint32(services), Count: binary.LittleEndian.Uint32(services[4:]),
				Id: binary.LittleEndian.Uint32(services[8:]), AffinityTimeout: binary.LittleEndian.Uint32(services[12:]),
				Algorithm: services[16],
			}
			services = services[20:]
		}
		w.s = newSyncer(repairing{w.fakeTables}, roomySizes(), fakeChoice, w.grace, w.clock.now)
		w.s.restore(w.services, w.slots, w.fakeTables.backends)
		for _, r := range []registry.Resolved{resolved("10.96.0.1", 80, 3), resolved("10.96.0.9", 80, 2)} {
			w.resolve(r)
		}
		if err := w.s.update(w.snapshot()); err != nil {
			t.Fatal(err)
		}
		w.mustHold()
	})
}
