package loader

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/sluice-net/sluice/registry"
)

// The structs of bpf/types.h, as bpf2go reads them from BTF.
type (
	address      = sockAddr
	config       = sockConfig
	counters     = sockCounters
	serviceKey   = sockServiceKey
	service      = sockService
	serviceStats = sockServiceStats
	backend      = sockBackend
	endpoint     = sockEndpoint
)

// enum backend_state.
const (
	backendFree   = 0
	backendActive = 1
)

// toAddress returns the form that addresses have in maps: 16 bytes in network order, IPv4 as
// ::ffff:a.b.c.d. A zone is dropped.
func toAddress(a netip.Addr) address {
	return address{Bytes: a.As16()}
}

// fromAddress is the inverse of toAddress. IPv4 comes back as IPv4.
func fromAddress(a address) netip.Addr {
	return netip.AddrFrom16(a.Bytes).Unmap()
}

// toKey returns a frontend's key in services. Ports are in host order in maps.
func toKey(f registry.Frontend) serviceKey {
	return serviceKey{Addr: toAddress(f.Addr), Port: f.Port, Proto: uint8(f.Protocol)}
}

// markerKey returns the key of the entry that says "this address is a VIP".
func markerKey(vip netip.Addr) serviceKey {
	return serviceKey{Addr: toAddress(vip)}
}

// fromKey is the inverse of toKey, and of markerKey for a key with neither port nor protocol.
func fromKey(k serviceKey) registry.Frontend {
	return registry.Frontend{
		Addr: fromAddress(k.Addr), Port: k.Port, Protocol: registry.Protocol(k.Proto),
	}
}

// isMarker says whether the key is a markerKey.
func isMarker(k serviceKey) bool { return k.Port == 0 && k.Proto == 0 }

// canonical gives equal frontends equal form: an IPv4-mapped address is IPv4, and there is no zone.
func canonical(f registry.Frontend) registry.Frontend {
	f.Addr = f.Addr.Unmap().WithZone("")
	return f
}

// canonicalAddrPort is canonical for a backend.
func canonicalAddrPort(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func compareFrontends(a, b registry.Frontend) int {
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// describe writes a frontend the way people do: 10.96.0.1:80/TCP.
func describe(f registry.Frontend) string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Addr, f.Port), f.Protocol)
}

// backendWord packs port, proto, state and epoch of a struct backend as they lie in memory on the
// little-endian machines that the objects are built for: 8 aligned bytes at backendWordOffset, so
// that one store changes state and epoch together.
func backendWord(port uint16, proto, state uint8, epoch uint32) uint64 {
	return uint64(port) | uint64(proto)<<16 | uint64(state)<<24 | uint64(epoch)<<32
}

// splitBackendWord is the inverse of backendWord.
func splitBackendWord(w uint64) (port uint16, proto, state uint8, epoch uint32) {
	return uint16(w), uint8(w >> 16), uint8(w >> 24), uint32(w >> 32)
}

// backendWordOffset is the offset of port in struct backend.
const backendWordOffset = 16
