package loader

import (
	"encoding/binary"
	"math/rand/v2"
)

// packetSource makes packets that are close to right ones: seeds, what answers the packets that came out
// before, errors about those, and mutations of all of them.
type packetSource struct {
	random *rand.Rand
	v6     bool
	seeds  [][]byte
	addrs  []modelAddr
	pods   map[modelAddr]modelPod
	hooks  []modelHook
	recent [64][]byte // packets that came out
	places int
	buf    []byte
	spare  []byte
}

var modelPorts = []uint16{1, 9, 53, 67, 68, 80, 81, 82, 83, 83, 84, 84, 85, 85, 90, 100, 110, 546, 547, 1234, 1235, 7000, 7001, 7002, 0, 65535}

func newPacketSource(r *rig) *packetSource {
	s := &packetSource{v6: r.f.v6, pods: map[modelAddr]modelPod{}, buf: make([]byte, 0, 1<<16), spare: make([]byte, 0, 1<<16)}
	for i, name := range []string{"A", "B", "C"} {
		s.pods[toAddress(r.f.addr(name)).Bytes] = modelPod{ifindex: r.ifindex[name], id: uint32(i + 1), mac: mac(name)}
		s.hooks = append(s.hooks, modelHook{ifindex: r.ifindex[name]})
		for _, from := range []uint32{0, 1, r.ifindex["A"], r.ifindex["B"]} {
			s.hooks = append(s.hooks, modelHook{ingress: true, ifindex: r.ifindex[name], from: from})
		}
	}
	for _, name := range []string{"A", "A", "A", "B", "B", "C", "N", "R", "X", "V", "V", "V", "W", "W", "G", "H", "L", "0", "M"} {
		s.addrs = append(s.addrs, toAddress(r.f.addr(name)).Bytes)
	}
	for _, p := range modelSeeds(r.f) {
		s.seeds = append(s.seeds, p.bytes(r.f))
	}
	return s
}

// begin forgets what was, so that all that comes follows from the seed.
func (s *packetSource) begin(seed uint64) {
	s.random, s.places = rand.New(rand.NewPCG(seed, seed)), 0
}

// modelSeeds are seeds and forms that those are not of.
func modelSeeds(f family) []frame {
	var all []frame
	for _, p := range seeds(f) {
		if p.icmp == nil || !f.v6 || p.icmp.typ != 135 {
			all = append(all, p)
		}
	}
	for _, proto := range protocols() {
		p := packet(proto, "A:1234", "W:82")
		q := packet(proto, "B:1234", "W:81")
		all = append(all, p, p.as("B:9", "W:82"), p.as("C:1235", "W:82"), q, q.as("C:1234", "V:80"), p.as("A:1234", "W:81"),
			p.as("A:9", "V:100").with(flagSYN), p.as("N:53", "A:1234").by("N"), p.as("R:7000", "A:1234").by("R"),
			p.as("A:68", "B:67"), p.as("A:546", "B:547"))
		for _, vip := range []string{"W:83", "V:84", "V:85"} {
			all = append(all, p.as("A:1234", vip), p.as("A:9", vip).with(flagSYN), p.as("B:1234", vip), p.as("C:1235", vip))
		}
		for _, n := range []int{1, 2, 3, 61, 1400} {
			r := p
			r.data, r.noCheck = testData(n), n == 2
			all = append(all, r)
		}
		a, b, c := pieces(q, 9)
		all = append(all, a, b, c)
		if f.v6 {
			p.ext = []extension{{44, 0, 8}}
		} else {
			p.options = []byte{148, 4, 0, 0}
		}
		all = append(all, p)
	}
	g := frame{src: "A", dst: "B", proto: 47, data: testData(80), cut: &cut{id: 4, to: 40}}
	all = append(all, g, frame{src: "A", dst: "V", proto: 47, data: testData(80)}, ping(f, "B", "W"), ping(f, "C", "V"))
	big := ping(f, "A", "V")
	big.icmp.body = testData(1300)
	cutPing := big
	cutPing.cut = &cut{id: 6, to: 64}
	// Of one that is all zeros so is the answer of IPv4.
	zeros := ping(f, "A", "V")
	zeros.icmp.rest, zeros.icmp.body = 0, make([]byte, 8)
	return append(all, big, cutPing, zeros, zeros)
}

func pick[T any](random *rand.Rand, all []T) T { return all[random.IntN(len(all))] }

// next returns a packet and where it comes in. It is valid until the next one.
func (s *packetSource) next() (modelHook, []byte) {
	b := append(s.buf[:0], pick(s.random, s.seeds)...)
	if s.places > 0 {
		if old := s.recent[s.random.IntN(min(s.places, len(s.recent)))]; len(old) > 0 {
			switch n := s.random.IntN(20); {
			case n < 6:
				b = s.answer(append(s.buf[:0], old...))
			case n < 10:
				b = s.errorAbout(s.buf[:0], old)
			}
		}
	}
	switch n := s.random.IntN(10); {
	case n < 2:
	case n < 5:
		b = s.vary(b)
	default:
		for range 1 + s.random.IntN(3) {
			b = s.mutate(b)
		}
		if s.random.IntN(5) < 3 {
			s.reseal(b)
		}
	}
	s.buf = b[:0]
	h := s.hookOf(b)
	if s.random.IntN(50) == 0 {
		h.tags = 1 + s.random.IntN(len(modelTags())-1)
	}
	return h, b
}

// note keeps a packet that came out.
func (s *packetSource) note(out []byte) {
	if len(out) > 2000 || s.random.IntN(2) == 0 {
		return
	}
	i := s.places % len(s.recent)
	s.recent[i] = append(s.recent[i][:0], out...)
	s.places++
}

// hookOf is most often where such a packet would come in.
func (s *packetSource) hookOf(b []byte) modelHook {
	if s.random.IntN(10) == 0 {
		return pick(s.random, s.hooks)
	}
	p := parseModel(b, s.v6, false)
	src, dst := s.pods[p.tuple.src], s.pods[p.tuple.dst]
	switch {
	case src.ifindex != 0 && (dst.ifindex == 0 || s.random.IntN(8) > 0):
		return modelHook{ifindex: src.ifindex}
	case dst.ifindex != 0:
		return modelHook{ingress: true, ifindex: dst.ifindex, from: []uint32{0, 1, src.ifindex}[s.random.IntN(3)]}
	}
	return modelHook{ifindex: s.hooks[0].ifindex}
}

// addressAt is where the source address stands; the destination's is behind it.
func (s *packetSource) addressAt() (at, size int) {
	if s.v6 {
		return 22, 16
	}
	return 26, 4
}

func (s *packetSource) setMACs(b []byte, src modelAddr) {
	from, to := s.pods[src].mac, mac("G")
	if from == ([6]byte{}) {
		from = mac("N")
	}
	copy(b, to[:])
	copy(b[6:], from[:])
}

// answer turns a packet into one that goes back.
func (s *packetSource) answer(b []byte) []byte {
	p := parseModel(b, s.v6, false)
	if p.kind < kindTransport || p.kind == kindMalformed {
		return b
	}
	at, n := s.addressAt()
	var keep [16]byte
	copy(keep[:n], b[at:at+n])
	copy(b[at:], b[at+n:at+2*n])
	copy(b[at+n:], keep[:n])
	s.setMACs(b, p.tuple.dst)
	switch p.kind {
	case kindTransport:
		copy(keep[:2], b[p.l4:p.l4+2])
		copy(b[p.l4:], b[p.l4+2:p.l4+4])
		copy(b[p.l4+2:], keep[:2])
		if p.tuple.proto == protoTCP {
			b[p.l4+13] = pick(s.random, []byte{flagSYN | flagACK, flagACK, flagACK, flagFIN | flagACK, flagRST, flagSYN, flagRST | flagACK})
		}
	case kindICMP:
		b[p.l4] ^= 8 // of IPv4, request and reply
		if s.v6 {
			b[p.l4] ^= 8 ^ 1
		}
	}
	s.reseal(b)
	return b
}

// errorAbout makes an ICMP error about a packet, by its receiver or someone else.
func (s *packetSource) errorAbout(b, old []byte) []byte {
	at, n := s.addressAt()
	header := at + 2*n
	if len(old) < header {
		return append(b, old...)
	}
	b = append(b, old[:14]...)
	b = append(b, make([]byte, header-14+8)...)
	quote := 14 + header - 14 + pick(s.random, []int{8, 8, 12, 18, 20, 28, 60, 200, 2000, s.random.IntN(60)})
	b = append(b, old[14:min(quote, len(old))]...)
	copy(b[at:], old[at+n:at+2*n])
	copy(b[at+n:], old[at:at+n])
	if s.random.IntN(5) == 0 {
		s.putAddress(b, at, pick(s.random, s.addrs))
	}
	if s.v6 {
		b[14], b[20], b[21] = 0x60, protoICMPv6, 64
		binary.BigEndian.PutUint16(b[18:], uint16(len(b)-header))
		b[header], b[header+1] = uint8(1+s.random.IntN(4)), uint8(s.random.IntN(5))
	} else {
		b[14], b[22], b[23] = 0x45, 64, protoICMP
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		b[header], b[header+1] = pick(s.random, []byte{3, 3, 11, 12}), uint8(s.random.IntN(5))
	}
	s.setMACs(b, parseModel(b, s.v6, false).tuple.src)
	s.reseal(b)
	return b
}

func (s *packetSource) putAddress(b []byte, at int, a modelAddr) {
	if s.v6 {
		copy(b[at:], a[:])
	} else {
		copy(b[at:], a[12:])
	}
}

// vary makes another right packet of one.
func (s *packetSource) vary(b []byte) []byte {
	p := parseModel(b, s.v6, false)
	if p.kind != kindTransport && p.kind != kindICMP {
		return b
	}
	at, n := s.addressAt()
	switch s.random.IntN(6) {
	case 0:
		s.putAddress(b, at+n, pick(s.random, s.addrs))
	case 1:
		a := pick(s.random, s.addrs)
		s.putAddress(b, at, a)
		s.setMACs(b, a)
	case 2, 3:
		if p.kind == kindTransport {
			binary.BigEndian.PutUint16(b[p.l4+s.random.IntN(2)*2:], pick(s.random, modelPorts))
		}
	case 4:
		if p.tuple.proto == protoTCP {
			b[p.l4+13] = pick(s.random, []byte{flagSYN, flagACK, flagFIN | flagACK, flagRST, flagSYN | flagACK, 0, 0xff})
		} else if p.tuple.proto == protoSCTP && p.length() > 12 {
			b[p.l4+12] = pick(s.random, []byte{0, 1, 2, 6, 8, 14, 10})
			binary.BigEndian.PutUint32(b[p.l4+4:], uint32(s.random.IntN(3)))
		}
	case 5:
		if p.l4+8 < len(b) {
			b[len(b)-1] ^= byte(s.random.IntN(256))
		}
	}
	s.reseal(b)
	return b
}
