package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// held is a frontend as the maps have it.
type held struct {
	id        uint32   // service id; 0: none that can be trusted
	run       run      // count 0: no run
	members   []member // sorted by address
	algorithm uint8    // enum algorithm
	affinity  uint32   // seconds
	shared    bool     // does not count among the frontends for which its address is marked
	restored  bool     // read back from the maps, which do not tell weights
	unsound   bool     // the maps contradict themselves about it: write it anew, trust nothing
}

// member is one backend of a frontend.
type member struct {
	addr   netip.AddrPort
	id     uint32 // index into backends
	weight uint16 // 0: it drains, and is in no run
	state  uint8  // as map backends has it; enum backend_state
}

// wanted returns the state that the member should have.
func (m member) wanted() uint8 {
	if m.weight == 0 {
		return backendDraining
	}
	return backendActive
}

// change is the way of one frontend from what the maps hold to what is desired.
type change struct {
	frontend registry.Frontend
	old      *held // nil: not in the maps
	next     *held // nil: to be deleted
	added    []member
	removed  []member
	turned   []turn   // members that stay, but in another state
	table    uint32   // slots that its Maglev table is to have; 0: none
	slots    []uint32 // backend ids for a run of its own; nil: it keeps the old one, or has none
	entry    bool     // its entry in services differs
	err      error    // why it cannot be made; what it had taken is given back
}

// turn is a member that begins or ceases to drain: its places in the old list and in the next.
type turn struct{ old, next int }

// newID says whether the change brings a service id of its own.
func (c *change) newID() bool { return c.next != nil && (c.old == nil || c.old.id != c.next.id) }

// newRun says whether the change brings a run of its own.
func (c *change) newRun() bool { return c.next != nil && c.slots != nil }

// plan takes the ids and slots that lead from what the maps hold to what is desired. It returns nil
// when there is nothing to do. On error nothing is taken.
func (s *syncer) plan(f registry.Frontend) (_ *change, err error) {
	want, wanted := s.desired[f]
	old := s.held[f]
	switch {
	case !wanted && old == nil:
		return nil, nil
	case !wanted:
		return &change{frontend: f, old: old, removed: old.members}, nil
	}
	algorithm, table := s.algorithmOf(want), s.tableOf(want, old)
	if old != nil && old.is(want, algorithm, table) {
		return nil, nil
	}
	c := &change{frontend: f, old: old, table: table, next: &held{
		algorithm: algorithm, affinity: want.AffinityTimeout, shared: want.Shared,
	}}
	defer func() {
		if err != nil {
			s.cancel(c)
		}
	}()
	if c.sound() {
		c.next.id = old.id
	} else if c.next.id, err = s.serviceIDs.alloc(); err != nil {
		return nil, err
	}
	if err := s.planMembers(c, want.Backends); err != nil {
		return nil, err
	}
	if err := s.planRun(c); err != nil {
		return nil, err
	}
	c.entry = !c.sound() || old.toService() != c.next.toService()
	return c, nil
}

// sound says whether there is something old that can be kept.
func (c *change) sound() bool { return c.old != nil && !c.old.unsound }

// planMembers keeps the ids of backends that stay, and takes new ones for those that come. Both lists
// are sorted.
func (s *syncer) planMembers(c *change, want []registry.Backend) error {
	var old []member
	if c.sound() {
		old = c.old.members
	}
	c.next.members = make([]member, 0, len(want))
	at := 0
	for _, b := range want {
		for at < len(old) && old[at].addr.Compare(b.AddrPort) < 0 {
			c.removed = append(c.removed, old[at])
			at++
		}
		m := member{addr: b.AddrPort, weight: weightOf(b)}
		if at < len(old) && old[at].addr == b.AddrPort {
			m.id, m.state = old[at].id, old[at].state
			if m.state != m.wanted() {
				c.turned = append(c.turned, turn{at, len(c.next.members)})
			}
			c.next.members = append(c.next.members, m)
			at++
			continue
		}
		var err error
		if m.id, err = s.backendIDs.alloc(); err != nil {
			return err
		}
		m.state = m.wanted()
		c.next.members = append(c.next.members, m)
		c.added = append(c.added, m)
	}
	c.removed = append(c.removed, old[at:]...)
	return nil
}

// planRun keeps the run when it holds already what it should, or takes one. Where there is no room for a
// Maglev table, and nothing at rest that would make some, a smaller one must do: it leads to the same
// backends.
func (s *syncer) planRun(c *change) error {
	if c.table > 0 {
		delete(s.unmet, c.frontend)
	}
	var full error
	for table := c.table; ; {
		err := s.planRunOf(c, table)
		smaller := s.choice.smaller(table, c.next.active())
		if !errors.Is(err, ErrFull) || smaller == 0 || len(s.runs.rest.queue) > 0 {
			if err == nil && full != nil {
				s.unmet[c.frontend] = fmt.Errorf("its Maglev table has %d slots instead of %d: %w", table, c.table, full)
			}
			return err
		}
		table, full = smaller, err
	}
}

// planRunOf does it, with a Maglev table of so many slots.
func (s *syncer) planRunOf(c *change, table uint32) error {
	slots := c.next.content(table)
	if len(slots) == 0 {
		return nil
	}
	count := uint32(len(slots))
	if c.sound() && c.old.run.count == count && s.tables.holds(c.old.run.first, slots) {
		c.next.run = c.old.run
		return nil
	}
	first, err := s.runs.alloc(count)
	if err != nil {
		return err
	}
	c.next.run, c.slots = run{first, count}, slots
	return nil
}

// cancel gives back what a change took. None of it was published, so no program can have seen it and
// it needs no rest; backends that were already written are made free again by the caller.
func (s *syncer) cancel(c *change) {
	for _, m := range c.added {
		s.backendIDs.cancel(m.id)
	}
	if c.newRun() {
		s.runs.cancel(c.next.run)
	}
	if c.newID() && c.next.id != 0 {
		s.serviceIDs.cancel(c.next.id)
	}
}

// is says whether the maps hold what is wanted; table is how many slots its Maglev table is to have.
func (h *held) is(want registry.Resolved, algorithm uint8, table uint32) bool {
	return !h.unsound && !h.restored && h.algorithm == algorithm &&
		(table == 0 || h.run.count == 0 || h.run.count == table) &&
		h.affinity == want.AffinityTimeout && h.shared == want.Shared &&
		slices.EqualFunc(h.members, want.Backends, func(m member, b registry.Backend) bool {
			return m.addr == b.AddrPort && m.weight == weightOf(b) && m.state == m.wanted()
		})
}

// weightOf returns a backend's weight; 0: it drains.
func weightOf(b registry.Backend) uint16 {
	if b.Draining {
		return 0
	}
	return min(max(b.Weight, 1), registry.MaxWeight)
}

// toService returns the entry that publishes what is held.
func (h *held) toService() service {
	return service{
		First: h.run.first, Count: h.run.count, Id: h.id,
		AffinityTimeout: h.affinity, Algorithm: h.algorithm,
	}
}

// toBackend returns the entry of one of its backends.
func (h *held) toBackend(f registry.Frontend, m member) backend {
	return backend{
		Addr: toAddress(m.addr.Addr()), Port: m.addr.Port(), Proto: uint8(f.Protocol),
		State: m.state, Service: h.id,
	}
}

// draining counts the backends that drain.
func (h *held) draining() (n int) {
	for _, m := range h.members {
		if m.weight == 0 {
			n++
		}
	}
	return n
}

// use is what frontends take.
type use struct {
	slots, backends uint32
	draining        int // of the backends
}

// use returns what the frontend takes; none takes nothing.
func (h *held) use() (u use) {
	if h == nil {
		return u
	}
	u = use{backends: uint32(len(h.members)), draining: h.draining()}
	if h.run.count > 0 {
		u.slots = 1 << orderOf(h.run.count)
	}
	return u
}

// change makes of what all frontends take what they do after one has changed.
func (u *use) change(old, next *held) {
	was, is := old.use(), next.use()
	u.slots += is.slots - was.slots
	u.backends += is.backends - was.backends
	u.draining += is.draining - was.draining
}

// active counts the others.
func (h *held) active() int { return len(h.members) - h.draining() }

// describeKey writes a services key the way people do.
func describeKey(k serviceKey) string {
	if isMarker(k) {
		return fmt.Sprintf("VIP %s", fromAddress(k.Addr))
	}
	return describe(fromKey(k))
}
