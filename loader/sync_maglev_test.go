package loader

import (
	"errors"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// maglevWorld has a service whose Maglev table is of 13, 31 or 61 slots.
func maglevWorld(t *testing.T, slots uint32) (w *world, update func(backends int) (service, error)) {
	sizes := roomySizes()
	sizes.Slots = slots
	w = newWorld(t, 1, sizes)
	w.s.choice.tables = []uint32{13, 31, 61}
	w.s.tables = repairing{w.fakeTables} // which know no size but one
	return w, func(backends int) (service, error) {
		r := resolved("10.96.0.1", 80, backends)
		r.Algorithm = registry.AlgorithmMaglev
		err := w.s.update(registry.Update{Set: []registry.Resolved{w.resolve(r)}})
		return w.services[toKey(r.Frontend)], err
	}
}

// TestSyncMaglevGrows: a table grows with its service's backends, stays as large when they go, whatever becomes
// of the agent, and begins anew when none is left.
func TestSyncMaglevGrows(t *testing.T) {
	w, update := maglevWorld(t, roomySizes().Slots)
	for _, step := range []struct {
		backends int
		restart  bool
		slots    uint32
	}{
		{2, false, 13}, {3, false, 13}, {4, false, 31}, {3, false, 31}, {7, true, 61}, {2, false, 61}, {1, true, 61},
		{0, false, 0}, {2, false, 13},
	} {
		if step.restart {
			tables := w.s.choice.tables
			w.restart(roomySizes())
			w.s.choice.tables, w.s.tables = tables, repairing{w.fakeTables}
		}
		v, err := update(step.backends)
		if err != nil {
			t.Fatal(err)
		}
		if v.Count != step.slots {
			t.Errorf("%d backends have %d slots, want %d", step.backends, v.Count, step.slots)
		}
	}
}

// TestSyncMaglevNoRoom: where the slots do not suffice for the table that a service should have, it has a
// smaller one, and that is told; with the next change it has the larger one if there is room.
func TestSyncMaglevNoRoom(t *testing.T) {
	w, update := maglevWorld(t, 64)
	other := resolved("10.96.0.2", 80, 20) // a block of 32
	if err := w.s.update(registry.Update{Snapshot: true, Set: []registry.Resolved{w.resolve(other)}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		v, err := update(7)
		if v.Count != 31 || !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "31 slots instead of 61") {
			t.Fatalf("without room: %d slots, %v", v.Count, err)
		}
	}
	// Beside the block of 32 that it has there is no room for another of any size.
	if v, err := update(6); v.Count != 31 || !errors.Is(err, ErrFull) || len(w.s.dirty) != 1 {
		t.Fatalf("without any room: %d slots, %v", v.Count, err)
	}
	err := w.s.update(registry.Update{Delete: []registry.Frontend{other.Frontend}})
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "31 slots instead of 61") || len(w.s.dirty) != 0 {
		t.Fatalf("with some room: %v", err)
	}
	if v, err := update(5); v.Count != 31 || err != nil {
		t.Fatalf("with room: %d slots, %v", v.Count, err)
	}
}
