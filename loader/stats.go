package loader

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// ServiceStats counts what went through one port of a service, all its VIPs together.
type ServiceStats struct {
	Service     registry.Name
	PortName    string
	Port        uint16
	Protocol    registry.Protocol
	Connections uint64 // flows and sockets that were given a backend
	Refused     uint64 // the same, but there was no backend
	Packets     uint64 // both directions, as seen by tc
	Bytes       uint64 // the same packets' length, link header included
}

// statsChunk is how many services are read with one hold of the lock: a scrape must not keep Sync
// waiting. 64 take 0.1 ms.
const statsChunk = 64

// Stats returns the counts of every service port that the maps hold. The order is none.
func (l *Loader) Stats() ([]ServiceStats, error) {
	type port struct {
		service  registry.Name
		label    string
		protocol registry.Protocol
	}
	sums := map[port]*ServiceStats{}
	var perCPU []serviceStats
	for first := uint32(0); first < l.o.Sizes.Services; first += statsChunk {
		err := l.locked(func() error {
			return l.syncer.statsOf(first, first+statsChunk, func(id uint32, r registry.Resolved) error {
				if err := l.maps.get(sockMapServiceStats).Lookup(id, &perCPU); err != nil {
					return fmt.Errorf("read entry %d of map service_stats: %w", id, err)
				}
				s := ServiceStats{Service: r.Service, PortName: r.PortName, Port: r.Port, Protocol: r.Protocol}
				key := port{s.Service, s.Label(), s.Protocol}
				if sums[key] == nil {
					sums[key] = &s
				}
				sums[key].add(perCPU)
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		runtime.Gosched() // let go of the lock to whoever waits
	}
	stats := make([]ServiceStats, 0, len(sums))
	for _, sum := range sums {
		stats = append(stats, *sum)
	}
	return stats, nil
}

// add counts one frontend more.
func (s *ServiceStats) add(perCPU []serviceStats) {
	for _, c := range perCPU {
		s.Connections += c.Connections
		s.Refused += c.Refused
		s.Packets += c.Packets
		s.Bytes += c.Bytes
	}
}

// Label names the port: by its name, or its number if it has none.
func (s ServiceStats) Label() string {
	if s.PortName != "" {
		return s.PortName
	}
	return strconv.Itoa(int(s.Port))
}

// locked calls f while the maps cannot be closed.
func (l *Loader) locked(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	return f()
}

// Counter is one field of struct counters, summed over all CPUs.
type Counter struct {
	Name  string // as in bpf/types.h
	Value uint64
}

// Counters returns what the programs count, in the order of bpf/types.h.
func (l *Loader) Counters() ([]Counter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	var perCPU []counters
	if err := l.maps.get(sockMapCounters).Lookup(uint32(0), &perCPU); err != nil {
		return nil, fmt.Errorf("read map counters: %w", err)
	}
	var list []Counter
	for i, f := range reflect.VisibleFields(reflect.TypeFor[counters]()) {
		if f.Type.Kind() != reflect.Uint64 {
			continue
		}
		c := Counter{Name: snakeCase(f.Name)}
		for _, values := range perCPU {
			c.Value += reflect.ValueOf(values).Field(i).Uint()
		}
		list = append(list, c)
	}
	return list, nil
}

// snakeCase undoes what bpf2go does to the names of fields: DropPortsSpent was drop_ports_spent.
func snakeCase(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// MapInfo is the fill of one map.
type MapInfo struct {
	Name    string
	Entries uint64 // in use; those at rest included. Of a cache: up to a minute old.
	Limit   uint64
	Bytes   uint64 // memory that the kernel holds for it
}

// cacheAge is how old the count of a cache's entries may be: counting takes a walk over all of them.
const cacheAge = time.Minute

// cacheFill remembers a count.
type cacheFill struct {
	entries uint64
	counted time.Time
}

// Maps returns the fill of every map that can be full, by name.
func (l *Loader) Maps() ([]MapInfo, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	var list []MapInfo
	for _, name := range l.maps.names() {
		m := l.maps.get(name)
		info, err := m.Info()
		if err != nil {
			return nil, fmt.Errorf("read map %s: %w", name, err)
		}
		bytes, _ := info.Memlock()
		entries, err := l.entries(name, m)
		if err != nil {
			return nil, fmt.Errorf("count entries of map %s: %w", name, err)
		}
		list = append(list, MapInfo{
			Name: name, Entries: entries, Limit: uint64(m.MaxEntries()), Bytes: bytes,
		})
	}
	return list, nil
}

// entries returns how many entries of a map are in use.
func (l *Loader) entries(name string, m *ebpf.Map) (uint64, error) {
	switch name {
	case sockMapServices:
		return uint64(len(l.syncer.held) + len(l.syncer.vips)), nil
	case sockMapServiceStats:
		return uint64(l.syncer.serviceIDs.count), nil
	case sockMapSlots:
		return uint64(l.syncer.runs.used), nil
	case sockMapBackends:
		return uint64(l.syncer.backendIDs.count), nil
	case sockMapEndpoints:
		l.wireMu.Lock()
		defer l.wireMu.Unlock()
		return uint64(len(l.endpoints.owner)), nil
	case sockMapEpochs:
		l.wireMu.Lock()
		defer l.wireMu.Unlock()
		return uint64(l.endpoints.ids.count), nil
	case sockMapCounters, sockMapSettings, sockMapEventLimits:
		return 1, nil
	case sockMapEvents:
		return ringFill(m)
	case sockMapNamespaces:
		l.wireMu.Lock()
		defer l.wireMu.Unlock()
		return uint64(len(l.namespaces.users)), nil
	}
	if n, known := l.isolationEntries(name); known {
		return n, nil
	}
	if !isCache(m.Type()) {
		return 0, errors.New("a map that nobody counts")
	}
	now := l.o.now()
	if fill, known := l.fills[name]; known && now.Sub(fill.counted) < cacheAge {
		return fill.entries, nil
	}
	var n uint64
	if err := eachEntry(m, func(_, _ []byte) error { n++; return nil }); err != nil {
		return 0, err
	}
	l.fills[name] = cacheFill{n, now}
	return n, nil
}

// isolationEntries returns how many entries of a map of isolation's are in use; those at rest included.
func (l *Loader) isolationEntries(name string) (n uint64, known bool) {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	s := l.isolation
	switch name {
	case sockMapNumbers:
		n = uint64(len(s.identities.byDigest) + len(s.networks.byDigest) + len(s.rulesets.policies.byDigest))
	case sockMapSubjects:
		n = uint64(s.identities.ids.count)
	case sockMapPolicyStats:
		n = uint64(s.rulesets.policies.ids.count)
	case sockMapPolicy:
		n = uint64(s.entries)
	case sockMapPrefixes:
		n = uint64(len(s.prefixes))
	case sockMapRulesets:
		n = uint64(s.rulesets.ids.count)
	case sockMapPortNodes:
		n = uint64(s.rulesets.nodes.ids.count)
	case sockMapOutcomes:
		n = uint64(s.rulesets.outcomes.ids.count)
	default:
		return 0, false
	}
	return n, true
}

// ringFill returns how many bytes of a ring buffer wait to be read: what was written less what was read,
// which the kernel tells in the first two pages.
func ringFill(m *ebpf.Map) (uint64, error) {
	var position [2]uint64
	for i := range position {
		page, err := unix.Mmap(m.FD(), int64(i*os.Getpagesize()), os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return 0, err
		}
		position[i] = atomic.LoadUint64((*uint64)(unsafe.Pointer(&page[0])))
		if err := unix.Munmap(page); err != nil {
			return 0, err
		}
	}
	return position[1] - position[0], nil
}
