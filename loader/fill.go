package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

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
	list, caches, err := l.mapInfos()
	defer func() {
		for _, m := range caches {
			m.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	for i := range list {
		name := list[i].Name
		if caches[name] == nil {
			continue
		}
		// Without the lock: that of a full map of default size takes a tenth of a second.
		if list[i].Entries, err = countCache(name, caches[name]); err != nil {
			return nil, fmt.Errorf("count entries of map %s: %w", name, err)
		}
		l.mu.Lock()
		l.fills[name] = cacheFill{list[i].Entries, l.o.now()}
		l.mu.Unlock()
	}
	return list, nil
}

// mapInfos returns the maps, and those that are to be counted yet, which the caller closes.
func (l *Loader) mapInfos() (list []MapInfo, caches map[string]*ebpf.Map, err error) {
	caches = map[string]*ebpf.Map{}
	err = l.locked(func() error {
		for _, name := range append(l.maps.names(), podMapAsked) {
			m := l.programs.asked
			if name != podMapAsked {
				m = l.maps.get(name)
			}
			info, err := m.Info()
			if err != nil {
				return fmt.Errorf("read map %s: %w", name, err)
			}
			i := MapInfo{Name: name, Limit: uint64(m.MaxEntries())}
			i.Bytes, _ = info.Memlock()
			if name == podMapAsked {
				i.Limit *= askedWays
			}
			var known bool
			if i.Entries, known, err = l.entries(name, m); err != nil {
				return fmt.Errorf("count entries of map %s: %w", name, err)
			}
			if !known {
				// The loader may be closed meanwhile.
				if caches[name], err = m.Clone(); err != nil {
					return fmt.Errorf("open map %s again: %w", name, err)
				}
			}
			list = append(list, i)
		}
		return nil
	})
	slices.SortFunc(list, func(a, b MapInfo) int { return strings.Compare(a.Name, b.Name) })
	return list, caches, err
}

// countCache counts the entries of a map that programs fill.
func countCache(name string, m *ebpf.Map) (n uint64, err error) {
	err = eachEntry(m, func(_, value []byte) error {
		switch name {
		case podMapAsked:
		case sockMapSockPeers:
			if binary.NativeEndian.Uint64(value) != 0 { // owner
				n++
			}
			return nil
		default:
			n++
			return nil
		}
		// struct asked_bucket: ways that end with the second when they were noted; 0: never
		way := len(value) / askedWays
		for ; len(value) > 0; value = value[way:] {
			if binary.NativeEndian.Uint32(value[way-4:]) != 0 {
				n++
			}
		}
		return nil
	})
	return n, err
}

// entries returns how many entries of a map are in use, unless that must be counted.
func (l *Loader) entries(name string, m *ebpf.Map) (n uint64, known bool, err error) {
	if isCache(m.Type()) && name != sockMapEvents || name == podMapAsked || name == sockMapSockPeers {
		fill, known := l.fills[name]
		return fill.entries, known && l.o.now().Sub(fill.counted) < cacheAge, nil
	}
	n, err = l.inUse(name, m)
	return n, true, err
}

// inUse returns how many entries of a map the loader holds, those at rest included; of the ring buffer how many
// bytes wait to be read.
func (l *Loader) inUse(name string, m *ebpf.Map) (uint64, error) {
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
	return 0, errors.New("a map that nobody counts")
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
