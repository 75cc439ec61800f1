package kernel

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/cni"
)

// TCP's flags (RFC 9293, 3.1).
const (
	flagSYN = 0x02
	flagACK = 0x10
)

// packet is one to make. Its checksums are 0: the programs only carry them on.
type packet struct {
	smac     net.HardwareAddr // nil: the gateway's, that is, what comes from the node
	dmac     net.HardwareAddr // nil: the gateway's
	src, dst netip.AddrPort
	proto    uint8
	flags    uint8  // TCP
	body     []byte // instead of a transport header
	piece    piece
	// ethertype of a frame that is not IP and has no more than a body; 0: it is.
	ethertype uint16
}

// piece says which part of a datagram the packet is.
type piece uint8

const (
	whole piece = iota
	first
	later
)

const (
	ethLen   = 14
	fragment = 77 // the datagram that pieces are of
)

// daddr is the offset of the destination's last three bytes.
func (p packet) daddr() int {
	if p.src.Addr().Is4() {
		return ethLen + 20 - 3
	}
	return ethLen + 40 - 3
}

// l4 is the offset of the transport header.
func (p packet) l4() int {
	switch {
	case p.src.Addr().Is4():
		return ethLen + 20
	case p.piece == whole:
		return ethLen + 40
	default:
		return ethLen + 48
	}
}

func (p packet) bytes() []byte {
	gateway, _ := net.ParseMAC(cni.GatewayMAC)
	mac := func(addr net.HardwareAddr) []byte {
		if addr == nil {
			return gateway
		}
		return addr
	}
	b := append(append([]byte{}, mac(p.dmac)...), mac(p.smac)...)
	if p.ethertype != 0 {
		return append(binary.BigEndian.AppendUint16(b, p.ethertype), p.body...)
	}
	body := p.body
	if body == nil {
		body = p.transport()
	}
	if p.src.Addr().Is4() {
		return append(p.v4(b, len(body)), body...)
	}
	return append(p.v6(b, len(body)), body...)
}

func (p packet) v4(b []byte, body int) []byte {
	b = append(b, 0x08, 0x00, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(20+body))
	b = binary.BigEndian.AppendUint16(b, fragment)
	b = binary.BigEndian.AppendUint16(b, map[piece]uint16{whole: 0x4000, first: 0x2000, later: 0x2000 | 185}[p.piece])
	b = append(b, 64, p.proto, 0, 0)
	return append(append(b, p.src.Addr().AsSlice()...), p.dst.Addr().AsSlice()...)
}

func (p packet) v6(b []byte, body int) []byte {
	next, extra := p.proto, []byte(nil)
	if p.piece != whole {
		extra = []byte{next, 0, 0, 0}
		binary.BigEndian.PutUint16(extra[2:], map[piece]uint16{first: 1, later: 1480 | 1}[p.piece])
		extra = binary.BigEndian.AppendUint32(extra, fragment)
		next = unix.IPPROTO_FRAGMENT
	}
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(body+len(extra)))
	b = append(b, next, 64)
	b = append(append(b, p.src.Addr().AsSlice()...), p.dst.Addr().AsSlice()...)
	return append(b, extra...)
}

func (p packet) transport() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.src.Port())
	b = binary.BigEndian.AppendUint16(b, p.dst.Port())
	switch p.proto {
	case unix.IPPROTO_TCP:
		return append(b, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, p.flags, 0xff, 0xff, 0, 0, 0, 0)
	case unix.IPPROTO_UDP:
		return append(b, 0, 12, 0x12, 0x34, 1, 2, 3, 4)
	default: // SCTP: verification tag, CRC, a DATA chunk (RFC 9260, 3); a tag of 0 is an INIT's
		if p.flags&flagSYN != 0 {
			return append(b, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78, 1, 0, 0, 4)
		}
		return append(b, 0, 0, 0, 9, 0x12, 0x34, 0x56, 0x78, 0, 3, 0, 4)
	}
}

// endsOf reads where a frame that was made from the packet is from and to; ports only if it has any.
func (p packet) endsOf(frame []byte) (src, dst netip.AddrPort) {
	size := p.src.Addr().BitLen() / 8
	at := p.daddr() + 3
	to, _ := netip.AddrFromSlice(frame[at-size : at])
	from, _ := netip.AddrFromSlice(frame[at-2*size : at-size])
	if p.body != nil {
		return netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, 0)
	}
	ports := frame[p.l4():]
	return netip.AddrPortFrom(from, binary.BigEndian.Uint16(ports)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(ports[2:]))
}
