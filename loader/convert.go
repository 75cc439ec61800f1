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
	affinityKey  = sockAffinityKey
	affinity     = sockAffinity
	namespace    = sockNamespace
	sockKey      = sockSockKey
	sockOrigin   = sockSockOrigin
	sockPeer     = sockSockPeer

	prefixKey    = sockPrefixKey
	prefixEntry  = sockPrefix
	subject      = sockSubject
	policyKey    = sockPolicyKey
	policyEntry  = sockPolicy
	rulesetEntry = sockRuleset
	portNode     = sockPortNode
	outcome      = sockOutcome
	policyStats  = sockPolicyStats
	numberKey    = sockNumberKey
	numberEntry  = sockNumber
	settings     = sockSettings
)

// enum backend_state.
const (
	backendFree     = 0
	backendActive   = 1
	backendDraining = 2
)

// enum algorithm.
const (
	algorithmRandom = 0
	algorithmMaglev = 1
)

// enum affinity_kind.
const (
	affinityAddress = 0
	affinityNetns   = 1
)

// enum identity.
const (
	identityNone   = 0
	identityWorld  = 1
	identityNode   = 2
	identityClosed = 3
	identityFirst  = 4
)

// enum ruleset_id.
const (
	rulesetOpen   = 0
	rulesetClosed = 1
	rulesetFirst  = 2
)

// enum direction.
const (
	directionIngress = 0
	directionEgress  = 1
)

// leaf marks a reference that is an index into outcomes.
const leaf = 1 << 31

// enum outcome_flags.
const (
	outcomeAllow = 1 << 0
	outcomeAudit = 1 << 1
	outcomeJoin  = 1 << 2
)

// enum number_kind.
const (
	numberIdentity = 1
	numberNetwork  = 2
	numberPolicy   = 3
)

// enum endpoint_flags.
const endpointWatched = 1 << 0

// toAddress returns the form that addresses have in maps: 16 bytes in network order, IPv4 as
// ::ffff:a.b.c.d. A zone is dropped.
func toAddress(a netip.Addr) address {
	return address{Bytes: a.As16()}
}

// fromAddress is the inverse of toAddress. IPv4 comes back as IPv4.
func fromAddress(a address) netip.Addr {
	return netip.AddrFrom16(a.Bytes).Unmap()
}

// toPrefixKey returns a block's key in prefixes: an IPv4 block is one of ::ffff:0:0/96.
func toPrefixKey(p netip.Prefix) prefixKey {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return prefixKey{Length: uint32(bits), Addr: toAddress(p.Addr())}
}

// fromPrefixKey is the inverse of toPrefixKey.
func fromPrefixKey(k prefixKey) netip.Prefix {
	a := netip.AddrFrom16(k.Addr.Bytes)
	if a.Is4In6() && k.Length >= 96 {
		return netip.PrefixFrom(a.Unmap(), int(k.Length)-96)
	}
	return netip.PrefixFrom(a, int(k.Length))
}

// everyIPv4 is the key of 0.0.0.0/0.
func everyIPv4() prefixKey { return toPrefixKey(netip.PrefixFrom(netip.IPv4Unspecified(), 0)) }

// hostPrefix returns the block of one address.
func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

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
