package loader

import "encoding/binary"

// refuse answers a packet to a VIP that nothing serves, or an echo request.
func (m *podModel) refuse(p *modelPacket, stale *modelEntry) verdict {
	m.forget(stale, p.tuple.proto)
	echo := p.kind == kindICMP && p.b[p.l4] == 8 && !m.v6 || p.kind == kindICMP && p.b[p.l4] == 128 && m.v6
	tcp := p.tuple.proto == protoTCP
	switch {
	case p.fragment == fragmentLater, p.single && p.isError(), p.fragment != fragmentNone && (tcp || echo),
		tcp && p.flags&flagRST != 0:
		return m.drop(&m.count.DropRefused)
	case echo:
		m.echo(p)
	case tcp:
		size := int(p.b[p.l4+12]>>4) * 4
		if size < 20 || p.length() < size {
			return m.drop(&m.count.DropMalformed)
		}
		m.reset(p, size)
	default:
		m.unreachable(p)
	}
	return m.deliver(m.hook.ifindex, p.smac())
}

// answerHeader makes the packet's IP header the answer's, with n bytes behind what stays of headers.
func (m *podModel) answerHeader(p *modelPacket, n int) {
	if m.v6 {
		binary.BigEndian.PutUint16(m.out[18:], uint16(p.l4-54+n))
		m.out[21] = 64
		m.putAddresses(14, p.tuple.dst, p.tuple.src)
		return
	}
	s := sealed{at: 24, from: 14, to: p.l4}
	s.seal(m.out, modelAddr{}, modelAddr{})
	binary.BigEndian.PutUint16(m.out[16:], uint16(p.l4-14+n))
	binary.BigEndian.PutUint16(m.out[20:], 0)
	m.out[22] = 64
	m.putAddresses(14, p.tuple.dst, p.tuple.src)
	s.restore(m.out, modelAddr{}, modelAddr{})
}

func (m *podModel) echo(p *modelPacket) {
	m.count.EchoReplies++
	m.answerHeader(p, p.length())
	s := sealed{at: p.l4 + 2, from: p.l4, to: p.end}
	s.seal(m.out, modelAddr{}, modelAddr{})
	m.out[p.l4] = 0
	if m.v6 {
		m.out[p.l4] = 129
	}
	s.restore(m.out, modelAddr{}, modelAddr{})
	// Of a message of zeros it is not zero, and may be so of others.
	if field := m.out[s.at:]; field[0]|field[1] == 0 {
		field[0], field[1] = 0xff, 0xff
	}
}

// reset answers a segment (RFC 9293, 3.10.7.1).
func (m *podModel) reset(p *modelPacket, size int) {
	m.count.Refused++
	in := p.b[p.l4:]
	m.out = m.out[:p.l4+20]
	m.answerHeader(p, 20)
	h := m.out[p.l4:]
	clear(h)
	binary.BigEndian.PutUint16(h, p.tuple.dport)
	binary.BigEndian.PutUint16(h[2:], p.tuple.sport)
	h[12], h[13] = 5<<4, flagRST
	if p.flags&flagACK != 0 {
		copy(h[4:8], in[8:12])
	} else {
		ack := binary.BigEndian.Uint32(in[4:]) + uint32(p.length()-size) + uint32(p.flags>>1&1) + uint32(p.flags&1)
		binary.BigEndian.PutUint32(h[8:], ack)
		h[13] |= flagACK
	}
	m.checksum(p.l4, p.l4+16, protoTCP, p.tuple.dst, p.tuple.src)
}

// checksum makes that of a transport that reaches to the end of the packet. The words ::ffff of IPv4's
// addresses sum to nothing.
func (m *podModel) checksum(l4, at int, proto uint8, src, dst modelAddr) {
	s := sealed{at: at, from: l4, to: len(m.out)}
	s.before = (2*0xffff - uint64(proto) - uint64(len(m.out)-l4)%0xffff) % 0xffff
	s.restore(m.out, src, dst)
}

// unreachable answers with "port unreachable", which quotes the IP header and 8 bytes more.
func (m *podModel) unreachable(p *modelPacket) {
	m.count.Refused++
	n := min(p.l4-14+min(p.length(), 8), 96)
	quote := p.b[14 : 14+n]
	proto, l4 := uint8(protoICMP), 34
	if m.v6 {
		proto, l4 = protoICMPv6, 54
	}
	m.out = append(m.out[:14], make([]byte, l4-14+8)...)
	m.out = append(m.out, quote...)
	src, dst := p.tuple.dst, p.tuple.src
	m.putAddresses(14, src, dst)
	if m.v6 {
		m.out[14], m.out[20], m.out[21] = 0x60, proto, 64
		binary.BigEndian.PutUint16(m.out[18:], uint16(8+n))
		m.out[l4], m.out[l4+1] = 1, 4
		m.checksum(l4, l4+2, proto, src, dst)
		return
	}
	m.out[14], m.out[22], m.out[23] = 0x45, 64, proto
	binary.BigEndian.PutUint16(m.out[16:], uint16(len(m.out)-14))
	header := sealed{at: 24, from: 14, to: l4}
	header.restore(m.out, modelAddr{}, modelAddr{})
	m.out[l4], m.out[l4+1] = 3, 3
	message := sealed{at: l4 + 2, from: l4, to: len(m.out)}
	message.restore(m.out, modelAddr{}, modelAddr{})
}
