package loader

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// syncer keeps services, slots and backends equal to the desired state. It knows what the maps hold,
// so that the work is proportional to what changed. It is not safe for concurrent use.
//
// A change of one frontend is made in this order, and each step for all changes at once:
//
//  1. new backends are filled, those that ceased to drain made active (no slot leads to them yet)
//  2. a fresh run of slots is filled                 (no service leads to it yet)
//  3. a new VIP is marked, then services are written (one write switches a service to its new run)
//  4. services that are gone are deleted, then the marks of VIPs that have none left
//  5. backends that begin to drain are told so; those that left are made free and their epochs raised
//  6. old runs, backends and service ids rest before they are used again
//
// So a program that looks at any moment finds a service's old run or its new one, complete, with
// every backend in it active. Steps in which nothing differs are left out: a service whose affinity
// changes costs one write, a backend that drains the service's run, its entry and the backend's. What
// cannot be written stays dirty and is tried again.
type syncer struct {
	tables tables
	choice choice

	desired   map[registry.Frontend]registry.Resolved
	held      map[registry.Frontend]*held
	byID      map[uint32]registry.Frontend // whose service id it is
	vips      map[netip.Addr]*vip
	dirty     map[registry.Frontend]error // desired and maps may differ; why
	unsettled map[netip.Addr]error        // VIPs whose mark may be wrong; the error of the last try
	unfreed   []uint32                    // backends that no run leads to, but could not be made free
	unmet     map[registry.Frontend]error // served, but not by the algorithm, or so large a table, as it should be
	use       use                         // of all that are held
	// left is called with each backend that a frontend had, when its entry is free.
	left   func(f registry.Frontend, service uint32, m member)
	synced bool // a snapshot has arrived: desired is everything there is

	runs       *runAllocator
	backendIDs *idAllocator
	serviceIDs *idAllocator
}

// vip is one virtual address.
type vip struct {
	frontends int  // in the maps, and not shared
	marked    bool // the entry that says "this address is a VIP" is there
}

func newSyncer(t tables, s Sizes, c choice, grace time.Duration, now func() time.Time) *syncer {
	return &syncer{
		tables:     t,
		left:       func(registry.Frontend, uint32, member) {},
		choice:     c,
		desired:    map[registry.Frontend]registry.Resolved{},
		held:       map[registry.Frontend]*held{},
		byID:       map[uint32]registry.Frontend{},
		vips:       map[netip.Addr]*vip{},
		dirty:      map[registry.Frontend]error{},
		unsettled:  map[netip.Addr]error{},
		unmet:      map[registry.Frontend]error{},
		runs:       newRunAllocator(s.Slots, grace, now),
		backendIDs: newIDAllocator("backends", s.Backends, grace, now),
		serviceIDs: newIDAllocator("service_stats", s.Services, grace, now),
	}
}

// update merges an update into the desired state and brings the maps there. On error the rest is
// done all the same; what is left is tried again by retry, or when something else makes room.
func (s *syncer) update(u registry.Update) error {
	work := make(map[registry.Frontend]struct{}, len(u.Set)+len(u.Delete))
	if u.Snapshot {
		for f := range s.desired {
			work[f] = struct{}{}
		}
		for f := range s.held {
			work[f] = struct{}{}
		}
		clear(s.desired)
		clear(s.unmet)
		s.synced = true
	}
	for _, f := range u.Delete {
		f = canonical(f)
		delete(s.desired, f)
		delete(s.unmet, f)
		work[f] = struct{}{}
	}
	for _, r := range u.Set {
		r.Frontend = canonical(r.Frontend)
		r.Backends = canonicalBackends(r.Backends)
		s.desired[r.Frontend] = r
		delete(s.unmet, r.Frontend)
		if err := s.choice.tooMany(r); err != nil {
			s.unmet[r.Frontend] = err
		}
		work[r.Frontend] = struct{}{}
	}
	if freed := s.pass(slices.Collect(maps.Keys(work))); freed && len(s.dirty) > 0 || s.crowded() {
		return s.retry()
	}
	return s.incomplete()
}

// crowded says whether something found no room that is only at rest.
func (s *syncer) crowded() bool {
	if len(s.runs.rest.queue)+len(s.backendIDs.rest.queue)+len(s.serviceIDs.rest.queue) == 0 {
		return false
	}
	for _, err := range s.dirty {
		if errors.Is(err, ErrFull) {
			return true
		}
	}
	return false
}

// endRest makes room of what is at rest, by waiting for programs instead of for the clock. That
// takes some milliseconds, so it is done only when there is no other room.
func (s *syncer) endRest() error {
	if err := s.tables.wait(); err != nil {
		return err
	}
	s.runs.rest.end()
	s.backendIDs.rest.end()
	s.serviceIDs.rest.end()
	return nil
}

// canonicalBackends returns the backends in canonical form, sorted and without duplicates. A catalog's are, and are shared
// with it: nobody changes them.
func canonicalBackends(backends []registry.Backend) []registry.Backend {
	if areCanonical(backends) {
		return backends
	}
	out := make([]registry.Backend, len(backends))
	for i, b := range backends {
		b.AddrPort = canonicalAddrPort(b.AddrPort)
		out[i] = b
	}
	slices.SortFunc(out, registry.Backend.Compare)
	return slices.CompactFunc(out, func(a, b registry.Backend) bool { return a.AddrPort == b.AddrPort })
}

func areCanonical(backends []registry.Backend) bool {
	for i, b := range backends {
		if b.AddrPort != canonicalAddrPort(b.AddrPort) || i > 0 && b.AddrPort.Compare(backends[i-1].AddrPort) <= 0 {
			return false
		}
	}
	return true
}

// retry works off what earlier updates left.
func (s *syncer) retry() error {
	for s.pass(slices.Collect(maps.Keys(s.dirty))) && len(s.dirty) > 0 {
		// Something made room for what did not fit before. Each round deletes services, so this ends.
	}
	if s.crowded() {
		if err := s.endRest(); err != nil {
			return errors.Join(err, s.incomplete())
		}
		s.pass(slices.Collect(maps.Keys(s.dirty)))
	}
	return s.incomplete()
}

// incomplete returns an error that names what is not in the maps as it should be, or nil.
func (s *syncer) incomplete() error {
	errs := append(firstErrors(s.dirty), firstErrors(s.unmet)...)
	for addr, err := range s.unsettled {
		errs = append(errs, fmt.Errorf("mark of VIP %s: %w", addr, err))
		break
	}
	if n := len(s.unfreed); n > 0 {
		errs = append(errs, fmt.Errorf("%d backends could not be made free", n))
	}
	return errors.Join(errs...)
}

// firstErrors returns the errors of the first frontends, and how many more there are.
func firstErrors(of map[registry.Frontend]error) (errs []error) {
	const named = 3
	var first []registry.Frontend
	for f := range of {
		i, _ := slices.BinarySearchFunc(first, f, compareFrontends)
		if i < named {
			first = slices.Insert(first, i, f)
			first = first[:min(len(first), named)]
		}
	}
	for _, f := range first {
		errs = append(errs, fmt.Errorf("%s: %w", describe(f), of[f]))
	}
	if more := len(of) - len(first); more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	return errs
}

// pending says whether there is something to retry.
func (s *syncer) pending() bool {
	return len(s.dirty) > 0 || len(s.unfreed) > 0 || len(s.unsettled) > 0
}

// pass makes the changes of these frontends, each once, and says whether it made room: deleted some.
func (s *syncer) pass(work []registry.Frontend) (freed bool) {
	slices.SortFunc(work, compareFrontends)
	var upserts, deletes []*change
	for _, f := range work {
		c, err := s.plan(f)
		switch {
		case err != nil:
			s.dirty[f] = err
		case c == nil:
			delete(s.dirty, f)
		case c.next == nil:
			deletes = append(deletes, c)
		default:
			upserts = append(upserts, c)
		}
	}
	upserts = s.writeBackends(upserts)
	upserts = s.writeSlots(upserts)
	upserts = s.mark(upserts)
	upserts = s.publish(upserts)
	deletes = s.withdraw(deletes)
	s.settleVIPs()
	s.release(upserts)
	s.release(deletes)
	return len(deletes) > 0
}
