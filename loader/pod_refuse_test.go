package loader

import (
	"testing"
)

func TestRefusals(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			r.runFixtures(t, resets(f))
			for _, proto := range []uint8{protoUDP, protoSCTP} {
				t.Run(lines(proto, "")[0], func(t *testing.T) {
					r.runFixtures(t, unreachables(f, proto))
				})
			}
			r.runFixtures(t, pingedVIPs(f))
		})
	}
}

// resets are for VIP:90, which has no backends, and VIP:7, which is no service.
func resets(f family) []fixture {
	syn := packet(protoTCP, "A:1234", "V:90")
	rst := frame{src: "V:90", dst: "A:1234", proto: protoTCP, flags: flagRST}
	toSYN := rst
	toSYN.flags, toSYN.ack = flagRST|flagACK, 1001
	ack := syn.with(flagACK)
	ack.ack = 0xfffffff0
	toACK := rst
	toACK.seq = 0xfffffff0
	noServices := map[uint32]serviceStats{}
	emptyService := map[uint32]serviceStats{3: {Refused: 1}}
	with := func(p frame, edit func(*frame)) frame { edit(&p); return p }
	// The answer keeps IP options; its header is otherwise fresh.
	answer := func(p frame) func(*rig) frame {
		return func(*rig) frame { p.id = 77; return p.to("A") }
	}
	x := []fixture{{
		name: "SYN", counters: counters{Refused: 1}, stats: emptyService,
		steps: []step{at("A>", syn).redirects(answer(toSYN))},
	}, {
		name: "SYN to a port that is no service", counters: counters{Refused: 1}, stats: noServices,
		steps: []step{at("A>", syn.as("A:1234", "V:7")).
			redirects(answer(toSYN.as("V:7", "A:1234")))},
	}, {
		name: "SYN with options and data", counters: counters{Refused: 1},
		steps: []step{at("A>", with(syn, func(p *frame) { p.doff, p.data = 10, []byte("early") })).
			redirects(answer(with(toSYN, func(p *frame) { p.ack = 1006 })))},
	}, {
		name: "SYN, padded to Ethernet's least length", counters: counters{Refused: 1},
		steps: []step{at("A>", with(syn, func(p *frame) { p.pad = 6 })).redirects(answer(toSYN))},
	}, {
		name: "SYN at the end of the sequence space", counters: counters{Refused: 1},
		steps: []step{at("A>", with(syn, func(p *frame) { p.seq = 0xffffffff })).
			redirects(answer(with(toSYN, func(p *frame) { p.ack = 0 })))},
	}, {
		name: "ACK", counters: counters{Refused: 1},
		steps: []step{at("A>", ack).redirects(answer(toACK))},
	}, {
		name: "ACK with data", counters: counters{Refused: 1},
		steps: []step{at("A>", with(ack, func(p *frame) { p.data = make([]byte, 1001) })).
			redirects(answer(toACK))},
	}, {
		name: "FIN and ACK", counters: counters{Refused: 1},
		steps: []step{at("A>", ack.with(flagACK|flagFIN)).redirects(answer(toACK))},
	}, {
		name: "FIN without ACK, with data", counters: counters{Refused: 1},
		steps: []step{at("A>", with(syn, func(p *frame) { p.flags, p.data = flagFIN, make([]byte, 7) })).
			redirects(answer(with(toSYN, func(p *frame) { p.ack = 1008 })))},
	}, {
		name: "RST", counters: counters{DropRefused: 1}, stats: emptyService,
		steps: []step{at("A>", syn.with(flagRST)).drops()},
	}, {
		name: "RST and ACK", counters: counters{DropRefused: 1},
		steps: []step{at("A>", syn.with(flagRST|flagACK)).drops()},
	}, {
		name: "header shorter than a header", counters: counters{DropMalformed: 1},
		steps: []step{at("A>", func(r *rig) frame { return syn }).redirects(answer(toSYN)),
			do(func(r *rig) {
				r.before = r.counters()
				b := syn.bytes(f)
				b[len(b)-8] = 4 << 4
				if v, _ := r.run("A>", b); v != drop {
					r.t.Errorf("verdict is %v, want drop", v)
				}
				b[len(b)-8] = 6 << 4
				if v, _ := r.run("A>", b); v != drop {
					r.t.Errorf("verdict is %v, want drop", v)
				}
				r.before.DropMalformed++
			})},
	}, {
		name: "first fragment", counters: counters{DropRefused: 1},
		steps: []step{at("A>", with(ack, func(p *frame) {
			p.data, p.cut = make([]byte, 100), &cut{id: 5, to: 40}
		})).drops()},
	}}
	if f.v6 {
		return append(x, fixture{
			name: "SYN behind extension headers", counters: counters{Refused: 1},
			steps: []step{at("A>", with(syn, func(p *frame) { p.ext = []extension{{60, 1, 16}} })).
				redirects(answer(with(toSYN, func(p *frame) { p.ext = []extension{{60, 1, 16}} })))},
		})
	}
	nops := []byte{1, 1, 1, 1, 1, 1, 1, 0}
	return append(x, fixture{
		name: "SYN with IP options", counters: counters{Refused: 1},
		steps: []step{at("A>", with(syn, func(p *frame) { p.options, p.ttl = nops, 3 })).
			redirects(answer(with(toSYN, func(p *frame) { p.options = nops })))},
	})
}

// unreachable is the answer to a packet, quoting n bytes behind its IP header.
func unreachable(f family, of frame, n int) frame {
	vip, _ := parseEndpoint(of.dst)
	p := frame{src: vip, dst: "A", proto: protoICMP, icmp: &icmp{typ: 3, code: 3, body: of.quote(f, n)}}
	if f.v6 {
		p.proto, p.icmp.typ, p.icmp.code = protoICMPv6, 1, 4
	}
	return p.to("A")
}

func unreachables(f family, proto uint8) []fixture {
	first := packet(proto, "A:1234", "V:90")
	with := func(p frame, edit func(*frame)) frame { edit(&p); return p }
	refused := counters{Refused: 1}
	var all []fixture
	for _, size := range []int{0, 1, 2, 3, 100, 1400, 3000} {
		p := with(first, func(p *frame) { p.data = make([]byte, size) })
		all = append(all, fixture{
			name: "no backends", counters: refused, stats: map[uint32]serviceStats{3: {Refused: 1}},
			steps: []step{at("A>", p).redirects(unreachable(f, p, 8))},
		})
	}
	unknown := first.as("A:1234", "V:7")
	padded := with(first, func(p *frame) { p.data, p.pad = nil, 30 })
	whole := with(first, func(p *frame) { p.data = make([]byte, 100) })
	head := with(whole, func(p *frame) { p.cut = &cut{id: 9, to: 56} })
	tail := with(whole, func(p *frame) { p.cut = &cut{id: 9, from: 56, to: 1000, last: true} })
	all = append(all, fixture{
		name: "port that is no service", counters: refused, stats: map[uint32]serviceStats{},
		steps: []step{at("A>", unknown).redirects(unreachable(f, unknown, 8))},
	}, fixture{
		name: "padded", counters: refused,
		steps: []step{at("A>", padded).redirects(unreachable(f, padded, 8))},
	}, fixture{
		name: "fragments: one answer to the first", counters: counters{Refused: 1, DropRefused: 1},
		steps: []step{
			at("A>", head).redirects(unreachable(f, head, 8)),
			at("A>", tail).drops(),
		},
	})
	if f.v6 {
		long := with(first, func(p *frame) { p.ext = []extension{{0, 1, 16}, {60, 0, 8}} })
		longer := with(first, func(p *frame) { p.ext = []extension{{60, 20, 168}} })
		return append(all, fixture{
			name: "behind extension headers", counters: refused,
			steps: []step{at("A>", long).redirects(unreachable(f, long, 8))},
		}, fixture{
			name: "behind more than is quoted", counters: refused,
			steps: []step{at("A>", longer).redirects(func(*rig) frame {
				p := unreachable(f, longer, 8)
				p.icmp.body = p.icmp.body[:96]
				return p
			})},
		})
	}
	long := with(first, func(p *frame) { p.options = make([]byte, 40) })
	return append(all, fixture{
		name: "with IP options", counters: refused,
		steps: []step{at("A>", long).redirects(unreachable(f, long, 8))},
	})
}

func pingedVIPs(f family) []fixture {
	short := frame{src: "A", dst: "V", proto: 47, data: []byte{1, 2}}
	empty := frame{src: "A", dst: "V", proto: 59}
	lost := unreachable(f, packet(protoUDP, "V:53", "A:53"), 8)
	lost.src, lost.dst, lost.smac, lost.dmac = "A", "V", "A", "G"
	return []fixture{{
		name: "another protocol", counters: counters{Refused: 1},
		steps: []step{at("A>", short).redirects(unreachable(f, short, 8))},
	}, {
		name: "nothing", counters: counters{Refused: 1},
		steps: []step{at("A>", empty).redirects(unreachable(f, empty, 8))},
	}, {
		name: "an ICMP error about nothing known", counters: counters{DropRefused: 1},
		steps: []step{at("A>", lost).drops()},
	}}
}
