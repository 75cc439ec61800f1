package loader

import "encoding/binary"

var modelProtocols = []uint8{0, 1, 6, 6, 17, 17, 43, 44, 47, 51, 58, 59, 60, 132, 132, 135, 255}

// mutate bends a packet in one of many ways.
func (s *packetSource) mutate(b []byte) []byte {
	header := 34
	if s.v6 {
		header = 54
	}
	p := parseModel(b, s.v6, false)
	at, n := s.addressAt()
	l4 := min(max(p.l4, header), len(b))
	rest := len(b) - l4
	switch s.random.IntN(17) {
	case 0, 1:
		b[14+s.random.IntN(min(len(b)-14, 120))] ^= 1 << s.random.IntN(8)
	case 2:
		return b[:header+s.random.IntN(len(b)-header+1)]
	case 3:
		return append(b, make([]byte, s.random.IntN(64))...)
	case 4:
		s.bendLength(b)
	case 5:
		if rest >= 4 {
			binary.BigEndian.PutUint16(b[l4+s.random.IntN(2)*2:], pick(s.random, modelPorts))
		}
	case 6:
		s.putAddress(b, at+n*s.random.IntN(2), pick(s.random, s.addrs))
	case 7:
		if rest > 13 {
			b[l4+12+s.random.IntN(2)] = byte(s.random.IntN(256))
		}
	case 8, 9:
		s.bendFragment(b, l4)
	case 10:
		return s.splice(b, l4)
	case 11:
		b[14] = byte(s.random.IntN(256))
	case 12:
		b[header-14+map[bool]int{false: 3, true: -20}[s.v6]] = pick(s.random, modelProtocols)
	case 13:
		m := mac(pick(s.random, []string{"A", "B", "C", "G", "X"}))
		copy(b[6:], m[:])
	case 14:
		if rest > 7 {
			b[l4+s.random.IntN(8)] = byte(s.random.IntN(256))
		}
	case 15:
		return s.insert(b, header)
	case 16:
		if s.random.IntN(4) == 0 {
			binary.BigEndian.PutUint16(b[12:], pick(s.random, []uint16{etherVLAN, etherProvider, 0x88cc}))
		}
	}
	return b
}

// bendLength changes a length that a header tells: the IP packet's or UDP's.
func (s *packetSource) bendLength(b []byte) {
	at := 16
	if s.v6 {
		at = 18
	}
	if p := parseModel(b, s.v6, false); p.kind == kindTransport && p.tuple.proto == protoUDP && s.random.IntN(2) == 0 {
		at = p.l4 + 4
	}
	old := binary.BigEndian.Uint16(b[at:])
	binary.BigEndian.PutUint16(b[at:], pick(s.random, []uint16{0, 1, 7, 8, 19, 20, 39, old - 1, old + 1, old - 8, 0xffff, uint16(len(b)), uint16(len(b) - 14)}))
}

// bendFragment makes a fragment of another place, or another datagram's.
func (s *packetSource) bendFragment(b []byte, l4 int) {
	offset, id := pick(s.random, []uint16{0, 0, 1, 2, 6, 100}), uint16(s.random.IntN(4)+4)
	more := uint16(s.random.IntN(2))
	if !s.v6 {
		binary.BigEndian.PutUint16(b[18:], id)
		binary.BigEndian.PutUint16(b[20:], offset|more<<13)
		return
	}
	if b[20] == 44 && len(b) >= 62 {
		binary.BigEndian.PutUint16(b[56:], offset<<3|more)
		binary.BigEndian.PutUint32(b[58:], uint32(id))
	} else if l4+8 < len(b) {
		b[20] = 44
	}
}

// splice puts the transport of another packet behind the headers of this one.
func (s *packetSource) splice(b []byte, l4 int) []byte {
	other := pick(s.random, s.seeds)
	p := parseModel(other, s.v6, false)
	if p.kind != kindTransport && p.kind != kindICMP {
		return b
	}
	b = append(b[:l4], other[p.l4:]...)
	if s.v6 {
		if l4 == 54 {
			b[20] = p.tuple.proto
		}
		binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
		return b
	}
	b[23] = p.tuple.proto
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	return b
}

// insert puts IPv4 options or an IPv6 extension header behind the IP header.
func (s *packetSource) insert(b []byte, header int) []byte {
	if s.v6 {
		ext := []byte{b[20], 0, byte(s.random.IntN(2)), byte(s.random.IntN(3)), 0, 0, 0, byte(s.random.IntN(4) + 4)}
		if s.random.IntN(8) == 0 {
			ext[1] = byte(s.random.IntN(4))
		}
		b[20] = pick(s.random, []byte{0, 43, 44, 44, 51, 60, 60, 135})
		s.spare = append(append(append(s.spare[:0], b[:header]...), ext...), b[header:]...)
		binary.BigEndian.PutUint16(s.spare[18:], binary.BigEndian.Uint16(b[18:])+8)
		return append(b[:0], s.spare...)
	}
	if b[14]&15 > 13 {
		return b
	}
	option := pick(s.random, [][]byte{{1, 1, 1, 1}, {148, 4, 0, 0}, {0, 0, 0, 0}, {131, 3, 4, 0}, {7, 0, 1, 1}, {1, 137, 3, 4}})
	s.spare = append(append(append(s.spare[:0], b[:header]...), option...), b[header:]...)
	s.spare[14]++
	binary.BigEndian.PutUint16(s.spare[16:], binary.BigEndian.Uint16(b[16:])+4)
	return append(b[:0], s.spare...)
}

// reseal makes every checksum right that can be.
func (s *packetSource) reseal(b []byte) {
	p := parseModel(b, s.v6, false)
	if p.kind < kindTransport || p.kind == kindMalformed || p.kind == kindExtensions {
		return
	}
	if !s.v6 {
		header := sealed{at: 24, from: 14, to: p.l4}
		header.restore(b, modelAddr{}, modelAddr{})
	}
	if p.kind == kindLater || p.kind == kindIP || p.fragment != fragmentNone {
		return
	}
	src, dst, proto := p.tuple.src, p.tuple.dst, uint64(p.tuple.proto)
	c := sealed{from: p.l4, to: p.end}
	switch p.tuple.proto {
	case protoTCP:
		c.at = p.l4 + 16
	case protoUDP:
		c.at = p.l4 + 6
		if s.random.IntN(8) > 0 {
			binary.BigEndian.PutUint16(b[p.l4+4:], uint16(p.length()))
		}
	case protoSCTP:
		binary.LittleEndian.PutUint32(b[p.l4+8:], modelCRCOf(b[p.l4:p.end]))
		return
	case protoICMP:
		c.at, src, dst, proto = p.l4+2, modelAddr{}, modelAddr{}, 0
	case protoICMPv6:
		c.at = p.l4 + 2
	}
	if proto != 0 {
		c.before = (2*0xffff - proto - uint64(p.length())%0xffff) % 0xffff
	}
	c.restore(b, src, dst)
	if p.tuple.proto == protoUDP && b[c.at] == 0 && b[c.at+1] == 0 {
		b[c.at], b[c.at+1] = 0xff, 0xff
	}
}
