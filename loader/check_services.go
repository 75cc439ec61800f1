package loader

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// How much is looked at with one hold of the lock: slots, and entries of a map that mostly are as they
// should be. Either takes a fraction of a millisecond.
const (
	checkSlots   = 2048
	checkEntries = 256
)

// checkServices looks for each frontend that is desired into the maps: its entry, its address's mark, what its
// slots lead to.
func (l *Loader) checkServices(d *differences) error {
	var frontends []registry.Frontend
	err := l.locked(func() error {
		if !l.syncer.synced {
			return errors.New("the registry has delivered no snapshot yet")
		}
		frontends = slices.AppendSeq(make([]registry.Frontend, 0, len(l.syncer.desired)), maps.Keys(l.syncer.desired))
		return nil
	})
	unmarked := map[netip.Addr]bool{}
	for err == nil && len(frontends) > 0 {
		err = l.locked(func() error {
			for slots := 0; slots < checkSlots && len(frontends) > 0; frontends = frontends[1:] {
				n, err := l.checkFrontend(d, frontends[0], unmarked)
				if err != nil {
					return err
				}
				slots += n
			}
			return nil
		})
		runtime.Gosched() // let go of the lock to whoever waits
	}
	for vip := range unmarked {
		d.add("VIP "+vip.String(), "is not marked as a VIP in map services")
	}
	return err
}

// checkFrontend looks at one, unless it is gone by now. It returns how much work that was, in slots.
func (l *Loader) checkFrontend(d *differences, f registry.Frontend, unmarked map[netip.Addr]bool) (slots int, err error) {
	const fixed = 32 // slots that can be read in the time of the look-ups
	s := l.syncer
	want, wanted := s.desired[f]
	if !wanted {
		return 1, nil
	}
	v, there, err := l.lookupService(toKey(f))
	if err != nil {
		return 0, err
	}
	if there {
		l.checkService(d, want, v)
	} else {
		why := ""
		if err := s.dirty[f]; err != nil {
			why = ": " + err.Error()
		}
		d.add(describe(f), "port of service %s is not in map services%s", want.Service, why)
	}
	if !want.Shared {
		if _, marked, err := l.lookupService(markerKey(f.Addr)); err != nil {
			return 0, err
		} else if !marked {
			unmarked[f.Addr] = true
		}
	}
	return fixed + int(v.Count), nil
}

// lookupService reads one entry.
func (l *Loader) lookupService(key serviceKey) (v service, there bool, err error) {
	err = l.maps.get(sockMapServices).Lookup(&key, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return v, false, nil
	}
	if err != nil {
		return v, false, fmt.Errorf("read %s from map services: %w", describeKey(key), err)
	}
	return v, true, nil
}

// checkStrays looks for entries of map services that nobody wants.
func (l *Loader) checkStrays(d *differences) error {
	var services *ebpf.Map
	err := l.locked(func() (err error) {
		services, err = l.maps.get(sockMapServices).Clone() // the loader may be closed meanwhile
		return err
	})
	if err != nil {
		return err
	}
	defer services.Close()
	var keys []serviceKey
	err = eachOf(services, func(k serviceKey, _ service) error {
		keys = append(keys, k)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read map services: %w", err)
	}
	for chunk := range slices.Chunk(keys, checkEntries) {
		err := l.locked(func() error {
			for _, k := range chunk {
				if err := l.checkStray(d, k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		runtime.Gosched()
	}
	return nil
}

// checkStray looks at an entry that was there a moment ago.
func (l *Loader) checkStray(d *differences, k serviceKey) error {
	s, addr := l.syncer, fromAddress(k.Addr)
	_, wanted := s.desired[fromKey(k)]
	if isMarker(k) {
		wanted = s.vips[addr] != nil && s.vips[addr].frontends > 0
	}
	if wanted && !isMarker(k) {
		return nil
	}
	v, there, err := l.lookupService(k)
	switch {
	case err != nil || !there:
		return err
	case !isMarker(k):
		d.add(describeKey(k), "is in map services, but not in the registry")
	case !wanted:
		d.add("VIP "+addr.String(), "is marked in map services, but no service has it for itself")
	case v != (service{}):
		d.add(describeKey(k), "its mark in map services is not empty")
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

// checkBackends looks for backends that nobody has. It looks at all entries, and so has a mapping of its own: the
// agent's would hold them from then on.
func (l *Loader) checkBackends(d *differences) error {
	var backends *memory
	err := l.locked(func() (err error) {
		backends, err = mapMemory(l.maps.get("backends"), unix.PROT_READ)
		return err
	})
	if err != nil {
		return err
	}
	defer backends.close()
	var owned map[uint32]bool // made when an entry does not lead to its owner
	for first := uint32(1); first < l.o.Sizes.Backends; first += checkEntries {
		err := l.locked(func() error {
			for id := first; id < min(first+checkEntries, backends.entries); id++ {
				b := backends.backend(id)
				if b.State == backendFree || l.syncer.has(id, b) {
					continue
				}
				if owned == nil {
					owned = l.syncer.owned()
				}
				if owned[id] {
					continue // spoiled, as its service's check tells
				}
				d.add(fmt.Sprintf("backend %d (%s)", id, netip.AddrPortFrom(fromAddress(b.Addr), b.Port)),
					"is %s, but no service leads to it", stateName(b.State))
			}
			return nil
		})
		if err != nil {
			return err
		}
		runtime.Gosched()
	}
	return nil
}

// has says whether the backend with this id belongs to the frontend that its entry b names.
func (s *syncer) has(id uint32, b backend) bool {
	h := s.held[s.byID[b.Service]]
	if h == nil {
		return false
	}
	m := member{addr: netip.AddrPortFrom(fromAddress(b.Addr), b.Port)}
	i, found := slices.BinarySearchFunc(h.members, m, compareMembers)
	return found && h.members[i].id == id
}

// owned returns the ids of all backends that frontends have.
func (s *syncer) owned() map[uint32]bool {
	ids := make(map[uint32]bool, s.use.backends)
	for _, h := range s.held {
		for _, m := range h.members {
			ids[m.id] = true
		}
	}
	return ids
}

// checkLeaks compares what is taken with what is in use.
func (l *Loader) checkLeaks(d *differences) {
	s := l.syncer
	leak := func(what string, have, want uint32) {
		if have != want {
			d.add("map "+what, "%d entries are taken, but %d are in use", have, want)
		}
	}
	leak("slots", s.runs.used-s.runs.idle, s.use.slots)
	leak("backends", s.backendIDs.live(), s.use.backends+uint32(len(s.unfreed)))
	leak("service_stats", s.serviceIDs.live(), uint32(len(s.held)))
	leak("epochs", l.endpoints.ids.live(), uint32(len(l.endpoints.byName)))
}
