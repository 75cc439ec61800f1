package loader

import "encoding/binary"

const (
	etherVLAN     = 0x8100
	etherProvider = 0x88a8
)

// What a frame is to the model.
const (
	kindOther = iota // none of these, nor of the model's family
	kindARP
	kindVLAN
	kindTransport // TCP, UDP, SCTP
	kindICMP
	kindIP // another protocol
	kindLater
	kindMalformed
	kindExtensions
	kindSourceRoute
)

const (
	fragmentNone = iota
	fragmentFirst
	fragmentLater
)

// modelPacket is what the programs must know of a packet. It refers to the frame's bytes.
type modelPacket struct {
	b        []byte
	kind     int
	tuple    modelTuple
	l4, end  int // offset of the transport header, and of the first byte behind the IP packet
	fragment int
	fragID   uint32
	flags    uint8 // of TCP, or what they are called for others
	icmpType uint8
	v6       bool
	routed   bool // the sender names routers
	single   bool // of no flow
}

func (p *modelPacket) smac() [6]byte { return [6]byte(p.b[6:12]) }
func (p *modelPacket) opens() bool   { return p.flags&(flagSYN|flagACK) == flagSYN }
func (p *modelPacket) length() int   { return p.end - p.l4 }

func (p *modelPacket) isError() bool {
	if p.v6 {
		return p.icmpType < 128
	}
	return p.icmpType == 3 || p.icmpType == 11 || p.icmpType == 12
}

func (p *modelPacket) isRouterMessage() bool {
	if p.v6 {
		return p.icmpType == 134 || p.icmpType == 137
	}
	return p.icmpType == 5 || p.icmpType == 9
}

func (p *modelPacket) isNeighbourMessage() bool {
	return p.v6 && (p.icmpType == 135 || p.icmpType == 136)
}

// nameEcho puts an echo's identifier where a port would be. It returns false if the message is no echo.
func (p *modelPacket) nameEcho() bool {
	request, reply := uint8(8), uint8(0)
	if p.v6 {
		request, reply = 128, 129
	}
	id := binary.BigEndian.Uint16(p.b[p.l4+4:])
	switch p.b[p.l4] {
	case request:
		p.tuple.sport, p.flags = id, flagSYN
	case reply:
		p.tuple.dport = id
	default:
		return false
	}
	return true
}

func modelIsV4(a modelAddr) bool { return [12]byte(a[:12]) == [12]byte{10: 0xff, 11: 0xff} }

func modelV4(b []byte) modelAddr {
	return modelAddr{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}
}

// parseModel reads a frame. Strict tells packets apart whose sender names routers.
func parseModel(b []byte, v6, strict bool) modelPacket {
	p := modelPacket{b: b, v6: v6}
	switch typ := binary.BigEndian.Uint16(b[12:]); {
	case typ == etherIPv4 && !v6:
		p.kind = p.parseIPv4(14, strict)
	case typ == etherIPv6 && v6:
		p.kind = p.parseIPv6(14, strict)
	case typ == etherARP:
		p.kind = kindARP
	case typ == etherVLAN, typ == etherProvider:
		p.kind = kindVLAN
	default:
		return p
	}
	if p.kind == kindIP {
		p.kind = p.parseTransport()
	}
	return p
}

// parseIPv4 reads the header at an offset. It returns kindIP when that is all right.
func (p *modelPacket) parseIPv4(at int, strict bool) int {
	h := p.b[at:]
	size, total := int(h[0]&15)*4, int(binary.BigEndian.Uint16(h[2:]))
	if h[0]>>4 != 4 || size < 20 || total < size || total > len(h) {
		return kindMalformed
	}
	p.tuple = modelTuple{src: modelV4(h[12:]), dst: modelV4(h[16:]), proto: h[9]}
	p.l4, p.end = at+size, at+total
	p.fragment, p.fragID = fragmentIPv4(h), uint32(binary.BigEndian.Uint16(h[4:]))
	if strict && sourceRouted(h[20:], size-20) {
		return kindSourceRoute
	}
	return kindIP
}

func fragmentIPv4(h []byte) int {
	switch field := binary.BigEndian.Uint16(h[6:]); {
	case field&0x1fff != 0:
		return fragmentLater
	case field&0x2000 != 0:
		return fragmentFirst
	}
	return fragmentNone
}

// sourceRouted says whether options of n bytes hold a source route.
func sourceRouted(b []byte, n int) bool {
	for at := 0; at < n && at+2 <= len(b); {
		switch typ := b[at]; {
		case typ == 131 || typ == 137:
			return true
		case typ == 0:
			return false
		case typ == 1:
			at++
		case b[at+1] < 2:
			return false
		default:
			at += int(b[at+1])
		}
	}
	return false
}

func (p *modelPacket) parseIPv6(at int, strict bool) int {
	h := p.b[at:]
	p.end = at + 40 + int(binary.BigEndian.Uint16(h[4:]))
	if h[0]>>4 != 6 || p.end > len(p.b) {
		return kindMalformed
	}
	p.tuple = modelTuple{src: modelAddr(h[8:24]), dst: modelAddr(h[24:40])}
	if modelIsV4(p.tuple.src) || modelIsV4(p.tuple.dst) {
		return kindMalformed
	}
	if kind := p.skipExtensions(at+40, h[6]); kind != kindIP {
		return kind
	}
	switch {
	case p.l4 > p.end:
		return kindMalformed
	case strict && p.routed:
		return kindSourceRoute
	}
	return kindIP
}

// skipExtensions walks up to 8 extension headers, and no further than 511 bytes into the frame.
func (p *modelPacket) skipExtensions(at int, next uint8) int {
	cut := false
	for range 9 {
		if at > 511 {
			return kindExtensions
		}
		switch next {
		case 0, 43, 44, 51, 60, 135:
			if p.fragment != fragmentLater {
				break
			}
			fallthrough
		default:
			p.l4, p.tuple.proto = at, next
			return kindIP
		}
		if at+4 > len(p.b) {
			return kindMalformed
		}
		h, size := p.b[at:], int(p.b[at+1])*8+8
		switch next {
		case 44:
			if cut || len(h) < 8 {
				return kindMalformed
			}
			cut, size = true, 8
			p.fragID = binary.BigEndian.Uint32(h[4:])
			if h[2] != 0 || h[3]&0xf8 != 0 {
				p.fragment = fragmentLater
			} else if h[3]&1 != 0 {
				p.fragment = fragmentFirst
			}
		case 51:
			size = int(h[1])*4 + 8
		case 43:
			p.routed = p.routed || h[3] != 0
		}
		next, at = h[0], at+size
	}
	return kindExtensions
}

func (p *modelPacket) parseTransport() int {
	if p.fragment == fragmentLater {
		return kindLater
	}
	h := p.b[p.l4:p.end]
	least := map[uint8]int{protoTCP: 20, protoUDP: 8, protoSCTP: 12}[p.tuple.proto]
	icmp := p.tuple.proto == protoICMP && !p.v6 || p.tuple.proto == protoICMPv6 && p.v6
	switch {
	case icmp && len(h) < 8, len(h) < least:
		return kindMalformed
	case icmp:
		p.icmpType = h[0]
		return kindICMP
	case least == 0:
		return kindIP
	}
	p.tuple.sport, p.tuple.dport = binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
	switch p.tuple.proto {
	case protoTCP:
		p.flags = h[13]
	case protoSCTP:
		p.flags = flagsOfSCTP(h)
	}
	return kindTransport
}

// flagsOfSCTP says in TCP's words what the first chunk is to the association.
func flagsOfSCTP(h []byte) uint8 {
	if binary.BigEndian.Uint32(h[4:]) == 0 {
		return flagSYN
	}
	if len(h) == 12 {
		return 0
	}
	switch h[12] {
	case 2: // INIT ACK
		return flagSYN | flagACK
	case 6: // ABORT
		return flagRST
	case 8, 14: // SHUTDOWN ACK, SHUTDOWN COMPLETE
		return flagFIN
	}
	return 0
}

// quoted reads the packet that an ICMP error quotes.
func (p *modelPacket) quoted() (modelPacket, bool) {
	q, at := modelPacket{b: p.b, v6: p.v6}, p.l4+8
	if p.v6 {
		if at+40 > len(p.b) {
			return q, false
		}
		h := p.b[at:]
		q.tuple = modelTuple{src: modelAddr(h[8:24]), dst: modelAddr(h[24:40])}
		if q.skipExtensions(at+40, h[6]) != kindIP {
			return q, false
		}
		q.end = at + 40 + int(binary.BigEndian.Uint16(h[4:]))
	} else {
		if at+20 > len(p.b) || p.b[at]>>4 != 4 || p.b[at]&15 < 5 {
			return q, false
		}
		h := p.b[at:]
		q.tuple = modelTuple{src: modelV4(h[12:]), dst: modelV4(h[16:]), proto: h[9]}
		q.fragment, q.l4 = fragmentIPv4(h), at+int(h[0]&15)*4
		q.end = at + int(binary.BigEndian.Uint16(h[2:]))
	}
	if q.fragment == fragmentLater || q.l4 > p.end {
		return q, false
	}
	switch q.tuple.proto {
	case protoTCP, protoUDP, protoSCTP:
		if q.l4+4 > p.end {
			return q, false
		}
		q.tuple.sport, q.tuple.dport = binary.BigEndian.Uint16(q.b[q.l4:]), binary.BigEndian.Uint16(q.b[q.l4+2:])
	case protoICMP, protoICMPv6:
		if (q.tuple.proto == protoICMPv6) == p.v6 {
			return q, q.l4+8 <= p.end && q.nameEcho()
		}
	}
	return q, true
}
