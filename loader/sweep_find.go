package loader

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// usedBackend is a backend as sock_peers and sock_origin know it.
type usedBackend struct {
	addr    address
	port    uint16
	service uint32
}

// find returns the sockets' keys in sock_peers and sock_origin: every socket, open or closed since, that
// knows one of the backends by a VIP.
func (s *sweeper) find(w sweep) (map[sockKey]bool, error) {
	left, gone, err := s.still(w)
	if err != nil || len(left)+len(gone) == 0 {
		return nil, err
	}
	found := map[sockKey]bool{}
	visit := func(k sockKey, o sockOrigin) error {
		switch {
		case gone[k.Addr]:
			found[k] = true
		case k.Proto == unix.IPPROTO_UDP && left[usedBackend{k.Addr, k.Port, o.Service}]:
			found[k] = true
		}
		return nil
	}
	if err := eachPeer(s.l.maps.get(sockMapSockPeers), visit); err != nil {
		return nil, fmt.Errorf("read map sock_peers: %w", err)
	}
	if err := eachOf(s.l.maps.get(sockMapSockOrigin), visit); err != nil {
		return nil, fmt.Errorf("read map sock_origin: %w", err)
	}
	return found, nil
}

// eachPeer visits what sock_peers holds, as it would be in sock_origin. An entry that a program is writing
// may be half of it.
func eachPeer(m *ebpf.Map, visit func(sockKey, sockOrigin) error) error {
	mem, err := mapMemory(m, unix.PROT_READ)
	if err != nil {
		return err
	}
	defer mem.close()
	for i := range mem.entries {
		p := (*sockPeer)(mem.at(i, 0))
		owner := atomic.LoadUint64(&p.Owner)
		if owner == 0 || p.Port == 0 {
			continue
		}
		k := sockKey{Cookie: owner, Addr: p.Addr, Port: p.Port, Proto: p.Proto}
		if err := visit(k, p.Origin); err != nil {
			return err
		}
	}
	return nil
}

// still leaves out what came back meanwhile: the backend to its service, the address to a container. Sockets
// of before and since look alike; the new container resets what it does not know.
func (s *sweeper) still(w sweep) (left map[usedBackend]bool, gone map[address]bool, err error) {
	left, gone = map[usedBackend]bool{}, map[address]bool{}
	for chunk := range slices.Chunk(w.left, statsChunk) {
		err := s.l.locked(func() error {
			for _, v := range chunk {
				if !s.l.syncer.serves(v.service, v.addr) {
					left[usedBackend{toAddress(v.addr.Addr()), v.addr.Port(), v.service}] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	s.l.wireMu.Lock()
	defer s.l.wireMu.Unlock()
	for a := range w.gone {
		if s.l.endpoints.owner[a] == "" {
			gone[toAddress(a)] = true
		}
	}
	return left, gone, nil
}

// serves says whether the service with this id has the backend.
func (s *syncer) serves(service uint32, addr netip.AddrPort) bool {
	h := s.held[s.byID[service]]
	if h == nil || h.id != service {
		return false
	}
	_, has := slices.BinarySearchFunc(h.members, member{addr: addr}, compareMembers)
	return has
}

// peersOf returns the different peers of sockets of one protocol.
func peersOf(found map[sockKey]bool, proto uint8) []netip.AddrPort {
	peers := map[netip.AddrPort]bool{}
	for k := range found {
		if k.Proto == proto {
			peers[netip.AddrPortFrom(fromAddress(k.Addr), k.Port)] = true
		}
	}
	list := make([]netip.AddrPort, 0, len(peers))
	for p := range peers {
		list = append(list, p)
	}
	return list
}
