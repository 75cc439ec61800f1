package loader

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// memory is a BPF_F_MMAPABLE array map as memory. Programs see each store as it is made, so what
// they read by itself is stored atomically, and what must be complete before they look is stored
// first. (Stores are not reordered for a reader: sync/atomic's are sequentially consistent.)
//
// It is mapped in windows of many entries, each when it is first looked at: all that is mapped counts as the
// process's own memory, and of a map with room for a large cluster a small one uses a corner.
type memory struct {
	entries uint32
	stride  uintptr // value size rounded up to 8, as the kernel lays arrays out
	shift   uint8   // a window has 1 << shift entries
	m       *ebpf.Map
	prot    int

	mu      sync.Mutex // held to map a window
	windows []atomic.Pointer[byte]
}

const (
	// windowShift makes windows of 8192 entries: whole pages of any size, entries being multiples of 8 bytes.
	windowShift = 13
	// windowsMost bounds how many mappings a map is made of.
	windowsMost = 256
)

// mapMemory makes an array map's entries readable, or with unix.PROT_WRITE in prot writable as well. The map stays
// the caller's and must outlive the memory.
func mapMemory(m *ebpf.Map, prot int) (*memory, error) {
	mem := &memory{
		entries: m.MaxEntries(), stride: (uintptr(m.ValueSize()) + 7) &^ 7, shift: windowShift, m: m, prot: prot,
	}
	for (mem.entries-1)>>mem.shift >= windowsMost {
		mem.shift++
	}
	mem.windows = make([]atomic.Pointer[byte], (mem.entries-1)>>mem.shift+1)
	// If it works once it works again.
	if _, err := mem.open(0); err != nil {
		return nil, err
	}
	return mem, nil
}

// span returns where a window begins in the map, and its length, in bytes.
func (m *memory) span(window uint32) (offset, length uintptr) {
	first := uintptr(window) << m.shift
	entries := min(uintptr(m.entries)-first, 1<<m.shift)
	page := uintptr(os.Getpagesize())
	return first * m.stride, (entries*m.stride + page - 1) &^ (page - 1)
}

// open returns the address of a window, which it maps if need be.
func (m *memory) open(window uint32) (*byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.windows[window].Load(); p != nil {
		return p, nil
	}
	offset, length := m.span(window)
	b, err := unix.MmapPtr(m.m.FD(), int64(offset), nil, length, m.prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of %s into memory: %w", length, m.m, err)
	}
	m.windows[window].Store((*byte)(b))
	return (*byte)(b), nil
}

// close lets go of all windows. Nothing may be looked at any more.
func (m *memory) close() {
	if m != nil {
		m.forget()
	}
}

// forget lets go of all windows; those that are looked at again are mapped again. Nobody may look meanwhile.
func (m *memory) forget() {
	for i := range m.windows {
		if p := m.windows[i].Swap(nil); p != nil {
			_, length := m.span(uint32(i))
			// Munmap of what was mapped does not fail.
			_ = unix.MunmapPtr(unsafe.Pointer(p), length)
		}
	}
}

// at returns the address of an entry's byte. An index out of range panics, as for a slice; so does a window for
// which the kernel has no memory, as Go's own heap does then.
func (m *memory) at(i uint32, offset uintptr) unsafe.Pointer {
	if i >= m.entries {
		panic(fmt.Sprintf("entry %d of an array of %d", i, m.entries))
	}
	window := i >> m.shift
	p := m.windows[window].Load()
	if p == nil {
		var err error
		if p, err = m.open(window); err != nil {
			panic(err)
		}
	}
	return unsafe.Add(unsafe.Pointer(p), uintptr(i-window<<m.shift)*m.stride+offset)
}

func (m *memory) load32(i uint32, offset uintptr) uint32 {
	return atomic.LoadUint32((*uint32)(m.at(i, offset)))
}

func (m *memory) store32(i uint32, offset uintptr, v uint32) {
	atomic.StoreUint32((*uint32)(m.at(i, offset)), v)
}

// raise adds one to a 32-bit epoch or generation. They wrap; they are only ever compared for equality.
func (m *memory) raise(i uint32, offset uintptr) {
	atomic.AddUint32((*uint32)(m.at(i, offset)), 1)
}

func (m *memory) backendWord(id uint32) *uint64 {
	return (*uint64)(m.at(id, backendWordOffset))
}

// backend reads an entry of backends.
func (m *memory) backend(id uint32) backend {
	b := *(*backend)(m.at(id, 0))
	b.Port, b.Proto, b.State, b.Epoch = splitBackendWord(atomic.LoadUint64(m.backendWord(id)))
	return b
}

// fillBackend writes an entry of backends that is free, and gives it its state as its last step. The
// epoch rises once more: should a predecessor have died half-way, no flow of its can match.
func (m *memory) fillBackend(id uint32, b backend) {
	_, _, _, epoch := splitBackendWord(atomic.LoadUint64(m.backendWord(id)))
	entry := (*backend)(m.at(id, 0))
	entry.Addr, entry.Service, entry.Used = b.Addr, b.Service, 0
	atomic.StoreUint64(m.backendWord(id), backendWord(b.Port, b.Proto, b.State, epoch+1))
}

// turnBackend changes the state of an entry of backends, and nothing else: what was decided from it
// still holds.
func (m *memory) turnBackend(id uint32, state uint8) {
	port, proto, _, epoch := splitBackendWord(atomic.LoadUint64(m.backendWord(id)))
	atomic.StoreUint64(m.backendWord(id), backendWord(port, proto, state, epoch))
}

// holds says whether the entries from first on, of 32 bits each, are these. first+len is in range.
func (m *memory) holds(first uint32, values []uint32) bool {
	for i, v := range values {
		if m.load32(first+uint32(i), 0) != v {
			return false
		}
	}
	return true
}

// freeBackend makes an entry free and raises its epoch in one store. Two stores would be wrong in
// either order:
//
//	epoch first: a flow decides anew, finds the backend still active, keeps it with the new epoch,
//	             and never learns that it became free
//	state first: the agent dies in between, and flows go on to a backend that is gone
//
// Address and port stay, so that a dump shows what was there.
func (m *memory) freeBackend(id uint32) {
	port, proto, _, epoch := splitBackendWord(atomic.LoadUint64(m.backendWord(id)))
	atomic.StoreUint64(m.backendWord(id), backendWord(port, proto, backendFree, epoch+1))
}
