package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// sockDiag asks a network namespace about its sockets, see sock_diag(7).
type sockDiag struct {
	socket *nl.NetlinkSocket
	sums   map[int]*nl.SocketHandle
	cookie uint64 // of the namespace; 0: the kernel tells none
}

// Why a kernel cannot end sockets of a protocol.
var (
	errNoDiag    = errors.New("it cannot list them: load module tcp_diag or udp_diag (CONFIG_INET_DIAG), then start the agent again")
	errNoDestroy = errors.New("it is built without CONFIG_INET_DIAG_DESTROY")
)

// Of linux/inet_diag.h.
const (
	sizeofDiagID   = 48 // struct inet_diag_sockid
	offsetofDiagID = 4  // in struct inet_diag_msg
	diagBytecode   = 1  // INET_DIAG_REQ_BYTECODE
	diagJump       = 1  // INET_DIAG_BC_JMP
	diagPeer       = 8  // INET_DIAG_BC_D_COND
)

// openDiag opens a socket in the network namespace of the calling thread.
func openDiag() (*sockDiag, error) {
	s, err := nl.Subscribe(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	d := &sockDiag{socket: s, sums: map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: s}}}
	d.cookie, err = unix.GetsockoptUint64(s.GetFd(), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == nil || errors.Is(err, unix.ENOPROTOOPT) {
		err = s.SetReceiveTimeout(&nl.SocketTimeoutTv)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("prepare sock_diag socket: %w", err)
	}
	return d, nil
}

func (d *sockDiag) close() { d.socket.Close() }

// maxPeers is how many peers one request asks for: the kernel compares each socket with all of them.
const maxPeers = 256

// destroy ends the sockets of a protocol that have one of the peers and are in found. The application gets
// ECONNABORTED at once, also from a call that waits. When ctx ends it asks the kernel for no more of them.
func (d *sockDiag) destroy(ctx context.Context, proto uint8, peers []netip.AddrPort, found map[sockKey]bool) error {
	for chunk := range slices.Chunk(peers, maxPeers) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// IPv6 sockets may have IPv4 peers.
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			if family == unix.AF_INET && !slices.ContainsFunc(chunk, func(p netip.AddrPort) bool { return p.Addr().Is4() }) {
				continue
			}
			ids, err := d.list(family, proto, chunk, found)
			if err != nil {
				return err
			}
			for _, id := range ids {
				if err := d.end(family, proto, id); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// connected is the set of states in which a socket has a peer, and an application that waits for it. (A UDP
// socket that is connected is TCP_ESTABLISHED.)
func connected(proto uint8) uint32 {
	const ( // net/tcp_states.h
		established, synSent, finWait1, finWait2, closeWait, lastAck, closing = 1, 2, 4, 5, 8, 9, 11
	)
	if proto == unix.IPPROTO_UDP {
		return 1 << established
	}
	return 1<<established | 1<<synSent | 1<<finWait1 | 1<<finWait2 | 1<<closeWait | 1<<lastAck | 1<<closing
}

// list returns what the kernel knows the sockets by. A socket that comes or goes meanwhile may be
// missing.
func (d *sockDiag) list(family, proto uint8, peers []netip.AddrPort, found map[sockKey]bool) (ids [][]byte, err error) {
	r := d.request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, family, proto, make([]byte, sizeofDiagID))
	r.AddData(nl.NewRtAttr(diagBytecode, peerFilter(peers)))
	err = r.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
		if len(m) < offsetofDiagID+sizeofDiagID {
			return true
		}
		id := m[offsetofDiagID : offsetofDiagID+sizeofDiagID]
		if found[keyOf(family, proto, id)] {
			ids = append(ids, slices.Clone(id))
		}
		return true
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, errNoDiag
	case err != nil && !errors.Is(err, nl.ErrDumpInterrupted):
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	return ids, nil
}

// end destroys one socket. One that is closed by now is no error.
func (d *sockDiag) end(family, proto uint8, id []byte) error {
	r := d.request(nl.SOCK_DESTROY, unix.NLM_F_ACK, family, proto, id)
	_, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return errNoDestroy
	case err != nil && !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("destroy socket: %w", err)
	}
	return nil
}

// request is one with struct inet_diag_req_v2.
func (d *sockDiag) request(kind, flags int, family, proto uint8, id []byte) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = d.sums
	head := binary.NativeEndian.AppendUint32([]byte{family, proto, 0, 0}, connected(proto))
	r.AddData(rawData(append(head, id...)))
	return r
}

// rawData is bytes as nl wants them.
type rawData []byte

func (b rawData) Len() int          { return len(b) }
func (b rawData) Serialize() []byte { return b }

// keyOf returns the key in sock_peers and sock_origin of a socket as the kernel describes it: struct inet_diag_sockid.
func keyOf(family, proto uint8, id []byte) sockKey {
	k := sockKey{Proto: proto, Port: binary.BigEndian.Uint16(id[2:]), Cookie: binary.NativeEndian.Uint64(id[40:])}
	peer := netip.AddrFrom16([16]byte(id[20:36]))
	if family == unix.AF_INET {
		peer = netip.AddrFrom4([4]byte(id[20:24]))
	}
	k.Addr = toAddress(peer)
	return k
}

// peerFilter returns the program by which the kernel chooses sockets with one of the peers: for each a
// condition, after which, when it holds, a jump leads to the end. A jump beyond the end refuses a socket
// (net/ipv4/inet_diag.c, inet_diag_bc_run). An IPv4 condition holds for mapped addresses, too.
func peerFilter(peers []netip.AddrPort) []byte {
	const op = 4 // struct inet_diag_bc_op: code, yes, no: where to go on, in bytes from here
	size := func(p netip.AddrPort) int { return op + 8 + p.Addr().BitLen()/8 }
	rest := 0
	for _, p := range peers {
		rest += size(p) + op
	}
	var b []byte
	for i, p := range peers {
		n := size(p)
		no := n + op
		if i == len(peers)-1 {
			no += op // beyond the end
		}
		family := uint8(unix.AF_INET)
		if p.Addr().Is6() {
			family = unix.AF_INET6
		}
		b = binary.NativeEndian.AppendUint16(append(b, diagPeer, uint8(n)), uint16(no))
		// struct inet_diag_hostcond: family, bits of the address, 2 bytes of padding, port in host order
		b = binary.NativeEndian.AppendUint32(append(b, family, uint8(p.Addr().BitLen()), 0, 0), uint32(p.Port()))
		b = append(b, p.Addr().AsSlice()...)
		rest -= n
		b = binary.NativeEndian.AppendUint16(append(b, diagJump, op), uint16(rest))
		rest -= op
	}
	return b
}
