package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
)

// flowKeyN returns one of many keys of map flows.
func flowKeyN(n int) sockFlowKey {
	return sockFlowKey{Sport: uint16(n), Dport: 80, Proto: 6}
}

// fill puts something into every map that programs write.
func fill(t *testing.T, l *Loader, flows int) {
	t.Helper()
	for n := range flows {
		key := flowKeyN(n)
		if err := l.maps.get("flows").Put(&key, &sockFlow{Service: uint32(n)}); err != nil {
			t.Fatal(err)
		}
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	counts := make([]counters, cpus)
	for i := range counts {
		counts[i].FlowsCreated = uint64(10 + i)
	}
	if err := l.maps.get("counters").Put(uint32(0), counts); err != nil {
		t.Fatal(err)
	}
	id := l.syncer.held[someServices().Set[0].Frontend].id
	stats := make([]serviceStats, cpus)
	stats[0].Connections = 77
	if err := l.maps.get("service_stats").Put(id, stats); err != nil {
		t.Fatal(err)
	}
}

// mustHaveFilled checks that what fill wrote is there.
func mustHaveFilled(t *testing.T, l *Loader, flows int) {
	t.Helper()
	for n := range flows {
		key := flowKeyN(n)
		var f sockFlow
		if err := l.maps.get("flows").Lookup(&key, &f); err != nil || f.Service != uint32(n) {
			t.Errorf("flow %d: %v, %v", n, f.Service, err)
		}
	}
	list, err := l.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if list[0].Name != "flows_created" || list[0].Value == 0 {
		t.Errorf("counters begin with %v", list[0])
	}
	stats, err := l.Stats()
	if err != nil {
		t.Fatal(err)
	}
	var connections uint64
	for _, s := range stats {
		connections += s.Connections
	}
	if connections != 77 {
		t.Errorf("%d connections, want 77", connections)
	}
}

// prepare opens a node's loader with everything filled, and closes it.
func prepare(t *testing.T, n *node, o Options, i Interface) {
	t.Helper()
	l := n.open(o)
	if err := l.Attach(i); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, someServices())
	fill(t, l, 16)
	l.Close()
}

func mustBeMigrated(t *testing.T, n *node, o Options, i Interface) {
	t.Helper()
	l := n.open(o)
	if err := l.VerifyInterface(i); err != nil {
		t.Error(err)
	}
	for name, entries := range o.Sizes.byMap() {
		if got := l.maps.get(name).MaxEntries(); got != entries {
			t.Errorf("map %s has %d entries, want %d", name, got, entries)
		}
	}
	u := someServices()
	mustSync(t, l, u)
	mustBeClean(t, l)
	mustHaveFilled(t, l, 16)
	l.Close()
}

// TestResize: maps grow and shrink with what is in them, both ways to attach.
func TestResize(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		i := n.veth(1)
		prepare(t, n, o, i)
		for _, factor := range []float64{4, 0.25, 0.6, 1} {
			o.Sizes = smallSizes().Scale(factor)
			o.Sizes.Flows, o.Sizes.Services = 64+uint32(factor*64), 64+uint32(factor*64)
			mustBeMigrated(t, n, o, i)
		}
	})
}

// TestResizeKilledAtEachStep: a restart with other sizes ends at each of its steps in turn; the next
// one, with these sizes, the old ones, or others again, finds everything.
func TestResizeKilledAtEachStep(t *testing.T) {
	small := smallSizes()
	double, triple := small.Scale(2), small.Scale(3)
	for name, next := range map[string]Sizes{"same": double, "back": small, "other": triple} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			i := n.veth(1)
			for at := 1; ; at++ {
				prepare(t, n, n.options(), i)
				killed := n.options()
				killed.Sizes = double
				steps := 0
				killed.step = func(string) error {
					if steps++; steps == at {
						return errInjected
					}
					return nil
				}
				l, err := Open(killed)
				if err == nil {
					l.Close()
					break
				}
				if !errors.Is(err, errInjected) {
					t.Fatal(err)
				}
				o := n.options()
				o.Sizes = next
				mustBeMigrated(t, n, o, i)
				if t.Failed() {
					t.Fatalf("after death at step %d", at)
				}
				if err := Detach(n.bpffs); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestResizeWhileRunning: what programs write between the two copies is not lost, and not overwritten.
func TestResizeWhileRunning(t *testing.T) {
	n := newNode(t)
	i := n.veth(1)
	o := n.options()
	// Before Linux 6.16 each CPU takes 128 free entries of an LRU map at a time: of a small map, all.
	// Another CPU then evicts what was just written.
	o.Sizes.Flows = 2048
	prepare(t, n, o, i)
	o.Sizes.Flows = 4096
	var l *Loader
	write := func(pin string, number int, service uint32) {
		m, err := ebpf.LoadPinnedMap(filepath.Join(n.bpffs, pin), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		key := flowKeyN(number)
		if err := m.Put(&key, &sockFlow{Service: service}); err != nil {
			t.Fatal(err)
		}
	}
	o.step = func(name string) error {
		switch name {
		case "restore": // programs still use the old map
			write("flows", 100, 100)
			write("flows", 101, 101)
		case "copy maps again": // and now the new one
			write("flows_new", 101, 201)
			write("flows_new", 102, 202)
		}
		return nil
	}
	l = n.open(o)
	for number, want := range map[int]uint32{3: 3, 100: 100, 101: 201, 102: 202} {
		key := flowKeyN(number)
		var f sockFlow
		if err := l.maps.get("flows").Lookup(&key, &f); err != nil || f.Service != want {
			t.Errorf("flow %d: service %d, %v; want %d", number, f.Service, err, want)
		}
	}
}

// TestResizeRefused: what does not fit is refused, and nothing is changed.
func TestResizeRefused(t *testing.T) {
	for name, shrink := range map[string]func(*Sizes){
		"services":  func(s *Sizes) { s.Services = 3 },
		"slots":     func(s *Sizes) { s.Slots = 4 },
		"backends":  func(s *Sizes) { s.Backends = 4 },
		"endpoints": func(s *Sizes) { s.Endpoints = 1 + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			l := n.open(n.options())
			var wired []Interface
			for i := range 2 {
				wired = append(wired, n.veth(i+1))
				if err := l.Attach(wired[i]); err != nil {
					t.Fatal(err)
				}
			}
			mustSync(t, l, someServices())
			programs, pins := programIDs(t, l), pinsOf(t, n)
			l.Close()

			o := n.options()
			shrink(&o.Sizes)
			if l, err := Open(o); err == nil {
				l.Close()
				t.Fatal("opened with maps too small")
			}
			if got := pinsOf(t, n); got != pins {
				t.Errorf("pins %s became %s", pins, got)
			}
			info, err := linkInfo(filepath.Join(n.bpffs, "links", "sock_connect4"))
			if err != nil || info.Program != programs["sock_connect4"] {
				t.Errorf("the program was replaced: %v, %v", info, err)
			}
			l = n.open(n.options())
			mustSync(t, l, someServices())
			mustBeClean(t, l)
		})
	}
}

// pinsOf lists pins with the ids of their maps.
func pinsOf(t *testing.T, n *node) (list string) {
	t.Helper()
	entries, err := os.ReadDir(n.bpffs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(n.bpffs, e.Name()), nil)
		if err != nil {
			t.Fatal(err)
		}
		id, err := mapID(m)
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		list += fmt.Sprintf("%s=%d ", e.Name(), id)
	}
	return list
}

// TestOlderLayout: maps of an older version, whose values end earlier, are taken over; a cache with
// another key begins empty; another key elsewhere is refused.
func TestOlderLayout(t *testing.T) {
	n := newNode(t)
	i := n.veth(1)
	prepare(t, n, n.options(), i)
	older := func(name string, key, value uint32) {
		old, err := ebpf.LoadPinnedMap(filepath.Join(n.bpffs, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		m, err := ebpf.NewMap(&ebpf.MapSpec{
			Type: old.Type(), KeySize: key, ValueSize: value, MaxEntries: old.MaxEntries(), Flags: old.Flags(),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if old.Type() == ebpf.PerCPUArray {
			if err := copyShorter(m, old); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(filepath.Join(n.bpffs, name)); err != nil {
			t.Fatal(err)
		}
		if err := m.Pin(filepath.Join(n.bpffs, name)); err != nil {
			t.Fatal(err)
		}
	}
	older("counters", 4, 24)
	older("flows", 40, 100)
	l := n.open(n.options())
	list, err := l.Counters()
	if err != nil || list[0].Value == 0 || list[len(list)-1].Value != 0 {
		t.Errorf("counters %v, %v: want the first kept and the last zero", list, err)
	}
	mustSync(t, l, registry.Update{Revision: 4, Snapshot: true, Set: someServices().Set})
	mustBeClean(t, l)
	l.Close()
	older("endpoints", 4, 16)
	if l, err := Open(n.options()); err == nil {
		l.Close()
		t.Error("opened with endpoints of another key")
	}
}

// copyShorter copies the beginning of each CPU's first value.
func copyShorter(dst, src *ebpf.Map) error {
	var values [][]byte
	if err := src.Lookup(uint32(0), &values); err != nil {
		return err
	}
	for c := range values {
		values[c] = values[c][:dst.ValueSize()]
	}
	return dst.Put(uint32(0), values)
}
