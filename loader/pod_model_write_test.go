package loader

import (
	"encoding/binary"
	"hash/crc32"
)

// Every checksum here is summed up anew. One that was wrong stays wrong by as much: who made it shall be
// told so by its receiver, and not by the programs.

// modelSum is the one's complement sum of 16-bit words (RFC 1071).
func modelSum(sum uint64, b []byte) uint64 {
	for len(b) >= 4 {
		sum += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

// sealed is a checksum field, and what it covers.
type sealed struct {
	at       int // offset of the field in the frame
	from, to int // bytes of the frame
	before   uint64
}

// sum adds up what the checksum covers, and the addresses of a pseudo-header.
func (s *sealed) sum(b []byte, src, dst modelAddr) uint64 {
	return modelSum(modelSum(modelSum(0, src[:]), dst[:]), b[s.from:min(s.to, len(b))])
}

// seal looks at a checksum before the packet changes.
func (s *sealed) seal(b []byte, src, dst modelAddr) { s.before = s.sum(b, src, dst) % 0xffff }

// restore makes the checksum right, or wrong by as much as it was.
func (s *sealed) restore(b []byte, src, dst modelAddr) {
	b[s.at], b[s.at+1] = 0, 0
	after := s.sum(b, src, dst) % 0xffff
	binary.BigEndian.PutUint16(b[s.at:], uint16((s.before+0xffff-after)%0xffff))
}

var modelCRC = crc32.MakeTable(crc32.Castagnoli)

// modelCRCOf is the CRC of an SCTP packet whose checksum field is zero then.
func modelCRCOf(b []byte) uint32 {
	var none [4]byte
	crc := crc32.Update(0, modelCRC, b[:8])
	return crc32.Update(crc32.Update(crc, modelCRC, none[:]), modelCRC, b[12:])
}

func (m *podModel) putAddresses(at int, src, dst modelAddr) {
	if m.v6 {
		copy(m.out[at+8:], src[:])
		copy(m.out[at+24:], dst[:])
		return
	}
	copy(m.out[at+12:], src[12:])
	copy(m.out[at+16:], dst[12:])
}

// putHeader writes the addresses of the IP header at an offset and keeps its checksum.
func (m *podModel) putHeader(at int, src, dst modelAddr) {
	if m.v6 {
		m.putAddresses(at, src, dst)
		return
	}
	s := sealed{at: at + 10, from: at, to: at + int(m.out[at]&15)*4}
	s.seal(m.out, modelAddr{}, modelAddr{})
	m.putAddresses(at, src, dst)
	s.restore(m.out, modelAddr{}, modelAddr{})
}

// rewrite gives the packet the entry's addresses and ports.
func (m *podModel) rewrite(p *modelPacket, e *modelEntry) bool {
	m.putHeader(14, e.src, e.dst)
	if p.fragment == fragmentLater {
		return true
	}
	return m.putTransport(p.l4, p.end, p.fragment, p.tuple, e)
}

// putTransport writes the ports of the transport header at an offset, whose packet ends at end, and keeps
// its checksum.
func (m *podModel) putTransport(l4, end, fragment int, was modelTuple, e *modelEntry) bool {
	field := map[uint8]int{protoTCP: 16, protoUDP: 6}[was.proto]
	ports := was.sport != e.sport || was.dport != e.dport
	put := func() {
		binary.BigEndian.PutUint16(m.out[l4:], e.sport)
		binary.BigEndian.PutUint16(m.out[l4+2:], e.dport)
	}
	switch {
	case was.proto == protoSCTP:
		if ports && fragment != fragmentNone {
			return false
		}
		m.putSCTP(l4, end, put)
		return true
	case field == 0:
		return false
	}
	s := sealed{at: l4 + field, from: l4, to: end}
	if was.proto == protoUDP && binary.BigEndian.Uint16(m.out[s.at:]) == 0 {
		put()
		return true
	}
	s.seal(m.out, was.src, was.dst)
	put()
	s.restore(m.out, e.src, e.dst)
	if was.proto == protoUDP && binary.BigEndian.Uint16(m.out[s.at:]) == 0 {
		binary.BigEndian.PutUint16(m.out[s.at:], 0xffff)
	}
	return true
}

func (m *podModel) putSCTP(l4, end int, put func()) {
	b := m.out[l4:min(end, len(m.out))]
	crc := binary.LittleEndian.Uint32(b[8:])
	before := modelCRCOf(b)
	put()
	if crc != 0 {
		binary.LittleEndian.PutUint32(b[8:], crc^before^modelCRCOf(b))
	}
}

// icmpError tells an error to whom its packet is about, in that one's words. It returns false when the
// error is about no flow that is known.
func (m *podModel) icmpError(p *modelPacket) (verdict, bool) {
	q, ok := p.quoted()
	if !ok || q.tuple.src != p.tuple.dst {
		return 0, false
	}
	e := m.flows[q.tuple.reverse()]
	if e == nil || !m.hook.ingress && e.in != m.hook.ifindex {
		return 0, false
	}
	out, to := e.out, e.outMAC
	if e.epoch != m.epochOf(e) {
		out, to = m.pods[e.dst].ifindex, m.pods[e.dst].mac
	}
	if e.flags&flowNAT != 0 {
		m.translateError(p, &q, e)
		m.count.IcmpTranslated++
	}
	if m.hook.ingress {
		return pass, true
	}
	return m.deliver(out, to), true
}

// translateError undoes in the quoted packet what the flow's other half did to it.
func (m *podModel) translateError(p, q *modelPacket, e *modelEntry) {
	reporter := p.tuple.src
	if reporter == q.tuple.dst {
		reporter = e.src
	}
	s := sealed{at: p.l4 + 2, from: p.l4, to: p.end}
	was, is := [2]modelAddr{}, [2]modelAddr{}
	if m.v6 {
		was, is = [2]modelAddr{p.tuple.src, p.tuple.dst}, [2]modelAddr{reporter, e.dst}
	}
	s.seal(m.out, was[0], was[1])
	undone := modelEntry{src: e.dst, dst: e.src, sport: e.dport, dport: e.sport}
	m.putHeader(14, reporter, e.dst)
	m.putHeader(p.l4+8, undone.src, undone.dst)
	m.putQuoted(p, q, &undone)
	s.restore(m.out, is[0], is[1])
}

// putQuoted does for a quoted transport header what putTransport does, where its checksum was quoted.
func (m *podModel) putQuoted(p, q *modelPacket, to *modelEntry) {
	last := map[uint8]int{protoTCP: 18, protoUDP: 8, protoSCTP: 12}[q.tuple.proto]
	whole := q.l4+last <= p.end
	if q.tuple.proto == protoSCTP {
		m.putQuotedSCTP(q, to, whole && q.fragment == fragmentNone && q.end-q.l4 >= 12)
		return
	}
	if !whole {
		binary.BigEndian.PutUint16(m.out[q.l4:], to.sport)
		binary.BigEndian.PutUint16(m.out[q.l4+2:], to.dport)
		return
	}
	m.putTransport(q.l4, p.end, q.fragment, q.tuple, to)
}

// putQuotedSCTP keeps the CRC of a packet of which the error need not quote all: what it does not quote
// counts as zeros, before as after.
func (m *podModel) putQuotedSCTP(q *modelPacket, to *modelEntry, known bool) {
	crc := uint32(0)
	if known {
		crc = binary.LittleEndian.Uint32(m.out[q.l4+8:])
	}
	packet := make([]byte, max(q.end-q.l4, 12))
	copy(packet, m.out[q.l4:q.l4+4])
	before := modelCRCOf(packet)
	binary.BigEndian.PutUint16(m.out[q.l4:], to.sport)
	binary.BigEndian.PutUint16(m.out[q.l4+2:], to.dport)
	copy(packet, m.out[q.l4:q.l4+4])
	if crc != 0 {
		binary.LittleEndian.PutUint32(m.out[q.l4+8:], crc^before^modelCRCOf(packet))
	}
}
