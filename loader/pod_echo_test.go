package loader

import (
	"fmt"
	"testing"
)

// TestEchoes: a VIP answers echo requests, whoever of the containers asks.
func TestEchoes(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			r.runFixtures(t, append(echoes(f), noEchoes(f)...))
		})
	}
}

// echoed is what answers an echo request to a VIP: the same message, fresh from the node.
func echoed(f family, p frame) frame {
	p.src, p.dst, p.ttl, p.df = p.dst, p.src, 0, false
	m := *p.icmp
	m.typ = 0
	if f.v6 {
		m.typ = 129
	}
	p.icmp = &m
	return p.to(p.dst)
}

func echoes(f family) (all []fixture) {
	plain := ping(f, "A", "V")
	answered := func(name string, edit func(*frame)) {
		p, m := plain, *plain.icmp
		p.icmp = &m
		edit(&p)
		all = append(all, fixture{
			name: name, counters: counters{EchoReplies: 1}, flows: []string{},
			steps: []step{at("A>", p).redirects(echoed(f, p))},
		})
	}
	for _, n := range []int{0, 1, 2, 3, 48, 56, 1000, 1471, 1472, 3000} {
		answered(fmt.Sprintf("%d bytes", n), func(p *frame) { p.icmp.body = testData(n) })
	}
	answered("padded", func(p *frame) { p.icmp.body, p.pad = testData(3), 11 })
	answered("nothing but zeros", func(p *frame) { p.icmp.rest, p.icmp.body = 0, make([]byte, 30) })
	answered("a TTL of 1", func(p *frame) { p.ttl = 1 })
	answered("another code", func(p *frame) { p.icmp.code = 7 })
	answered("every bit of identifier and sequence number", func(p *frame) { p.icmp.rest = 0xffffffff })
	answered("of another VIP", func(p *frame) { p.dst = "W" })
	// With these data the checksum is all ones or all zeros, before or after.
	for v := 0; v < 1<<16; v += 1021 {
		answered("data of every sum", func(p *frame) { p.icmp.body = []byte{byte(v >> 8), byte(v)} })
	}
	if f.v6 {
		answered("behind extension headers", func(p *frame) { p.ext = []extension{{0, 0, 8}, {60, 1, 16}} })
		answered("an atomic fragment", func(p *frame) { p.ext = []extension{{44, 0, 8}} })
		return all
	}
	answered("not to be cut", func(p *frame) { p.df = true })
	answered("with IP options", func(p *frame) { p.options = []byte{1, 1, 1, 1, 1, 1, 1, 0} })
	return all
}

// noEchoes are not answered: who asks is not who he says, or asks something else.
func noEchoes(f family) []fixture {
	p := ping(f, "A", "V")
	reply, timestamp := p, p
	reply.icmp, timestamp.icmp = &icmp{typ: 0}, &icmp{typ: 13, body: make([]byte, 12)}
	if f.v6 {
		reply.icmp, timestamp.icmp = &icmp{typ: 129}, &icmp{typ: 139, body: make([]byte, 12)}
	}
	first, later := p, p
	first.icmp = &icmp{typ: p.icmp.typ, body: testData(64)}
	later.icmp = first.icmp
	first.cut, later.cut = &cut{id: 5, to: 24}, &cut{id: 5, from: 24, to: 1000, last: true}
	denied := []step{rule("A", egress, rulesetOf(deny)), at("A>", p).redirects(echoed(f, p))}
	return []fixture{{
		name: "from another's address", counters: counters{DropSpoofed: 1},
		steps: []step{at("C>", p).drops()},
	}, {
		name: "from another's MAC", counters: counters{DropSpoofed: 1},
		steps: []step{at("A>", p.by("C")).drops()},
	}, {
		name: "from no one's address", counters: counters{DropSpoofed: 1},
		steps: []step{at("A>", ping(f, "X", "V").by("A")).drops()},
	}, {
		name: "a reply", counters: counters{Refused: 1},
		steps: []step{at("A>", reply).redirects(unreachable(f, reply, 8))},
	}, {
		name: "another question", counters: counters{Refused: 1},
		steps: []step{at("A>", timestamp).redirects(unreachable(f, timestamp, 8))},
	}, {
		name: "in fragments", counters: counters{DropRefused: 2},
		steps: []step{at("A>", first).drops(), at("A>", later).drops()},
	}, {
		name: "a later fragment first", counters: counters{DropFragment: 1},
		steps: []step{at("A>", later).drops()},
	}, {
		name: "no policy is asked", counters: counters{EchoReplies: 1}, steps: denied,
	}, {
		name:  "of a container: its own business",
		steps: []step{at("A>", ping(f, "A", "B")).redirects(ping(f, "A", "B").to("B"))}, counters: counters{FlowsCreated: 1},
	}}
}
