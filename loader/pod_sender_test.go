package loader

import (
	"testing"
)

func TestSender(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(lines(proto, "")[0], func(t *testing.T) {
					r.runFixtures(t, strangers(func(src, dst string) frame { return packet(proto, src, dst) }))
					r.runFixtures(t, intruders(proto))
				})
			}
			t.Run("ping", func(t *testing.T) {
				r.runFixtures(t, strangers(func(src, dst string) frame { return ping(f, src, dst) }))
			})
			t.Run("other", func(t *testing.T) {
				r.runFixtures(t, strangers(func(src, dst string) frame {
					return frame{src: src, dst: dst, proto: 47, data: []byte{1, 2, 3, 4}}
				}))
				r.runFixtures(t, pings(f))
			})
		})
	}
}

func ping(f family, src, dst string) frame {
	src, _ = parseEndpoint(src)
	dst, _ = parseEndpoint(dst)
	p := frame{src: src, dst: dst, proto: protoICMP, icmp: &icmp{typ: 8, rest: 0x00010002,
		body: []byte("some data that comes back")}}
	if f.v6 {
		p.proto, p.icmp.typ = protoICMPv6, 128
	}
	return p
}

// strangers are packets whose source is not the container that they come from.
func strangers(p func(src, dst string) frame) []fixture {
	spoofed, chatter := counters{DropSpoofed: 1}, counters{DropLinkLocal: 1}
	var all []fixture
	for _, dst := range []string{"B:7000", "N:53", "V:80", "V:7"} {
		all = append(all, fixture{
			name: "no one's address, to " + dst, counters: spoofed,
			steps: []step{at("A>", p("X:1234", dst).by("A")).drops()},
		}, fixture{
			name: "another container's address, to " + dst, counters: spoofed,
			steps: []step{at("A>", p("B:1234", dst).by("A")).drops()},
		}, fixture{
			name: "another container's address and MAC, to " + dst, counters: spoofed,
			steps: []step{at("A>", p("B:1234", dst)).drops()},
		}, fixture{
			name: "a VIP, to " + dst, counters: spoofed,
			steps: []step{at("A>", p("V:1234", dst).by("A")).drops()},
		}, fixture{
			name: "wrong MAC, to " + dst, counters: spoofed,
			steps: []step{at("A>", p("A:1234", dst).by("X")).drops()},
		}, fixture{
			name: "wrong veth, to " + dst, counters: spoofed,
			steps: []step{at("B>", p("A:1234", dst)).drops()},
		}, fixture{
			name: "unspecified, to " + dst, counters: chatter,
			steps: []step{at("A>", p("0:1234", dst).by("A")).drops()},
		}, fixture{
			name: "link-local, to " + dst, counters: chatter,
			steps: []step{at("A>", p("L:1234", dst).by("A")).drops()},
		})
	}
	return all
}

// intruders send packets of others' established flows.
func intruders(proto uint8) []fixture {
	first := packet(proto, "A:1234", "V:80")
	begin := at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))
	rst := first.with(flagRST)
	answer := packet(proto, "B:7000", "A:1234").with(flagRST)
	flows := lines(proto,
		"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
		"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]")
	x := []fixture{{
		name: "established", flows: flows, counters: counters{FlowsCreated: 1, DropSpoofed: 5},
		steps: []step{
			begin,
			at("C>", rst).drops(),
			at("C>", rst.by("C")).drops(),
			at("A>", rst.by("C")).drops(),
			at("C>", answer).drops(),
			at("C>", answer.by("C")).drops(),
		},
	}, {
		name: "stale", counters: counters{FlowsCreated: 1, DropSpoofed: 2},
		flows: lines(proto,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B] stale",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A] stale"),
		steps: []step{
			begin, do(func(r *rig) { r.raise(1) }),
			at("C>", rst).drops(),
			at("C>", answer.by("C")).drops(),
		},
	}}
	return x
}

func pings(f family) []fixture {
	there := ping(f, "A", "B")
	back := ping(f, "B", "A")
	back.icmp.typ = there.icmp.typ / 128 * 129
	out := ping(f, "A", "N")
	multicast := frame{src: "A", dst: "M", proto: protoIGMP, data: make([]byte, 8)}
	other := frame{src: "A", dst: "B", proto: 47, data: []byte{1, 2, 3, 4}}
	created := counters{FlowsCreated: 1}
	return []fixture{{
		name: "another container",
		steps: []step{
			at("A>", there).redirects(there.to("B")),
			at("B>", back).redirects(back.to("A")),
		},
		counters: created,
		flows: lines(protoICMP,
			"A:1>B:0 = A:1>B:0 A->B [A B]",
			"B:0>A:1 = B:0>A:1 B->A reply [B A]"),
	}, {
		name:     "the stack",
		steps:    []step{at("A>", out).passes()},
		counters: created,
		flows: lines(protoICMP,
			"A:1>N:0 = A:1>N:0 A->- [A -]",
			"N:0>A:1 = N:0>A:1 -->A reply [- A]"),
	}, {
		name:     "from the stack",
		steps:    []step{at(">A", ping(f, "N", "A").by("N")).passes()},
		counters: created,
		flows: lines(protoICMP,
			"N:1>A:0 = N:1>A:0 -->- node [- A]",
			"A:0>N:1 = A:0>N:1 A->- reply node [A -]"),
	}, {
		name:     "another protocol",
		steps:    []step{at("A>", other).redirects(other.to("B")), at("A>B", other).passes()},
		counters: created,
		flows: lines(47,
			"A:0>B:0 = A:0>B:0 A->B [A B]",
			"B:0>A:0 = B:0>A:0 B->A reply [B A]"),
	}, {
		name:     "multicast",
		steps:    []step{at("A>", multicast).passes()},
		counters: created,
		flows: lines(protoIGMP,
			"A:0>M:0 = A:0>M:0 A->- [A -]",
			"M:0>A:0 = M:0>A:0 -->A reply [- A]"),
	}, {
		name:     "from no one",
		steps:    []step{at("A>", ping(f, "X", "B").by("A")).drops()},
		counters: counters{DropSpoofed: 1},
	}}
}
