package kernel

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"github.com/sluice-net/sluice/loader"
)

// twin is a counted copy of a program that runs, on the same maps and with the same config.
type twin struct {
	prog     *ebpf.Program
	counted  *counted
	counters *ebpf.Map
}

// newTwin makes the copy of a program that was made from this spec.
func newTwin(of *ebpf.Program, spec *ebpf.CollectionSpec, name string) (t *twin, err error) {
	t = &twin{}
	var used map[string]*ebpf.Map
	defer func() {
		for _, m := range used {
			m.Close()
		}
		if err != nil {
			t.close()
			err = fmt.Errorf("make a counted copy of %s: %w", name, err)
		}
	}()
	if used, err = mapsOf(of); err != nil {
		return t, err
	}
	spec = spec.Copy()
	spec.Programs = map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}
	spec.Variables = nil // the map of the config is there
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if used[name] == nil {
			delete(spec.Maps, name) // of other programs
			continue
		}
		m.MaxEntries = used[name].MaxEntries()
	}
	// As many counters as there can be.
	if t.counters, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "bench_counters", Type: ebpf.Array, KeySize: 4,
		ValueSize: uint32(8 * 2 * len(spec.Programs[name].Instructions)), MaxEntries: 1,
	}); err != nil {
		return t, err
	}
	array := func(name string) bool {
		m := spec.Maps[name]
		return m != nil && (m.Type == ebpf.Array || m.Type == ebpf.PerCPUArray)
	}
	if t.counted, err = addCounters(spec.Programs[name].Instructions, t.counters.FD(), array); err != nil {
		return t, err
	}
	spec.Programs[name].Instructions = t.counted.code
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: maps.Clone(used)})
	if err != nil {
		return t, err
	}
	defer coll.Close()
	t.prog = coll.DetachProgram(name)
	return t, nil
}

// mapsOf opens the maps that a program uses.
func mapsOf(prog *ebpf.Program) (map[string]*ebpf.Map, error) {
	info, err := prog.Info()
	if err != nil {
		return nil, err
	}
	ids, ok := info.MapIDs()
	if !ok {
		return nil, errors.New("the kernel does not tell which maps it uses")
	}
	used := map[string]*ebpf.Map{}
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return used, err
		}
		info, err := m.Info()
		if err != nil {
			m.Close()
			return used, err
		}
		used[info.Name] = m
	}
	return used, nil
}

// read returns what all runs together executed.
func (t *twin) read() (Counts, error) { return t.counted.sum(t.counters) }

func (t *twin) close() {
	t.prog.Close()
	t.counters.Close()
}

// objects is what programs are made from.
func objects() (map[string]*ebpf.CollectionSpec, error) {
	sock, pod, err := loader.Objects()
	if err != nil {
		return nil, err
	}
	specs := map[string]*ebpf.CollectionSpec{}
	for _, spec := range []*ebpf.CollectionSpec{sock, pod} {
		for name := range spec.Programs {
			specs[name] = spec
		}
	}
	return specs, nil
}
