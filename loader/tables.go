package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// tables is what the syncer writes to. Every method does the entries in order and may fail after
// some of them; none is atomic across entries.
type tables interface {
	// putSlots writes backend ids to a run that no service's entry leads to yet.
	putSlots(first uint32, ids []uint32) error
	// holds says whether a run holds these backend ids.
	holds(first uint32, ids []uint32) bool
	// putBackend fills a free entry and gives it its state as its last step. The epoch is raised.
	putBackend(id uint32, b backend) error
	// turnBackend makes an active entry draining, or the other way round. The epoch stays.
	turnBackend(id uint32, state uint8) error
	// freeBackend makes an entry free and raises its epoch, both in one store.
	freeBackend(id uint32) error
	// putServices writes entries and returns how many of them, from the first on. The error is
	// about the next one, and wraps ErrFull when the map has no room for it.
	putServices(keys []serviceKey, values []service) (int, error)
	// deleteServices deletes entries and returns how many of them, from the first on. An entry
	// that is not there counts as deleted.
	deleteServices(keys []serviceKey) (int, error)
	// resetStats zeroes the counts of a service id.
	resetStats(id uint32) error
	// wait returns when every program that runs now is over.
	wait() error
}

// kernelTables are the real maps.
type kernelTables struct {
	services *ebpf.Map
	stats    *ebpf.Map
	slots    *memory
	backends *memory
	zeros    []serviceStats // one for each possible CPU
}

func newKernelTables(m *mapSet, slots, backends *memory) (*kernelTables, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count possible CPUs: %w", err)
	}
	return &kernelTables{
		services: m.get("services"), stats: m.get("service_stats"),
		slots: slots, backends: backends, zeros: make([]serviceStats, cpus),
	}, nil
}

func (t *kernelTables) wait() error { return waitForPrograms() }

func (t *kernelTables) putSlots(first uint32, ids []uint32) error {
	for i, id := range ids {
		t.slots.store32(first+uint32(i), 0, id)
	}
	return nil
}

func (t *kernelTables) holds(first uint32, ids []uint32) bool { return t.slots.holds(first, ids) }

func (t *kernelTables) turnBackend(id uint32, state uint8) error {
	t.backends.turnBackend(id, state)
	return nil
}

func (t *kernelTables) putBackend(id uint32, b backend) error {
	t.backends.fillBackend(id, b)
	return nil
}

func (t *kernelTables) freeBackend(id uint32) error {
	t.backends.freeBackend(id)
	return nil
}

func (t *kernelTables) putServices(keys []serviceKey, values []service) (int, error) {
	n := 0
	if len(keys) > 1 {
		done, err := t.services.BatchUpdate(keys, values, nil)
		if err == nil {
			return len(keys), nil
		}
		// The one that failed is done again below: its own error tells more than the batch's.
		n = min(max(done, 0), len(keys))
	}
	for ; n < len(keys); n++ {
		if err := t.services.Put(&keys[n], &values[n]); err != nil {
			return n, t.explain(keys[n], err)
		}
	}
	return n, nil
}

func (t *kernelTables) explain(k serviceKey, err error) error {
	if errors.Is(err, unix.E2BIG) {
		err = fmt.Errorf("all %d entries are in use: %w", t.services.MaxEntries(), ErrFull)
	}
	return fmt.Errorf("write %s to map services: %w", describeKey(k), err)
}

func (t *kernelTables) deleteServices(keys []serviceKey) (int, error) {
	for i := range keys {
		err := t.services.Delete(&keys[i])
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return i, fmt.Errorf("delete %s from map services: %w", describeKey(keys[i]), err)
		}
	}
	return len(keys), nil
}

func (t *kernelTables) resetStats(id uint32) error {
	if err := t.stats.Put(&id, t.zeros); err != nil {
		return fmt.Errorf("reset entry %d of map service_stats: %w", id, err)
	}
	return nil
}
