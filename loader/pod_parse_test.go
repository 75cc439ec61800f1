package loader

import (
	"encoding/binary"
	"fmt"
	"testing"
)

func TestMalformed(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, hook := range []string{"A>", ">A"} {
				t.Run(hook, func(t *testing.T) {
					r.runFixtures(t, malformed(f, hook))
				})
			}
		})
	}
}

// malformed packets are made by cutting and bending right ones. The kernel runs no program on a frame
// that is cut within its IP header; TestShortFrames sends those.
func malformed(f family, hook string) []fixture {
	src, dst := "A:1234", "V:80"
	if hook == ">A" {
		src, dst = "N:1234", "A:80"
	}
	header := 20
	if f.v6 {
		header = 40
	}
	// setLength writes the length that stands in the IP header, of n bytes behind it.
	setLength := func(b []byte, n int) {
		if f.v6 {
			binary.BigEndian.PutUint16(b[14+4:], uint16(n))
			return
		}
		binary.BigEndian.PutUint16(b[14+2:], uint16(20+n))
		binary.BigEndian.PutUint16(b[14+10:], 0)
		binary.BigEndian.PutUint16(b[14+10:], ^onesSum(0, b[14:34]))
	}
	var all []fixture
	add := func(name string, b []byte) {
		all = append(all, fixture{
			name: name, steps: []step{at(hook, b).drops()}, counters: counters{DropMalformed: 1},
		})
	}
	for _, proto := range append(protocols(), protoICMP) {
		p, least := packet(proto, src, dst), 20
		switch proto {
		case protoUDP:
			least = 8
		case protoSCTP:
			least = 12
		case protoICMP:
			p, least = ping(f, src, dst), 8
		}
		name := fmt.Sprintf("protocol %d ", proto)
		for n := range least {
			b := p.bytes(f)[:14+header+n]
			setLength(b, n)
			add(name+fmt.Sprintf("cut to %d bytes", n), b)
			add(name+fmt.Sprintf("cut to %d bytes and padded", n), append(b[:len(b):len(b)], make([]byte, 40)...))
		}
		b := p.bytes(f)
		setLength(b, len(b)-14-header+1)
		add(name+"longer than the frame", b)
	}
	whole := packet(protoTCP, src, dst).bytes(f)
	for _, version := range []byte{0, 5, 15} {
		b := append([]byte{}, whole...)
		b[14] = version<<4 | b[14]&15
		add(fmt.Sprintf("IP version %d", version), b)
	}
	b := append([]byte{}, whole...)
	b[14] ^= 0x20
	add("the other IP version", b)
	if f.v6 {
		return append(all, malformedV6(hook, src, dst)...)
	}
	for ihl := range byte(5) {
		b := append([]byte{}, whole...)
		b[14] = 0x40 | ihl
		add(fmt.Sprintf("header of %d words", ihl), b)
	}
	b = append([]byte{}, whole...)
	b[14] = 0x4f
	add("header longer than the packet", b)
	for _, n := range []int{-20, -1} {
		b := append([]byte{}, whole...)
		setLength(b, n)
		add(fmt.Sprintf("total length of %d", 20+n), b)
	}
	return all
}

func malformedV6(hook, src, dst string) []fixture {
	p := packet(protoUDP, src, dst)
	with := func(ext ...extension) frame { q := p; q.ext = ext; return q }
	bad := func(name string, in any, c counters) fixture {
		return fixture{name: name, steps: []step{at(hook, in).drops()}, counters: c}
	}
	malformed, many := counters{DropMalformed: 1}, counters{DropExtensions: 1}
	all := []fixture{
		bad("source is IPv4", frame{src: "::ffff:10.244.1.10", dst: p.dst, proto: protoUDP, smac: "A"}, malformed),
		bad("destination is IPv4", frame{src: p.src, dst: "::ffff:10.96.0.1", proto: protoUDP}, malformed),
		bad("more headers than are followed", with(repeat(extension{60, 0, 8}, 9)...), many),
		bad("headers beyond what is followed", with(extension{60, 59, 480}), many),
	}
	for _, typ := range []uint8{0, 43, 44, 51, 60, 135} {
		q := with(extension{typ, 0, 8})
		q.data = nil
		b := q.bytes(families()[1])
		for _, n := range []int{0, 1, 7} {
			cut := append([]byte{}, b[:14+40+n]...)
			binary.BigEndian.PutUint16(cut[18:], uint16(n))
			all = append(all, bad(fmt.Sprintf("header %d cut to %d bytes", typ, n), cut, malformed))
		}
		if typ == 44 {
			continue
		}
		long := with(extension{typ, 20, 8})
		all = append(all, bad(fmt.Sprintf("header %d longer than the packet", typ), long, malformed))
	}
	return all
}

func repeat(e extension, n int) []extension {
	all := make([]extension, n)
	for i := range all {
		all[i] = e
	}
	return all
}

// TestHeaders sends flows whose headers are longer than most.
func TestHeaders(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(lines(proto, "")[0], func(t *testing.T) {
					r.runFixtures(t, longHeaders(f, proto))
				})
			}
		})
	}
}

func longHeaders(f family, proto uint8) []fixture {
	flows := lines(proto,
		"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
		"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]")
	var all []fixture
	add := func(name string, edit func(*frame)) {
		p, q := packet(proto, "A:1234", "V:80"), packet(proto, "B:7000", "A:1234").with(flagACK)
		edit(&p)
		edit(&q)
		all = append(all, fixture{
			name: name, counters: counters{FlowsCreated: 1}, flows: flows,
			steps: []step{
				at("A>", p).redirects(p.as("A:1234", "B:7000").to("B")),
				at("B>", q).redirects(q.as("V:80", "A:1234").to("A")),
			},
		})
	}
	add("padded", func(p *frame) { p.pad = 40 })
	if !f.v6 {
		for n := 4; n <= 40; n += 12 {
			add(fmt.Sprintf("%d bytes of options", n), func(p *frame) { p.options = make([]byte, n) })
		}
		return all
	}
	chains := map[string][]extension{
		"hop-by-hop":            {{0, 0, 8}},
		"long hop-by-hop":       {{0, 3, 32}},
		"destination":           {{60, 0, 8}},
		"routing":               {{43, 2, 24}},
		"mobility":              {{135, 0, 8}},
		"authentication":        {{51, 4, 24}},
		"atomic fragment":       {{44, 0, 8}},
		"all":                   {{0, 0, 8}, {60, 1, 16}, {43, 2, 24}, {44, 0, 8}, {51, 4, 24}, {60, 0, 8}},
		"as many as followed":   repeat(extension{60, 0, 8}, 8),
		"as long as followed":   {{60, 55, 448}},
		"reserved byte is used": {{44, 0xff, 8}},
	}
	for name, chain := range chains {
		add(name, func(p *frame) { p.ext = chain })
	}
	return all
}

// TestLies: what a transport header says of its own length is for the receiver's stack to judge, which drops
// what cannot be. Such packets go where their tuple says, and with what they had behind it. Ports of zero are
// ports like others.
func TestLies(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			r.runFixtures(t, lies(f))
		})
	}
}

func lies(f family) (all []fixture) {
	l4 := 34
	if f.v6 {
		l4 = 54
	}
	bent := func(p frame, off int, value ...byte) []byte {
		b := p.bytes(f)
		copy(b[l4+off:], value)
		return b
	}
	add := func(name string, p frame, off int, value ...byte) {
		out := bent(p.as("A:1234", "B:7000").to("B"), off, value...)
		all = append(all, fixture{name: name, counters: counters{FlowsCreated: 1},
			steps: []step{at("A>", bent(p, off, value...)).redirects(out)}})
	}
	udp, tcp := packet(protoUDP, "A:1234", "V:80"), packet(protoTCP, "A:1234", "V:80")
	udp.data = testData(20)
	for _, n := range []uint16{0, 7, 8, 27, 29, 0xffff} {
		add(fmt.Sprintf("UDP length %d", n), udp, 4, byte(n>>8), byte(n))
	}
	for doff := range byte(16) {
		add(fmt.Sprintf("TCP header of %d words", doff), tcp, 12, doff<<4)
	}
	for _, flags := range []byte{0, 0x3f, 0xff, 0x29} {
		add(fmt.Sprintf("TCP flags %#x", flags), tcp, 13, flags)
	}
	for _, proto := range protocols() {
		zero := packet(proto, "A:0", "B:0")
		answer := zero.as("B:0", "A:0").with(flagACK)
		none := packet(proto, "A:0", "V:0")
		refused := counters{Refused: 1}
		out := unreachable(f, none, 8)
		all = append(all, fixture{
			name: protoName(proto) + " ports of zero", counters: counters{FlowsCreated: 1},
			steps: []step{at("A>", zero).redirects(zero.to("B")), at("B>", answer).redirects(answer.to("A"))},
		})
		if proto != protoTCP {
			all = append(all, fixture{name: protoName(proto) + " port zero of a VIP", counters: refused,
				steps: []step{at("A>", none).redirects(out)}})
		}
	}
	if f.v6 {
		// RFC 2675: a length of zero, and a jumbo payload option. No packet here is that long.
		jumbo := packet(protoTCP, "A:1234", "V:80")
		jumbo.ext = []extension{{0, 0, 8}}
		b := jumbo.bytes(f)
		copy(b[18:], []byte{0, 0})
		copy(b[56:], []byte{0xc2, 4, 0, 1, 0, 0})
		all = append(all, fixture{name: "jumbogram", counters: counters{DropMalformed: 1}, steps: []step{at("A>", b).drops()}})
	}
	return all
}
