package loader

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TestMemory compares an array map with what is written to it as memory, at the ends of the windows in which it is
// mapped, before and after they are let go.
func TestMemory(t *testing.T) {
	for _, c := range []struct {
		entries, value uint32
		windows        int
	}{{1, 4, 1}, {8192, 4, 1}, {8193, 24, 2}, {100_000, 40, 13}, {1 << 22, 4, 256}, {3_000_001, 8, 184}} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{
			Type: ebpf.Array, KeySize: 4, ValueSize: c.value, MaxEntries: c.entries, Flags: unix.BPF_F_MMAPABLE,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		mem, err := mapMemory(m, unix.PROT_READ|unix.PROT_WRITE)
		if err != nil {
			t.Fatal(err)
		}
		defer mem.close()
		if len(mem.windows) != c.windows {
			t.Errorf("%d entries: %d windows, want %d", c.entries, len(mem.windows), c.windows)
		}
		places := []uint32{0, c.entries - 1}
		for _, edge := range []uint32{1 << mem.shift, 5 << mem.shift} {
			if edge < c.entries {
				places = append(places, edge-1, edge)
			}
		}
		last := uintptr(c.value - 4)
		for i, at := range places {
			mem.store32(at, 0, uint32(i+1))
			mem.store32(at, last, uint32(i+1))
		}
		mem.forget()
		for _, at := range places {
			value := make([]byte, c.value)
			if err := m.Lookup(at, value); err != nil {
				t.Fatal(err)
			}
			if got := mem.load32(at, last); got == 0 || got != uint32(value[last]) || mem.load32(at, 0) != uint32(value[0]) {
				t.Errorf("entry %d of %d is %d as memory, and %v", at, c.entries, got, value)
			}
		}
		if opened := mem.opened(); opened > len(places) {
			t.Errorf("%d windows are mapped after looks at %d places", opened, len(places))
		}
	}
}

// opened is how many windows are mapped.
func (m *memory) opened() (n int) {
	for i := range m.windows {
		if m.windows[i].Load() != nil {
			n++
		}
	}
	return n
}

// TestMemoryInUse: what looks at all entries of a map, an agent's start and a check, leaves only those mapped that are
// in use.
func TestMemoryInUse(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes.Backends = 100_000
	l := n.open(o)
	for range 2 {
		mustSync(t, l, someServices())
		if diffs, err := l.Check(); err != nil || len(diffs) > 0 {
			t.Errorf("check: %v, %v", diffs, err)
		}
		if opened := l.backends.opened(); opened != 1 {
			t.Errorf("%d of %d windows of backends are mapped, want 1", opened, len(l.backends.windows))
		}
		l.Close()
		l = n.open(o)
	}
}
