package loader

import "sync/atomic"

// Writes is how many entries of each map Sync has written for services since the loader was opened.
type Writes struct{ Services, Slots, Backends, ServiceStats uint64 }

// Writes returns how many there were.
func (l *Loader) Writes() Writes {
	w := &l.writes
	return Writes{w.services.Load(), w.slots.Load(), w.backends.Load(), w.stats.Load()}
}

// byMap returns the counts by the maps' names.
func (w Writes) byMap() map[string]uint64 {
	return map[string]uint64{
		sockMapServices: w.Services, sockMapSlots: w.Slots, sockMapBackends: w.Backends,
		sockMapServiceStats: w.ServiceStats,
	}
}

// writes counts while it goes on.
type writes struct{ services, slots, backends, stats atomic.Uint64 }

// countingTables count what is written to others.
type countingTables struct {
	tables
	n *writes
}

func (t countingTables) putSlots(first uint32, ids []uint32) error {
	t.n.slots.Add(uint64(len(ids)))
	return t.tables.putSlots(first, ids)
}

func (t countingTables) putBackend(id uint32, b backend) error {
	t.n.backends.Add(1)
	return t.tables.putBackend(id, b)
}

func (t countingTables) turnBackend(id uint32, state uint8) error {
	t.n.backends.Add(1)
	return t.tables.turnBackend(id, state)
}

func (t countingTables) freeBackend(id uint32) error {
	t.n.backends.Add(1)
	return t.tables.freeBackend(id)
}

func (t countingTables) putServices(keys []serviceKey, values []service) (int, error) {
	n, err := t.tables.putServices(keys, values)
	t.n.services.Add(uint64(n))
	return n, err
}

func (t countingTables) deleteServices(keys []serviceKey) (int, error) {
	n, err := t.tables.deleteServices(keys)
	t.n.services.Add(uint64(n))
	return n, err
}

func (t countingTables) resetStats(id uint32) error {
	t.n.stats.Add(1)
	return t.tables.resetStats(id)
}
