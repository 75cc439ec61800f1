package loader

import (
	"encoding/binary"
	"testing"
)

func TestFragments(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range []uint8{protoTCP, protoUDP} {
				t.Run(lines(proto, "")[0], func(t *testing.T) {
					r.runFixtures(t, fragments(f, proto))
				})
			}
			r.runFixtures(t, otherFragments(f))
			if f.v6 {
				r.runFixtures(t, fragmentsBehindOptions(f))
			}
		})
	}
}

// pieces cuts a packet into a first, a middle and a last fragment.
func pieces(p frame, id uint32) (a, b, c frame) {
	p.data, p.flags, p.df = make([]byte, 120), flagACK, false
	for i := range p.data {
		p.data[i] = byte(i * 7)
	}
	a, b, c = p, p, p
	a.cut = &cut{id: id, to: 48}
	b.cut = &cut{id: id, from: 48, to: 96}
	c.cut = &cut{id: id, from: 96, to: 1000, last: true}
	return a, b, c
}

func fragments(f family, proto uint8) []fixture {
	a, b, c := pieces(packet(proto, "A:1234", "V:80"), 7)
	ra, rb, rc := pieces(packet(proto, "B:7000", "A:1234"), 7)
	da, db, _ := pieces(packet(proto, "A:1234", "B:7000"), 8)
	na, nb, _ := pieces(packet(proto, "A:1234", "V:110"), 9)
	ma, mb, _ := pieces(packet(proto, "R:7000", "A:1234"), 9)
	sa, _, _ := pieces(packet(proto, "A:1", "V:81"), 7)
	oa, _, _ := pieces(packet(proto, "A:1", "V:80"), 7)
	there := func(p frame) step { return at("A>", p).redirects(p.as("A:1234", "B:7000").to("B")) }
	back := func(p frame) step { return at("B>", p).redirects(p.as("V:80", "A:1234").to("A")) }
	both := lines(proto,
		"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
		"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]")
	return []fixture{{
		name:     "follow their first",
		steps:    []step{there(a), there(b), there(c), back(ra), back(rc), back(rb)},
		counters: counters{FlowsCreated: 1}, flows: both,
		stats: map[uint32]serviceStats{1: {Connections: 1, Packets: 6}},
	}, {
		name:     "without their first",
		steps:    []step{at("A>", b).drops(), at("A>", c).drops(), there(a), there(c)},
		counters: counters{FlowsCreated: 1, DropFragment: 2}, flows: both,
	}, {
		name: "direct",
		steps: []step{
			at("A>", da).redirects(da.to("B")), at("A>", db).redirects(db.to("B")),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"A:1234>B:7000 = A:1234>B:7000 A->B [A B]",
			"B:7000>A:1234 = B:7000>A:1234 B->A reply [B A]"),
	}, {
		name: "through the stack",
		steps: []step{
			at("A>", na).passesAs(na.as("A:1234", "R:7000")),
			at("A>", nb).passesAs(nb.as("A:1234", "R:7000")),
			at(">A", mb).drops(),
			at(">A", ma).passesAs(ma.as("V:110", "A:1234").by("R")),
			at(">A", mb).passesAs(mb.as("V:110", "A:1234").by("R")),
		},
		counters: counters{FlowsCreated: 1, DropFragment: 1},
		flows: lines(proto,
			"A:1234>V:110 = A:1234>R:7000 A->- dst svc5 be5 [A -]",
			"R:7000>A:1234 = V:110>A:1234 -->A src reply svc5 be5 [- A]"),
	}, {
		name:     "another container does not speak for them",
		steps:    []step{there(a), at("C>", sa).drops(), at("C>", sa.by("C")).drops(), there(b)},
		counters: counters{FlowsCreated: 1, DropSpoofed: 2}, flows: both,
	}, {
		name:     "a wrong MAC does not speak for them",
		steps:    []step{there(a), at("A>", b.by("X")).drops(), there(b)},
		counters: counters{FlowsCreated: 1, DropSpoofed: 1}, flows: both,
	}, {
		name: "with another source port",
		steps: []step{
			at("A>", da).redirects(da.to("B")),
			at("A>", a).redirects(a.as("A:P", "B:7000").to("B")),
			at("A>", c).redirects(c.as("A:P", "B:7000").to("B")),
		},
		counters: counters{FlowsCreated: 2, PortsRewritten: 1},
		flows: lines(proto,
			"A:1234>B:7000 = A:1234>B:7000 A->B [A B]",
			"B:7000>A:1234 = B:7000>A:1234 B->A reply [B A]",
			"A:1234>V:80 = A:P>B:7000 A->B src dst svc1 be1 [A B]",
			"B:7000>A:P = V:80>A:1234 B->A src dst reply svc1 be1 [B A]"),
	}, {
		name: "of two datagrams with one name, the newest first is followed",
		steps: []step{there(a), at("A>", oa).redirects(oa.as("A:1", "B:7000").to("B")),
			at("A>", b).redirects(b.as("A:1", "B:7000").to("B")), there(a), there(b), there(a), there(c)},
		counters: counters{FlowsCreated: 2},
	}, {
		name: "first too short for its ports",
		steps: []step{at("A>", func(*rig) frame {
			p := a
			p.cut = &cut{id: 7, to: 6}
			return p
		}).drops()},
		counters: counters{DropMalformed: 1},
	}}
}

func otherFragments(f family) []fixture {
	a, b, _ := pieces(packet(protoSCTP, "A:1234", "V:80"), 7)
	da, db, _ := pieces(packet(protoSCTP, "A:1234", "B:7000"), 7)
	long := ping(f, "A", "B")
	long.icmp.body = make([]byte, 100)
	pa, pb, ea := long, long, ping(f, "A", "V")
	pa.cut, pb.cut = &cut{id: 1, to: 48}, &cut{id: 1, from: 48, to: 1000, last: true}
	ga := frame{src: "A", dst: "B", proto: 47, data: testData(100), cut: &cut{id: 3, to: 48}}
	gb := ga
	gb.cut = &cut{id: 3, from: 48, to: 100, last: true}
	eb := ea
	ea.cut, eb.cut = &cut{id: 1, to: 16}, &cut{id: 1, from: 16, to: 1000, last: true}
	return []fixture{{
		name: "SCTP direct",
		steps: []step{
			at("A>", da).redirects(da.to("B")), at("A>", db).redirects(db.to("B")),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(protoSCTP,
			"A:1234>B:7000 = A:1234>B:7000 A->B [A B]",
			"B:7000>A:1234 = B:7000>A:1234 B->A reply [B A]"),
	}, {
		// Its CRC covers the whole packet, of which no fragment knows all.
		name:     "SCTP to another port cannot be",
		steps:    []step{at("A>", a).drops(), at("A>", b).redirects(b.as("A:1234", "B:7000").to("B"))},
		counters: counters{FlowsCreated: 1, DropRewrite: 1},
		flows: lines(protoSCTP,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]"),
	}, {
		name: "SCTP to the same port",
		steps: []step{do(func(r *rig) {
			r.backend(1, "B:80", protoSCTP, 1)
		}), at("A>", a).redirects(a.as("A:1234", "B:80").to("B")),
			at("A>", b).redirects(b.as("A:1234", "B:80").to("B"))},
		counters: counters{FlowsCreated: 1},
		flows: lines(protoSCTP,
			"A:1234>V:80 = A:1234>B:80 A->B dst svc1 be1 [A B]",
			"B:80>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]"),
	}, {
		name: "ping",
		steps: []step{at("A>", pa).redirects(pa.to("B")), at("A>", pb).redirects(pb.to("B")),
			at("A>B", pa).passes(), at("A>B", pb).passes()},
		counters: counters{FlowsCreated: 1},
		flows: lines(protoICMP,
			"A:1>B:0 = A:1>B:0 A->B [A B]",
			"B:0>A:1 = B:0>A:1 B->A reply [B A]"),
	}, {
		name:     "of another protocol",
		steps:    []step{at("A>", gb).drops(), at("A>", ga).redirects(ga.to("B")), at("A>", gb).redirects(gb.to("B"))},
		counters: counters{FlowsCreated: 1, DropFragment: 1},
		flows: lines(47,
			"A:0>B:0 = A:0>B:0 A->B [A B]",
			"B:0>A:0 = B:0>A:0 B->A reply [B A]"),
	}, {
		name:     "ping without its first",
		steps:    []step{at("A>", pb).drops(), at(">B", pb).drops()},
		counters: counters{DropFragment: 2},
	}, {
		name:     "ping of a VIP: no answer",
		steps:    []step{at("A>", ea).drops(), at("A>", eb).drops(), at("A>", ea.by("C")).drops()},
		counters: counters{DropRefused: 2, DropSpoofed: 1},
	}}
}

// fragmentsBehindOptions have extension headers in what is cut, of which later fragments name the first
// only, or name anything (RFC 8200, 4.5).
func fragmentsBehindOptions(f family) (all []fixture) {
	for _, proto := range protocols() {
		p := packet(proto, "A:1234", "V:80")
		if proto == protoSCTP {
			p = packet(proto, "A:1234", "B:7000")
		}
		p.data, p.flags, p.df = testData(120), flagACK, false
		options := []byte{proto, 0, 1, 4, 0, 0, 0, 0}
		whole := func(p frame) []byte {
			b := p.bytes(f)
			b = append(b[:54:54], append(options, b[54:]...)...)
			b[20] = 60
			binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
			return b
		}
		at7000 := p.as("A:1234", "B:7000").to("B")
		a, b := cutIPv6(whole(p), 5, 48, 60), cutIPv6(whole(p), 5, 48, 17)
		outA, outB := cutIPv6(whole(at7000), 5, 48, 60), cutIPv6(whole(at7000), 5, 48, 17)
		nested := append([]byte{}, a[0]...)
		nested[54] = 44
		all = append(all, fixture{
			name: protoName(proto) + " named as the first",
			steps: []step{at("A>", a[1]).drops(), at("A>", a[0]).redirects(outA[0]),
				at("A>", a[1]).redirects(outA[1])},
			counters: counters{FlowsCreated: 1, DropFragment: 1},
		}, fixture{
			name:     protoName(proto) + " named otherwise",
			steps:    []step{at("A>", a[0]).redirects(outA[0]), at("A>", b[1]).redirects(outB[1])},
			counters: counters{FlowsCreated: 1},
		}, fixture{
			name: protoName(proto) + " a fragment of a fragment", counters: counters{DropMalformed: 1},
			steps: []step{at("A>", nested).drops()},
		})
	}
	return all
}

// cutIPv6 cuts a packet into two fragments behind its IPv6 header, the first of n bytes. The second's
// header names next.
func cutIPv6(b []byte, id uint32, n int, next uint8) (cuts [2][]byte) {
	for i, part := range [][]byte{b[54 : 54+n], b[54+n:]} {
		h := []byte{b[20], 0, 0, 1, 0, 0, 0, 0}
		if i == 1 {
			h[0] = next
			binary.BigEndian.PutUint16(h[2:], uint16(n))
		}
		binary.BigEndian.PutUint32(h[4:], id)
		c := append(append(append([]byte{}, b[:54]...), h...), part...)
		c[20] = 44
		binary.BigEndian.PutUint16(c[18:], uint16(len(c)-54))
		cuts[i] = c
	}
	return cuts
}
