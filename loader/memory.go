package loader

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// memory is a BPF_F_MMAPABLE array map as memory. Programs see each store as it is made, so what
// they read by itself is stored atomically, and what must be complete before they look is stored
// first. (Stores are not reordered for a reader: sync/atomic's are sequentially consistent.)
type memory struct {
	b       []byte
	stride  uintptr // value size rounded up to 8, as the kernel lays arrays out
	entries uint32
}

// mapMemory maps the whole of an array map. prot is unix.PROT_READ, or with unix.PROT_WRITE.
func mapMemory(m *ebpf.Map, prot int) (*memory, error) {
	stride := (uintptr(m.ValueSize()) + 7) &^ 7
	page := uintptr(os.Getpagesize())
	size := (stride*uintptr(m.MaxEntries()) + page - 1) &^ (page - 1)
	b, err := unix.Mmap(m.FD(), 0, int(size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of %s into memory: %w", size, m, err)
	}
	return &memory{b: b, stride: stride, entries: m.MaxEntries()}, nil
}

func (m *memory) close() {
	if m != nil && m.b != nil {
		// Munmap of what Mmap returned does not fail.
		_ = unix.Munmap(m.b)
		m.b = nil
	}
}

// at returns the address of an entry's byte. An index out of range panics, as for a slice.
func (m *memory) at(i uint32, offset uintptr) unsafe.Pointer {
	if i >= m.entries {
		panic(fmt.Sprintf("entry %d of an array of %d", i, m.entries))
	}
	return unsafe.Pointer(&m.b[uintptr(i)*m.stride+offset])
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
