package loader

import "testing"

func TestErrors(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(lines(proto, "")[0], func(t *testing.T) {
					r.runFixtures(t, errorsTranslated(f, proto))
					r.runFixtures(t, errorsLeft(f, proto))
				})
			}
		})
	}
}

// report is an ICMP error of a kind about a packet, quoting n bytes behind its IP header.
type report struct {
	typ, code uint8
	rest      uint32
	n         int
}

// reports are of all kinds that there are.
func reports(f family) []report {
	if f.v6 {
		return []report{{1, 4, 0, 8}, {1, 0, 0, 1000}, {2, 0, 1280, 8}, {2, 0, 1400, 1000}, {3, 0, 0, 12},
			{3, 0, 0, 17}, {3, 0, 0, 18}, {4, 1, 40, 8}}
	}
	return []report{{3, 3, 0, 8}, {3, 0, 0, 8}, {3, 1, 0, 1000}, {3, 4, 1400, 8}, {3, 4, 576, 1000}, {11, 0, 0, 12},
		{11, 0, 0, 17}, {11, 0, 0, 18}, {12, 0, 1 << 24, 8}}
}

func (e report) about(f family, src, dst string, p frame) frame {
	proto := uint8(protoICMP)
	if f.v6 {
		proto = protoICMPv6
	}
	return frame{src: src, dst: dst, proto: proto,
		icmp: &icmp{typ: e.typ, code: e.code, rest: e.rest, body: p.quote(f, e.n)}}
}

// aboutAs is about for a packet as it was before its translation. The quoted transport header's checksum
// is that packet's, too, unless it was cut off, or is a fragment's CRC of what no one knows the length of.
func (e report) aboutAs(f family, src, dst string, was, p frame) frame {
	q := e.about(f, src, dst, p)
	old := was.quote(f, e.n)
	from := len(was.quote(f, 0))
	at := map[uint8][2]int{protoTCP: {16, 18}, protoUDP: {6, 8}, protoSCTP: {8, 12}}[p.proto]
	if len(old) >= from+at[1] && !(p.proto == protoSCTP && p.cut != nil) {
		return q
	}
	for i := from + at[0]; i < from+at[1] && i < len(old); i++ {
		q.icmp.body[i] = old[i]
	}
	return q
}

func errorsTranslated(f family, proto uint8) (all []fixture) {
	there := packet(proto, "A:1234", "V:80")
	at7000 := there.as("A:1234", "B:7000")
	back := packet(proto, "B:7000", "A:1234").as("V:80", "A:1234")
	from7000 := back.as("B:7000", "A:1234")
	begin := at("A>", there).redirects(at7000.to("B"))
	away := at("A>", there.as("A:1234", "V:110")).passesAs(there.as("A:1234", "R:7000"))
	hairpin := at("A>", there.as("A:1234", "V:100")).redirects(there.as("H:1234", "A:7000").to("A"))
	other := there.as("A:1234", "W:81")
	translated := counters{FlowsCreated: 1, IcmpTranslated: 1}
	toA := func(p frame) frame { p.smac, p.dmac = "N", "A"; return p }
	for _, e := range reports(f) {
		one := func(name string, steps ...step) {
			all = append(all, fixture{name: name, steps: steps, counters: translated})
		}
		one("by the backend", begin,
			at("B>", e.about(f, "B", "A", at7000)).
				redirects(e.aboutAs(f, "V", "A", at7000, there).to("A")))
		one("by the client, about an answer", begin,
			at("A>", e.about(f, "A", "V", back)).
				redirects(e.aboutAs(f, "A", "B", back, from7000).to("B")))
		one("by a router, through the stack", away,
			at(">A", toA(e.about(f, "N", "A", there.as("A:1234", "R:7000")))).
				passesAs(toA(e.aboutAs(f, "N", "A", there.as("A:1234", "R:7000"), there.as("A:1234", "V:110")))))
		one("by a backend elsewhere, through the stack", away,
			at(">A", toA(e.about(f, "R", "A", there.as("A:1234", "R:7000")))).
				passesAs(toA(e.aboutAs(f, "V", "A", there.as("A:1234", "R:7000"), there.as("A:1234", "V:110")))))
		one("by the client, about an answer from elsewhere", away,
			at("A>", e.about(f, "A", "V", back.as("V:110", "A:1234"))).
				passesAs(e.aboutAs(f, "A", "R", back.as("V:110", "A:1234"), back.as("R:7000", "A:1234"))))
		one("by the client about itself", hairpin,
			at("A>", e.about(f, "A", "H", there.as("H:1234", "A:7000"))).
				redirects(e.aboutAs(f, "V", "A", there.as("H:1234", "A:7000"), there.as("A:1234", "V:100")).to("A")))
		all = append(all, fixture{
			name: "about a flow with another source port",
			steps: []step{
				begin, at("A>", other).redirects(other.as("A:P", "B:7000").to("B")),
				at("B>", func(r *rig) frame {
					return e.about(f, "B", "A", at7000.as(r.number("A:P"), "B:7000"))
				}).redirects(func(r *rig) frame {
					was := at7000.as(r.number("A:P"), "B:7000")
					return e.aboutAs(f, "W", "A", was, other).to("A")
				}),
			},
			counters: counters{FlowsCreated: 2, PortsRewritten: 1, IcmpTranslated: 1},
		}, fixture{
			name: "by the client, about an answer to another source port",
			steps: []step{
				begin, at("A>", other).redirects(other.as("A:P", "B:7000").to("B")),
				at("A>", e.about(f, "A", "W", other.as("W:81", "A:1234"))).redirects(func(r *rig) frame {
					return e.aboutAs(f, "A", "B", other.as("W:81", "A:1234"),
						other.as("B:7000", r.number("A:P"))).to("B")
				}),
			},
			counters: counters{FlowsCreated: 2, PortsRewritten: 1, IcmpTranslated: 1},
		})
	}
	return append(all, errorsOfPieces(f, proto, begin)...)
}

// errorsOfPieces are about packets, or in packets, with longer headers.
func errorsOfPieces(f family, proto uint8, begin step) (all []fixture) {
	e := reports(f)[3]
	there := packet(proto, "A:1234", "V:80")
	add := func(name string, quoted, outer func(*frame)) {
		p := there
		quoted(&p)
		q := p.as("A:1234", "B:7000")
		in, out := e.about(f, "B", "A", q), e.aboutAs(f, "V", "A", q, p).to("A")
		outer(&in)
		outer(&out)
		all = append(all, fixture{
			name: name, steps: []step{begin, at("B>", in).redirects(out)},
			counters: counters{FlowsCreated: 1, IcmpTranslated: 1},
		})
	}
	same := func(*frame) {}
	add("about a first fragment", func(p *frame) {
		p.data, p.cut = testData(100), &cut{id: 3, to: 48}
	}, same)
	add("padded", same, func(p *frame) { p.pad = 11 })
	add("about a datagram without a checksum", func(p *frame) { p.noCheck = proto != protoTCP }, same)
	add("about much data", func(p *frame) { p.data = testData(1201) }, same)
	if f.v6 {
		for name, chain := range map[string][]extension{
			"hop-by-hop":         {{0, 0, 8}},
			"destination":        {{60, 3, 32}},
			"routing":            {{43, 2, 24}},
			"an atomic fragment": {{44, 0, 8}},
			"many":               {{0, 0, 8}, {60, 1, 16}, {43, 2, 24}, {44, 0, 8}, {51, 4, 24}, {60, 0, 8}},
		} {
			add("about a packet behind "+name, func(p *frame) { p.ext = chain }, same)
		}
		add("behind extension headers", same, func(p *frame) { p.ext = []extension{{60, 2, 24}} })
		return all
	}
	add("with IP options", same, func(p *frame) { p.options = make([]byte, 12) })
	add("about a packet with IP options", func(p *frame) { p.options = make([]byte, 40) }, same)
	return all
}

// errorsLeft are not translated.
func errorsLeft(f family, proto uint8) (all []fixture) {
	e := reports(f)[0]
	there := packet(proto, "A:1234", "V:80")
	at7000 := there.as("A:1234", "B:7000")
	direct := packet(proto, "A:1235", "B:7000")
	begin := at("A>", there).redirects(at7000.to("B"))
	as := func(name string, in frame) {
		all = append(all, fixture{
			name: name, steps: []step{begin, at(in.src+">", in).redirects(in.to(in.dst))},
			counters: counters{FlowsCreated: 1},
		})
	}
	as("of another's flow", e.about(f, "C", "A", at7000))
	as("sent to another", e.about(f, "B", "C", at7000))
	as("about no flow", e.about(f, "B", "A", at7000.as("A:9", "B:7000")))
	as("about a packet as its sender knows it", e.about(f, "B", "A", there))
	short := e
	short.n = 3
	as("quoting too little", short.about(f, "B", "A", at7000))
	padded := short.about(f, "B", "A", at7000)
	padded.pad = 40
	as("quoting too little, padded", padded)
	short.n = -8
	as("quoting less", short.about(f, "B", "A", at7000))
	as("about another protocol", e.about(f, "B", "A", frame{src: "A", dst: "B", proto: 47, data: testData(20)}))
	if f.v6 {
		long := at7000
		long.ext = repeat(extension{60, 0, 8}, 9)
		as("about a packet behind more headers than are followed", e.about(f, "B", "A", long))
		long.ext = []extension{{60, 0, 8}}
		within := e.about(f, "B", "A", long)
		within.icmp.body = within.icmp.body[:44]
		as("quoting a part of the extension headers", within)
		cuts := at7000
		cuts.ext = repeat(extension{44, 0, 8}, 2)
		as("about a fragment of a fragment", e.about(f, "B", "A", cuts))
	}
	later := at7000
	later.data, later.cut = testData(100), &cut{id: 3, from: 48, to: 100, last: true}
	as("about a later fragment", e.about(f, "B", "A", later))
	echo := ping(f, "B", "A")
	echo.icmp.body = at7000.quote(f, 8)
	all = append(all, fixture{
		name:     "an echo that looks like one",
		steps:    []step{begin, at("B>", echo).redirects(echo.to("A"))},
		counters: counters{FlowsCreated: 2},
	})
	if !f.v6 {
		bad := e.about(f, "B", "A", at7000)
		bad.icmp.body[0] = 0x44
		as("about a packet with a bad header", bad)
	}
	toDirect := at("A>", direct).redirects(direct.to("B"))
	about := e.about(f, "B", "A", direct)
	return append(all, fixture{
		name:     "about a direct flow",
		steps:    []step{toDirect, at("B>", about).redirects(about.to("A"))},
		counters: counters{FlowsCreated: 1},
	}, fixture{
		name:     "from an address that is not its sender's",
		steps:    []step{begin, at("B>", e.about(f, "X", "A", at7000).by("B")).drops()},
		counters: counters{FlowsCreated: 1, DropSpoofed: 1},
	}, fixture{
		name:  "about nothing, to the stack",
		steps: []step{at("A>", e.about(f, "A", "N", packet(proto, "N:1", "A:1"))).passes()},
	}, fixture{
		name:  "about nothing, from the stack",
		steps: []step{at(">A", e.about(f, "N", "A", direct).by("N")).passes()},
	})
}
