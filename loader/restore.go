package loader

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// restore rebuilds what the syncer knows from the maps that a predecessor left: ids, runs, VIPs. It
// prunes nothing that a service leads to; the first snapshot decides about that. It returns what it
// found wrong, for the log: such services are written anew.
//
// The maps do not tell a frontend's weights, nor whether its address is shared. Until the snapshot tells,
// the address is taken for shared if it has no mark. (A mark is written before the first service and
// deleted after the last one, so a service without is a shared one.)
//
// The caller has waited until every program that was running when the predecessor died is over. So
// an id or run that no service leads to is free at once: nothing can still be reading it.
func (s *syncer) restore(entries map[serviceKey]service, slots, backends *memory) []error {
	var wrong []error
	for key := range entries {
		if isMarker(key) {
			s.vips[fromAddress(key.Addr)] = &vip{marked: true}
		}
	}
	for key, value := range entries {
		if isMarker(key) {
			continue
		}
		f := fromKey(key)
		h, err := s.restoreOne(value, slots, backends)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", describe(f), err))
			h = &held{unsound: true}
		}
		s.held[f] = h
		if h.id != 0 {
			s.byID[h.id] = f
		}
		if v := s.vips[f.Addr]; v != nil {
			v.frontends++
		} else {
			h.shared = true
		}
	}
	for addr, v := range s.vips {
		if v.frontends == 0 {
			s.unsettled[addr] = nil
		}
	}
	s.restoreIdle(backends)
	for _, h := range s.held {
		s.use.change(nil, h)
	}
	return wrong
}

// restoreOne takes the ids and the run of one service. On error nothing is taken.
func (s *syncer) restoreOne(v service, slots, backends *memory) (_ *held, err error) {
	h := &held{
		id: v.Id, run: run{v.First, v.Count}, restored: true,
		algorithm: v.Algorithm, affinity: v.AffinityTimeout,
	}
	if err := s.serviceIDs.restore(h.id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.serviceIDs.cancel(h.id)
		}
	}()
	if h.run.count == 0 {
		return h, nil
	}
	if err := s.runs.restore(h.run); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.runs.cancel(h.run)
			for _, m := range h.members {
				s.backendIDs.cancel(m.id)
			}
		}
	}()
	return h, s.restoreMembers(h, slots, backends)
}

// restoreMembers takes the ids that the run leads to; an id may be there many times.
func (s *syncer) restoreMembers(h *held, slots, backends *memory) error {
	seen := map[uint32]bool{}
	for i := range h.run.count {
		id := slots.load32(h.run.first+i, 0)
		if seen[id] {
			continue
		}
		if err := s.backendIDs.restore(id); err != nil {
			return err
		}
		seen[id] = true
		b := backends.backend(id)
		h.members = append(h.members, member{
			addr: netip.AddrPortFrom(fromAddress(b.Addr), b.Port), id: id, weight: 1, state: b.State,
		})
		if b.State != backendActive || b.Service != h.id {
			return fmt.Errorf("slot %d leads to backend %d, which is not this service's", h.run.first+i, id)
		}
	}
	slices.SortFunc(h.members, compareMembers)
	for i := 1; i < len(h.members); i++ {
		if h.members[i].addr == h.members[i-1].addr {
			return fmt.Errorf("backends %d and %d are both %s", h.members[i-1].id, h.members[i].id, h.members[i].addr)
		}
	}
	return nil
}

func compareMembers(a, b member) int { return a.addr.Compare(b.addr) }

// restoreIdle goes through the backends that no run leads to. Those of a service that is there drain, or
// were to be told so, or to be freed, when the predecessor died: they are kept until the first snapshot
// says which. The others are made free.
func (s *syncer) restoreIdle(backends *memory) {
	for id := uint32(1); id < backends.entries; id++ {
		if s.backendIDs.inUse(id) {
			continue
		}
		b := backends.backend(id)
		if b.State == backendFree {
			continue
		}
		m := member{addr: netip.AddrPortFrom(fromAddress(b.Addr), b.Port), id: id, state: b.State}
		f := s.byID[b.Service]
		h := s.held[f]
		if h != nil && !h.unsound && h.id == b.Service && b.Proto == uint8(f.Protocol) && b.State <= backendDraining {
			place, twice := slices.BinarySearchFunc(h.members, m, compareMembers)
			if !twice && s.backendIDs.restore(id) == nil {
				h.members = slices.Insert(h.members, place, m)
				continue
			}
		}
		backends.freeBackend(id)
	}
}

// statsOf visits the frontends with service ids from first up to last, less those that are not desired.
func (s *syncer) statsOf(first, last uint32, visit func(id uint32, r registry.Resolved) error) error {
	for id := first; id < last; id++ {
		f, known := s.byID[id]
		if r, wanted := s.desired[f]; known && wanted {
			if err := visit(id, r); err != nil {
				return err
			}
		}
	}
	return nil
}
