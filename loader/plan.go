package loader

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// held is a frontend as the maps have it.
type held struct {
	id      uint32   // service id; 0: none that can be trusted
	run     run      // count 0: no run
	members []member // in the order of the run
	unsound bool     // the maps contradict themselves about it: write it anew, trust nothing
}

// member is one backend of a frontend.
type member struct {
	addr netip.AddrPort
	id   uint32 // index into backends
}

// change is the way of one frontend from what the maps hold to what is desired.
type change struct {
	frontend registry.Frontend
	old      *held // nil: not in the maps
	next     *held // nil: to be deleted
	added    []member
	removed  []member
	err      error // why it cannot be made; what it had taken is given back
}

// newID says whether the change brings a service id of its own.
func (c *change) newID() bool { return c.next != nil && (c.old == nil || c.old.id != c.next.id) }

// newRun says whether the change brings a run of its own.
func (c *change) newRun() bool { return c.next != nil && c.next.run.count > 0 }

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
	case old != nil && !old.unsound && sameBackends(old.members, want.Backends):
		return nil, nil
	}
	c := &change{frontend: f, old: old, next: &held{}}
	defer func() {
		if err != nil {
			s.cancel(c)
		}
	}()
	if old != nil && !old.unsound {
		c.next.id = old.id
	} else if c.next.id, err = s.serviceIDs.alloc(); err != nil {
		return nil, err
	}
	if err := s.planMembers(c, want.Backends); err != nil {
		return nil, err
	}
	if n := uint32(len(want.Backends)); n > 0 {
		first, err := s.runs.alloc(n)
		if err != nil {
			return nil, err
		}
		c.next.run = run{first, n}
	}
	return c, nil
}

// planMembers keeps the ids of backends that stay, and takes new ones for those that come.
func (s *syncer) planMembers(c *change, want []registry.Backend) error {
	stay := make(map[netip.AddrPort]uint32, len(want))
	if c.old != nil && !c.old.unsound {
		for _, m := range c.old.members {
			stay[m.addr] = m.id
		}
	}
	for _, b := range want {
		addr := b.AddrPort
		if id, ok := stay[addr]; ok {
			c.next.members = append(c.next.members, member{addr, id})
			delete(stay, addr)
			continue
		}
		id, err := s.backendIDs.alloc()
		if err != nil {
			return err
		}
		m := member{addr, id}
		c.next.members = append(c.next.members, m)
		c.added = append(c.added, m)
	}
	if c.old != nil {
		for _, m := range c.old.members {
			if _, gone := stay[m.addr]; gone {
				c.removed = append(c.removed, m)
			}
		}
	}
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

func sameBackends(have []member, want []registry.Backend) bool {
	return slices.EqualFunc(have, want, func(m member, b registry.Backend) bool { return m.addr == b.AddrPort })
}

// toService returns the entry that publishes what is held.
func (h *held) toService() service {
	return service{First: h.run.first, Count: h.run.count, Id: h.id}
}

// toBackend returns the entry of one of its backends.
func (h *held) toBackend(f registry.Frontend, m member) backend {
	return backend{
		Addr: toAddress(m.addr.Addr()), Port: m.addr.Port(), Proto: uint8(f.Protocol),
		State: backendActive, Service: h.id,
	}
}

// slots returns the backend ids that fill its run.
func (h *held) slots() []uint32 {
	ids := make([]uint32, len(h.members))
	for i, m := range h.members {
		ids[i] = m.id
	}
	return ids
}

// describeKey writes a services key the way people do.
func describeKey(k serviceKey) string {
	if isMarker(k) {
		return fmt.Sprintf("VIP %s", fromAddress(k.Addr))
	}
	return describe(fromKey(k))
}
