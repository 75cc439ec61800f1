package loader

import (
	"fmt"
	"net/netip"

	"github.com/sluice-net/sluice/registry"
)

// restore rebuilds what the syncer knows from the maps that a predecessor left: ids, runs, VIPs. It
// prunes nothing that a service leads to; the first snapshot decides about that. It returns what it
// found wrong, for the log: such services are written anew.
//
// The caller has waited until every program that was running when the predecessor died is over. So
// an id or run that no service leads to is free at once: nothing can still be reading it.
func (s *syncer) restore(entries map[serviceKey]service, slots, backends *memory) []error {
	var wrong []error
	for key, value := range entries {
		if isMarker(key) {
			s.vipOf(fromAddress(key.Addr)).marked = true
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
		s.vipOf(f.Addr).frontends++
	}
	for addr, v := range s.vips {
		if v.marked != (v.frontends > 0) {
			s.unsettled[addr] = nil
		}
	}
	s.sweepBackends(backends)
	return wrong
}

func (s *syncer) vipOf(addr netip.Addr) *vip {
	if s.vips[addr] == nil {
		s.vips[addr] = &vip{}
	}
	return s.vips[addr]
}

// restoreOne takes the ids and the run of one service. On error nothing is taken.
func (s *syncer) restoreOne(v service, slots, backends *memory) (_ *held, err error) {
	h := &held{id: v.Id, run: run{v.First, v.Count}}
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
	for i := range h.run.count {
		id := slots.load32(h.run.first+i, 0)
		if err := s.backendIDs.restore(id); err != nil {
			return nil, err
		}
		b := backends.backend(id)
		h.members = append(h.members, member{netip.AddrPortFrom(fromAddress(b.Addr), b.Port), id})
		if b.State != backendActive || b.Service != v.Id {
			return nil, fmt.Errorf("slot %d leads to backend %d, which is not this service's",
				h.run.first+i, id)
		}
	}
	return h, nil
}

// sweepBackends makes free every active backend that no run leads to: the predecessor died between
// the write of a service and the end of its old backends.
func (s *syncer) sweepBackends(backends *memory) {
	for id := uint32(1); id < backends.entries; id++ {
		if !s.backendIDs.inUse(id) && backends.backend(id).State != backendFree {
			backends.freeBackend(id)
		}
	}
}

// statsOf returns the service id and desired state of each frontend that has both.
func (s *syncer) statsOf(visit func(id uint32, r registry.Resolved)) {
	for f, r := range s.desired {
		if h := s.held[f]; h != nil && h.id != 0 {
			visit(h.id, r)
		}
	}
}
