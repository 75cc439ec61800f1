package loader

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Maps are replaced by others of another size or layout without stopping the programs:
//
//	copy -> pin as NAME_new -> switch the programs -> copy what changed meanwhile -> rename to NAME
//
// Killed at any point, the next start finds NAME_new and goes on from there. The second copy never
// overwrites what programs wrote to the new map.
//
// A value that has grown is filled up with zeros; fields are only ever added at the end.

// isCache says whether the map's entries may be lost: what was in them is decided anew.
func isCache(t ebpf.MapType) bool { return t == ebpf.LRUHash || t == ebpf.RingBuf }

// fits says whether what a map holds can go into one of the new spec.
func (s *mapSet) fits(name string) error {
	p := s.maps[name]
	for _, src := range p.sources {
		refuse := func(format string, args ...any) error {
			return fmt.Errorf("replace map %s: %s; choose a larger mapScale, or start afresh with "+
				"sluiced --detach", name, fmt.Sprintf(format, args...))
		}
		if src.KeySize() != p.spec.KeySize && !isCache(p.spec.Type) {
			return refuse("its key is %d bytes, this version's is %d", src.KeySize(), p.spec.KeySize)
		}
		if src.ValueSize() > p.spec.ValueSize && !isCache(p.spec.Type) {
			return refuse("its value is %d bytes, this version's is %d", src.ValueSize(), p.spec.ValueSize)
		}
		var need uint64
		var err error
		switch src.Type() {
		case ebpf.Hash, ebpf.LPMTrie:
			err = eachEntry(src, func(_, _ []byte) error { need++; return nil })
		case ebpf.Array, ebpf.PerCPUArray:
			need, err = s.highest(name)
		}
		if err != nil {
			return fmt.Errorf("replace map %s: %w", name, err)
		}
		if need > uint64(p.spec.MaxEntries) {
			return refuse("it needs %d entries, and would have %d", need, p.spec.MaxEntries)
		}
	}
	return nil
}

// highest returns how many entries an array must have for what leads into it.
func (s *mapSet) highest(name string) (need uint64, err error) {
	switch name {
	case "slots", "service_stats", "backends":
		err = eachOf(s.current("services"), func(_ serviceKey, v service) error {
			switch name {
			case "service_stats":
				need = max(need, uint64(v.Id)+1)
			case "slots":
				if v.Count > 0 {
					need = max(need, uint64(v.First)+1<<orderOf(v.Count))
				}
			}
			return nil
		})
		if name == "backends" && err == nil {
			need, err = highestBackend(s.current(name))
		}
	case "subjects", "policy_stats":
		kind := map[string]uint32{"subjects": numberIdentity, "policy_stats": numberPolicy}[name]
		err = eachOf(s.current("numbers"), func(_ numberKey, v numberEntry) error {
			if v.Kind == kind {
				need = max(need, uint64(v.Number)+1)
			}
			return nil
		})
	case "rulesets", "port_nodes", "outcomes":
		need, err = s.highestContent(name)
	case "epochs":
		err = eachOf(s.current("endpoints"), func(_ address, v endpoint) error {
			need = max(need, uint64(v.Id)+1)
			return nil
		})
	}
	return need, err
}

// highestContent returns how many entries a map of rulesets' content must have for what leads to it.
func (s *mapSet) highestContent(name string) (need uint64, err error) {
	mems := map[string]*memory{}
	for _, name := range []string{"subjects", "rulesets", "port_nodes"} {
		m := s.current(name)
		if m == nil {
			return 0, nil
		}
		if mems[name], err = mapMemory(m, unix.PROT_READ); err != nil {
			return 0, err
		}
		defer mems[name].close()
	}
	var used []uint32
	for i := range mems["subjects"].entries {
		v := *(*subject)(mems["subjects"].at(i, 0))
		used = append(used, v.Ingress, v.Egress)
	}
	err = eachOf(s.current("policy"), func(_ policyKey, v policyEntry) error {
		used = append(used, v.Ruleset)
		return nil
	})
	if err != nil {
		return 0, err
	}
	highest := contentUsed(mems["rulesets"], mems["port_nodes"], used)
	return min(uint64(highest[name])+1, uint64(s.current(name).MaxEntries())), nil
}

// contentUsed returns the highest index of each map of content that some rulesets lead to. What is
// out of range leads nowhere.
func contentUsed(rulesets, nodes *memory, used []uint32) map[string]uint32 {
	highest := map[string]uint32{}
	seen := map[uint32]bool{}
	raise := func(name string, i uint32) { highest[name] = max(highest[name], i) }
	var follow func(ref uint32)
	follow = func(ref uint32) {
		if seen[ref] {
			return
		}
		seen[ref] = true
		if ref&leaf != 0 {
			raise("outcomes", ref&^leaf)
			return
		}
		if ref >= nodes.entries {
			return
		}
		raise("port_nodes", ref)
		for _, child := range (*portNode)(nodes.at(ref, 0)).Refs {
			follow(child)
		}
	}
	for _, id := range used {
		if id < rulesetFirst || id >= rulesets.entries {
			continue
		}
		raise("rulesets", id)
		for _, ref := range refsOf(*(*rulesetEntry)(rulesets.at(id, 0))) {
			follow(ref)
		}
	}
	return highest
}

// current returns the map that programs use now, or nil.
func (s *mapSet) current(name string) *ebpf.Map {
	p := s.maps[name]
	if p.m != nil {
		return p.m
	}
	if len(p.sources) > 0 {
		return p.sources[0]
	}
	return nil
}

func highestBackend(m *ebpf.Map) (need uint64, err error) {
	if m == nil {
		return 0, nil
	}
	mem, err := mapMemory(m, unix.PROT_READ)
	if err != nil {
		return 0, err
	}
	defer mem.close()
	for id := range m.MaxEntries() {
		if _, _, state, _ := splitBackendWord(*mem.backendWord(id)); state != backendFree {
			need = uint64(id) + 1
		}
	}
	return need, nil
}

// copyEntries brings what the replaced maps hold into the new ones. The first time it fills maps
// that no program uses yet; the second time it adds what came while the programs were switched.
func (s *mapSet) copyEntries(again bool) error {
	for _, name := range s.names() {
		p := s.maps[name]
		for i, src := range p.sources {
			var err error
			switch {
			case src.KeySize() != p.spec.KeySize || src.ValueSize() > p.spec.ValueSize:
				// A cache of another layout: begins empty.
			case src.Type() == ebpf.PerCPUArray:
				// Programs add to the counts of the new map as soon as they use it.
				if p.fresh && i == 0 && !again {
					err = copyCounts(p.m, src)
				}
			case name == sockMapSockPeers:
				// The new one has other places, or none of these. The LRU hash takes what may not have one.
				err = eachPeer(src, func(k sockKey, o sockOrigin) error {
					return putNew(s.get(sockMapSockOrigin), &k, &o)
				})
			case src.Type() == ebpf.Array:
				// Only the loader writes these, and not now: once is enough.
				if p.fresh && i == 0 && !again {
					err = copyArray(p.m, src)
				}
			case src.Type() == ebpf.RingBuf:
				// What nobody has read yet is lost.
			case src.Type() == ebpf.Hash, src.Type() == ebpf.LPMTrie:
				// The same; and what was found stale since must not come back.
				if !again {
					err = copyHash(p.m, src)
				}
			default: // caches, which programs write
				err = copyHash(p.m, src)
			}
			if err != nil {
				return fmt.Errorf("copy map %s: %w", name, err)
			}
		}
	}
	return nil
}

func copyHash(dst, src *ebpf.Map) error {
	padded := make([]byte, dst.ValueSize())
	return eachEntry(src, func(key, value []byte) error {
		copy(padded, value)
		return putNew(dst, key, padded)
	})
}

// putNew makes an entry, unless there is one.
func putNew(m *ebpf.Map, key, value any) error {
	err := m.Update(key, value, ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return nil
	}
	return err
}

func copyArray(dst, src *ebpf.Map) error {
	to, err := mapMemory(dst, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return err
	}
	defer to.close()
	from, err := mapMemory(src, unix.PROT_READ)
	if err != nil {
		return err
	}
	defer from.close()
	for i := range min(to.entries, from.entries) {
		copy(unsafe.Slice((*byte)(to.at(i, 0)), from.stride), unsafe.Slice((*byte)(from.at(i, 0)), from.stride))
	}
	return nil
}

// copyCounts copies an array that has one value for each CPU.
func copyCounts(dst, src *ebpf.Map) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	for i := range min(dst.MaxEntries(), src.MaxEntries()) {
		var values [][]byte
		if err := src.Lookup(i, &values); err != nil {
			return err
		}
		zero := true
		grown := make([][]byte, cpus)
		for c := range grown {
			grown[c] = make([]byte, dst.ValueSize())
			for j := range copy(grown[c], values[c]) {
				zero = zero && values[c][j] == 0
			}
		}
		if zero {
			continue
		}
		if err := dst.Put(i, grown); err != nil {
			return err
		}
	}
	return nil
}

// eachEntry visits each entry of a hash. Entries that programs write or delete meanwhile may be seen
// or not; key and value are valid during the call only.
func eachEntry(m *ebpf.Map, visit func(key, value []byte) error) error {
	if m.Type() == ebpf.LPMTrie { // which has no batches before Linux 5.13
		return eachByOne(m, visit)
	}
	const batch = 4096
	array := func(size uint32) reflect.Value {
		t := reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]()))
		return reflect.MakeSlice(t, batch, batch)
	}
	keys, values := array(m.KeySize()), array(m.ValueSize())
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys.Interface(), values.Interface(), nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		for i := range n {
			if err := visit(keys.Index(i).Bytes(), values.Index(i).Bytes()); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// eachByOne is eachEntry for maps that cannot be read in batches.
func eachByOne(m *ebpf.Map, visit func(key, value []byte) error) error {
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if err := visit(key, value); err != nil {
			return err
		}
	}
	return entries.Err()
}

// eachOf is eachEntry for a map whose types are known. A shorter value is filled up with zeros. The
// map may be nil: it has no entries.
func eachOf[K, V any](m *ebpf.Map, visit func(K, V) error) error {
	if m == nil {
		return nil
	}
	return eachEntry(m, func(key, value []byte) error {
		var k K
		var v V
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&k)), unsafe.Sizeof(k)), key)
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v)), value)
		return visit(k, v)
	})
}
