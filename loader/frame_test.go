package loader

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"
)

// The values of the wire that the fixtures speak of.
const (
	protoICMP   = 1
	protoIGMP   = 2
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132

	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10

	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

// family is one IP version with the addresses of the same names in both.
type family struct {
	name string
	v6   bool
}

func families() []family { return []family{{"ipv4", false}, {"ipv6", true}} }

// addr resolves a name: A, B, C are containers, N is outside but next to the node, R is a backend
// elsewhere, X is no one, V, W and E are VIPs, G is the gateway, H is the client of a container that
// is its own backend, L is link-local, 0 is unspecified.
func (f family) addr(name string) netip.Addr {
	v4 := map[string]string{
		"A": "10.244.1.10", "B": "10.244.1.11", "C": "10.244.1.12", "N": "192.0.2.1",
		"R": "10.244.2.20", "X": "10.244.1.99", "V": "10.96.0.1", "W": "10.96.0.2",
		"G": "169.254.1.1", "H": "169.254.1.1", "L": "169.254.7.7", "0": "0.0.0.0",
		"M": "224.0.0.251",
	}
	v6 := map[string]string{
		"A": "fd00:10:244:1::a", "B": "fd00:10:244:1::b", "C": "fd00:10:244:1::c",
		"N": "2001:db8::1", "R": "fd00:10:244:2::20", "X": "fd00:10:244:1::99",
		"V": "fd00:10:96::1", "W": "fd00:10:96::2", "G": "fe80::1", "H": "fd53:6c75:6963:65::1",
		"L": "fe80::7", "0": "::", "M": "ff02::fb",
	}
	s, known := v4[name], v4[name] != ""
	if f.v6 {
		s, known = v6[name], v6[name] != ""
	}
	if !known {
		return netip.MustParseAddr(name)
	}
	return netip.MustParseAddr(s)
}

// mac resolves the same names; G is what the host side of every veth has.
func mac(name string) [6]byte {
	if name == "G" {
		return [6]byte{0x02, 0x53, 0x6c, 0x75, 0x63, 0x65}
	}
	if name == "*" {
		return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return [6]byte{0x02, 0, 0, 0, 0, name[0]}
}

// icmp is an ICMP or ICMPv6 message but for its checksum.
type icmp struct {
	typ, code uint8
	rest      uint32
	body      []byte
}

// extension is an IPv6 extension header.
type extension struct {
	typ  uint8
	len  uint8 // as on the wire
	size int   // bytes
}

// cut takes a piece of a datagram's payload: a fragment.
type cut struct {
	id       uint32
	from, to int  // bytes of the payload
	last     bool // no more fragments
}

// frame describes a packet. Endpoints are written NAME:PORT.
type frame struct {
	src, dst   string
	smac, dmac string // names; empty: of src, and the gateway's
	proto      uint8
	flags      uint8 // TCP
	seq, ack   uint32
	doff       uint8 // TCP: 0 is 5
	window     uint16
	vtag       uint32 // SCTP
	data       []byte // behind the transport header, or of an unknown protocol
	icmp       *icmp
	noCheck    bool   // UDP, SCTP: leave the checksum field 0
	options    []byte // IPv4
	ext        []extension
	left       uint8 // segments left of the last routing header
	cut        *cut
	ttl        uint8 // 0: 64
	id         uint16
	df         bool
	pad        int // bytes behind the IP packet
}

func parseEndpoint(s string) (name string, port uint16) {
	name, p, found := strings.Cut(s, ":")
	if !found || strings.Contains(p, ":") {
		return s, 0
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		panic(fmt.Sprintf("endpoint %q: %v", s, err))
	}
	return name, uint16(n)
}

// bytes builds the packet with every checksum right.
func (p frame) bytes(f family) []byte {
	sname, sport := parseEndpoint(p.src)
	dname, dport := parseEndpoint(p.dst)
	src, dst := f.addr(sname), f.addr(dname)
	payload := p.transport(f, src, dst, sport, dport)
	if p.smac == "" {
		p.smac = sname
	}
	if p.dmac == "" {
		p.dmac = "G"
	}
	dm, sm := mac(p.dmac), mac(p.smac)
	b := append(append([]byte{}, dm[:]...), sm[:]...)
	if f.v6 {
		b = p.ipv6(b, src, dst, payload)
	} else {
		b = p.ipv4(b, src, dst, payload)
	}
	return append(b, make([]byte, p.pad)...)
}

func (p frame) hops() uint8 {
	if p.ttl == 0 {
		return 64
	}
	return p.ttl
}

func (p frame) ipv4(b []byte, src, dst netip.Addr, payload []byte) []byte {
	h := make([]byte, 20, 60)
	h[0] = 0x40 | uint8(5+len(p.options)/4)
	binary.BigEndian.PutUint16(h[4:], p.id)
	if p.df {
		h[6] = 0x40
	}
	if c := p.cut; c != nil {
		payload = payload[c.from:min(c.to, len(payload))]
		binary.BigEndian.PutUint16(h[4:], uint16(c.id))
		offset := uint16(c.from / 8)
		if !c.last {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(h[6:], offset)
	}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(p.options)+len(payload)))
	h[8], h[9] = p.hops(), p.proto
	s, d := src.As4(), dst.As4()
	copy(h[12:], s[:])
	copy(h[16:], d[:])
	h = append(h, p.options...)
	binary.BigEndian.PutUint16(h[10:], ^onesSum(0, h))
	b = binary.BigEndian.AppendUint16(b, etherIPv4)
	return append(append(b, h...), payload...)
}

func (p frame) ipv6(b []byte, src, dst netip.Addr, payload []byte) []byte {
	var chain []byte
	next := p.proto
	exts := p.ext
	if c := p.cut; c != nil {
		payload = payload[c.from:min(c.to, len(payload))]
		exts = append(append([]extension{}, exts...), extension{typ: 44, size: 8})
	}
	for i := len(exts) - 1; i >= 0; i-- {
		h := make([]byte, exts[i].size)
		if len(h) > 0 {
			h[0] = next
		}
		if len(h) > 1 {
			h[1] = exts[i].len
		}
		if exts[i].typ == 43 && len(h) > 3 {
			h[3], p.left = p.left, 0
		}
		if c := p.cut; c != nil && i == len(exts)-1 {
			offset := uint16(c.from)
			if !c.last {
				offset |= 1
			}
			binary.BigEndian.PutUint16(h[2:], offset)
			binary.BigEndian.PutUint32(h[4:], c.id)
		}
		chain = append(h, chain...)
		next = exts[i].typ
	}
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(chain)+len(payload)))
	h[6], h[7] = next, p.hops()
	s, d := src.As16(), dst.As16()
	copy(h[8:], s[:])
	copy(h[24:], d[:])
	b = binary.BigEndian.AppendUint16(b, etherIPv6)
	return append(append(append(b, h...), chain...), payload...)
}

// transport builds what stands behind the IP header of the whole datagram.
func (p frame) transport(f family, src, dst netip.Addr, sport, dport uint16) []byte {
	var h []byte
	check := -1 // offset of the checksum
	h = binary.BigEndian.AppendUint16(h, sport)
	h = binary.BigEndian.AppendUint16(h, dport)
	switch {
	case p.icmp != nil:
		h = []byte{p.icmp.typ, p.icmp.code, 0, 0}
		h = binary.BigEndian.AppendUint32(h, p.icmp.rest)
		h = append(h, p.icmp.body...)
		sum := uint32(0)
		if f.v6 {
			sum = pseudoSum(src, dst, protoICMPv6, len(h))
		}
		binary.BigEndian.PutUint16(h[2:], ^onesSum(sum, h))
		return h
	case p.proto == protoTCP:
		h = binary.BigEndian.AppendUint32(h, p.seq)
		h = binary.BigEndian.AppendUint32(h, p.ack)
		doff := max(p.doff, 5)
		h = append(h, doff<<4, p.flags)
		h = binary.BigEndian.AppendUint16(h, p.window)
		h = append(h, 0, 0, 0, 0)
		h = append(h, make([]byte, int(doff)*4-20)...)
		check = 16
	case p.proto == protoUDP:
		h = binary.BigEndian.AppendUint16(h, uint16(8+len(p.data)))
		h = append(h, 0, 0)
		check = 6
	case p.proto == protoSCTP:
		h = binary.BigEndian.AppendUint32(h, p.vtag)
		h = append(append(h, 0, 0, 0, 0), p.data...)
		if !p.noCheck {
			binary.LittleEndian.PutUint32(h[8:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
		}
		return h
	default:
		return p.data
	}
	h = append(h, p.data...)
	if p.noCheck {
		return h
	}
	sum := ^onesSum(pseudoSum(src, dst, p.proto, len(h)), h)
	if sum == 0 && p.proto == protoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(h[check:], sum)
	return h
}

// quote is what an ICMP error about the packet says of it: its IP header and n bytes more.
func (p frame) quote(f family, n int) []byte {
	b := p.bytes(f)[14:]
	header := 20 + len(p.options)
	if f.v6 {
		header = 40
		for _, e := range p.ext {
			header += e.size
		}
		if p.cut != nil {
			header += 8
		}
	}
	return b[:min(header+n, len(b))]
}
