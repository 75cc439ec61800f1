package loader

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// checkServices compares map services, and what its entries lead to, with the desired state.
func (l *Loader) checkServices(d *differences) error {
	s := l.syncer
	marked, vips := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	seen := map[registry.Frontend]bool{}
	err := eachOf(l.maps.get(sockMapServices), func(k serviceKey, v service) error {
		if isMarker(k) {
			marked[fromAddress(k.Addr)] = true
			if v != (service{}) {
				d.add(describeKey(k), "its mark in map services is not empty")
			}
			return nil
		}
		f := fromKey(k)
		seen[f] = true
		if want, wanted := s.desired[f]; !wanted {
			d.add(describe(f), "is in map services, but not in the registry")
		} else {
			l.checkService(d, want, v)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read map services: %w", err)
	}
	for f, want := range s.desired {
		if !want.Shared {
			vips[f.Addr] = true
		}
		if seen[f] {
			continue
		}
		why := ""
		if err := s.dirty[f]; err != nil {
			why = ": " + err.Error()
		}
		d.add(describe(f), "port of service %s is not in map services%s", want.Service, why)
	}
	for vip := range vips {
		if !marked[vip] {
			d.add("VIP "+vip.String(), "is not marked as a VIP in map services")
		}
	}
	for vip := range marked {
		if !vips[vip] {
			d.add("VIP "+vip.String(), "is marked in map services, but no service has it for itself")
		}
	}
	return nil
}

// checkService compares one entry with what is desired: the entry itself, what each slot leads to, and the
// state of each backend.
func (l *Loader) checkService(d *differences, want registry.Resolved, v service) {
	name := describe(want.Frontend)
	h := l.syncer.held[want.Frontend]
	if h == nil || h.toService() != v {
		d.add(name, "its entry in map services was changed by someone else")
	}
	if err := l.syncer.unmet[want.Frontend]; err != nil {
		d.add(name, "%s", err)
	}
	if algorithm := l.syncer.algorithmOf(want); v.Algorithm != algorithm {
		d.add(name, "has algorithm %s instead of %s", algorithmName(v.Algorithm), algorithmName(algorithm))
	}
	if v.AffinityTimeout != want.AffinityTimeout {
		d.add(name, "has an affinity of %d s instead of %d s", v.AffinityTimeout, want.AffinityTimeout)
	}
	if uint64(v.First)+uint64(v.Count) > uint64(l.slots.entries) {
		d.add(name, "its slots %d+%d are beyond the map's %d", v.First, v.Count, l.slots.entries)
		return
	}
	l.checkRun(d, want, v)
	if h != nil {
		l.checkDraining(d, want, h)
	}
}

// checkRun compares slot by slot.
func (l *Loader) checkRun(d *differences, want registry.Resolved, v service) {
	name := describe(want.Frontend)
	members := make([]member, len(want.Backends))
	for i, b := range want.Backends {
		members[i] = member{addr: b.AddrPort, weight: weightOf(b)}
	}
	h := l.syncer.held[want.Frontend]
	table := l.syncer.tableOf(want, h)
	if l.syncer.unmet[want.Frontend] != nil && h != nil && h.run.count > 0 {
		table = h.run.count // it has a smaller one, which is told
	}
	places := choose(members, l.syncer.algorithmOf(want), table)
	have, wanted := map[netip.AddrPort]int{}, map[netip.AddrPort]int{}
	for _, place := range places {
		wanted[members[place].addr]++
	}
	misplaced := 0
	for i := range v.Count {
		addr, ok := l.checkSlot(d, want, v, v.First+i)
		if !ok {
			continue
		}
		have[addr]++
		if int(i) >= len(places) || members[places[i]].addr != addr {
			misplaced++
		}
	}
	for addr, n := range wanted {
		switch is := have[addr]; {
		case is == 0:
			d.add(name, "backend %s is missing", addr)
		case is != n:
			d.add(name, "backend %s has %d slots instead of %d", addr, is, n)
		}
	}
	for addr := range have {
		if wanted[addr] == 0 {
			d.add(name, "backend %s should not be there", addr)
		}
	}
	if int(v.Count) != len(places) {
		d.add(name, "has %d slots instead of %d", v.Count, len(places))
	} else if misplaced > 0 {
		d.add(name, "%d of its %d slots lead elsewhere than they should", misplaced, v.Count)
	}
}

// checkSlot looks at what one slot leads to.
func (l *Loader) checkSlot(d *differences, want registry.Resolved, v service, slot uint32) (_ netip.AddrPort, ok bool) {
	name := describe(want.Frontend)
	id := l.slots.load32(slot, 0)
	if id == 0 || id >= l.backends.entries {
		d.add(name, "slot %d holds %d, which is no backend", slot, id)
		return netip.AddrPort{}, false
	}
	b := l.backends.backend(id)
	addr := netip.AddrPortFrom(fromAddress(b.Addr), b.Port)
	switch {
	case b.State != backendActive:
		d.add(name, "slot %d leads to backend %d (%s), which is %s", slot, id, addr, stateName(b.State))
		return addr, false
	case b.Service != v.Id || b.Proto != uint8(want.Protocol):
		d.add(name, "slot %d leads to backend %d (%s), which is another service's", slot, id, addr)
	}
	return addr, true
}

// checkDraining looks at the backends that are in no run.
func (l *Loader) checkDraining(d *differences, want registry.Resolved, h *held) {
	for _, b := range want.Backends {
		if !b.Draining {
			continue
		}
		i, found := slices.BinarySearchFunc(h.members, member{addr: b.AddrPort}, compareMembers)
		if !found {
			d.add(describe(want.Frontend), "backend %s, which drains, is missing", b.AddrPort)
			continue
		}
		have := l.backends.backend(h.members[i].id)
		have.Epoch, have.Used = 0, 0
		if have != h.toBackend(want.Frontend, member{addr: b.AddrPort, state: backendDraining}) {
			d.add(describe(want.Frontend), "backend %d is %s:%d, %s, of service %d; it should be %s, draining, of service %d",
				h.members[i].id, fromAddress(have.Addr), have.Port, stateName(have.State), have.Service, b.AddrPort, h.id)
		}
	}
}

func stateName(state uint8) string {
	switch state {
	case backendFree:
		return "free"
	case backendActive:
		return "active"
	case backendDraining:
		return "draining"
	}
	return fmt.Sprintf("in state %d", state)
}

func algorithmName(a uint8) string {
	switch a {
	case algorithmRandom:
		return string(registry.AlgorithmRandom)
	case algorithmMaglev:
		return string(registry.AlgorithmMaglev)
	}
	return fmt.Sprintf("%d, which is none,", a)
}

// checkBackends looks for backends, slots and ids that nobody owns.
func (l *Loader) checkBackends(d *differences) error {
	s := l.syncer
	owned := map[uint32]bool{}
	var slots uint32
	for _, h := range s.held {
		for _, m := range h.members {
			owned[m.id] = true
		}
		if h.run.count > 0 {
			slots += 1 << orderOf(h.run.count)
		}
	}
	for id := uint32(1); id < l.backends.entries; id++ {
		if _, _, state, _ := splitBackendWord(*l.backends.backendWord(id)); state != backendFree && !owned[id] {
			b := l.backends.backend(id)
			d.add(fmt.Sprintf("backend %d (%s)", id, netip.AddrPortFrom(fromAddress(b.Addr), b.Port)),
				"is %s, but no service leads to it", stateName(state))
		}
	}
	leak := func(what string, have, want uint32) {
		if have != want {
			d.add("map "+what, "%d entries are taken, but %d are in use", have, want)
		}
	}
	leak("slots", s.runs.used-s.runs.idle, slots)
	leak("backends", s.backendIDs.live(), uint32(len(owned)+len(s.unfreed)))
	leak("service_stats", s.serviceIDs.live(), uint32(len(s.held)))
	leak("epochs", l.endpoints.ids.live(), uint32(len(l.endpoints.byName)))
	return nil
}
