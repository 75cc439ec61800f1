package loader

import (
	"fmt"
	"strings"
	"testing"
)

// packet is a first packet of a flow.
func packet(proto uint8, src, dst string) frame {
	p := frame{src: src, dst: dst, proto: proto, seq: 1000, window: 512, id: 77, df: true}
	if proto == protoTCP {
		p.flags = flagSYN
		return p
	}
	p.data, p.vtag = []byte("odd length of data!"), 9
	return p
}

// as gives a packet other endpoints, and MACs as it is delivered to a container.
func (p frame) as(src, dst string) frame {
	p.src, p.dst = src, dst
	return p
}

func (p frame) to(container string) frame {
	p.smac, p.dmac = "G", container
	return p
}

func (p frame) by(container string) frame {
	p.smac = container
	return p
}

func (p frame) with(flags uint8) frame {
	if p.proto == protoTCP {
		p.flags = flags
	}
	return p
}

// lines writes the protocol's name into flow lines.
func lines(proto uint8, l ...string) []string {
	for i := range l {
		l[i] = protoName(proto) + " " + l[i]
	}
	return l
}

// protoName is a protocol's name in flow lines; of both ICMPs it is the same.
func protoName(proto uint8) string {
	name, named := map[uint8]string{
		protoTCP: "tcp", protoUDP: "udp", protoSCTP: "sctp", protoICMP: "icmp", protoICMPv6: "icmp",
	}[proto]
	if !named {
		return fmt.Sprint(proto)
	}
	return name
}

func TestFlows(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for _, f := range families() {
			t.Run(f.name, func(t *testing.T) {
				r := newRig(t, f, rigOptions{plain: plain})
				for _, proto := range protocols() {
					t.Run(strings.TrimSpace(lines(proto, "")[0]), func(t *testing.T) {
						r.runFixtures(t, vipFlows(proto))
						r.runFixtures(t, directFlows(proto))
						r.runFixtures(t, hairpinFlows(f, proto))
					})
				}
			})
		}
	}
}

func vipFlows(proto uint8) []fixture {
	first := packet(proto, "A:1234", "V:80")
	answer := packet(proto, "B:7000", "A:1234").with(flagSYN | flagACK)
	next := first.with(flagACK)
	next.data = []byte("hello")
	remote := packet(proto, "R:7000", "A:1234").with(flagSYN | flagACK).by("R")
	remote.dmac = "A"
	both := lines(proto,
		"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
		"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]")
	return []fixture{{
		name:     "new flow to a VIP",
		steps:    []step{at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))},
		counters: counters{FlowsCreated: 1},
		flows:    both,
		stats:    map[uint32]serviceStats{1: {Connections: 1, Packets: 1}},
	}, {
		name: "answer and next packet",
		steps: []step{
			at("A>", first).redirects(first.as("A:1234", "B:7000").to("B")),
			at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A")),
			at("A>", next).redirects(next.as("A:1234", "B:7000").to("B")),
			do(func(r *rig) {
				want := len(first.bytes(r.f)) + len(answer.bytes(r.f)) + len(next.bytes(r.f))
				if got := r.stats(number(1, proto)).Bytes; got != uint64(want) {
					r.t.Errorf("%d bytes were counted, want %d", got, want)
				}
			}),
		},
		counters: counters{FlowsCreated: 1},
		flows:    both,
		stats:    map[uint32]serviceStats{1: {Connections: 1, Packets: 3}},
	}, {
		name: "backend on another node",
		steps: []step{
			at("A>", packet(proto, "A:1234", "V:110")).
				passesAs(packet(proto, "A:1234", "R:7000")),
			at(">A", remote).passesAs(remote.as("V:110", "A:1234")),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"A:1234>V:110 = A:1234>R:7000 A->- dst svc5 be5 [A -]",
			"R:7000>A:1234 = V:110>A:1234 -->A src reply svc5 be5 [- A]"),
		stats: map[uint32]serviceStats{5: {Connections: 1, Packets: 2}},
	}, {
		name: "lost first half is made again",
		steps: []step{
			at("A>", first).redirects(first.as("A:1234", "B:7000").to("B")),
			do(func(r *rig) { r.remove("flows", r.key(proto, "A:1234", "V:80")) }),
			at("A>", next).redirects(next.as("A:1234", "B:7000").to("B")),
		},
		counters: counters{FlowsCreated: 2},
		flows:    both,
	}, {
		name: "lost half for answers is missed within a second",
		steps: []step{
			at("A>", first).redirects(first.as("A:1234", "B:7000").to("B")),
			do(func(r *rig) { r.remove("flows", r.key(proto, "B:7000", "A:1234")) }),
			do(func(r *rig) { r.age(r.key(proto, "A:1234", "V:80"), 2) }),
			at("A>", next).redirects(next.as("A:1234", "B:7000").to("B")),
			at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A")),
		},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows:    both,
	}, {
		name: "lost half for answers is made again by an answer",
		steps: []step{
			at("A>", first).redirects(first.as("A:1234", "B:7000").to("B")),
			do(func(r *rig) { r.remove("flows", r.key(proto, "B:7000", "A:1234")) }),
			at("B>", answer.with(flagACK)).redirects(answer.with(flagACK).as("V:80", "A:1234").to("A")),
			at("A>", next).redirects(next.as("A:1234", "B:7000").to("B")),
		},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows:    both,
	}, {
		name: "lost half for answers, whose key went to another flow",
		steps: []step{
			at("A>", first).redirects(first.as("A:1234", "B:7000").to("B")),
			do(func(r *rig) { r.remove("flows", r.key(proto, "B:7000", "A:1234")); r.forgetAsked() }),
			at("B>", answer).redirects(answer.to("A")),
			do(func(r *rig) { r.age(r.key(proto, "A:1234", "V:80"), 2) }),
			at("A>", next).redirects(next.as("A:P", "B:7000").to("B")),
			at("B>", answer.as("B:7000", "A:P")).redirects(answer.as("V:80", "A:1234").to("A")),
		},
		counters: counters{FlowsCreated: 2, FlowsRenewed: 1, PortsRewritten: 1},
	}}
}

// forgetAsked empties the map by which answers find the half that asked.
func (r *rig) forgetAsked() {
	r.t.Helper()
	m := r.coll.Maps["asked"]
	none := make([]byte, m.ValueSize())
	for i := range m.MaxEntries() {
		r.put("asked", i, none)
	}
}

func (r *rig) key(proto uint8, src, dst string) sockFlowKey {
	sname, sport := parseEndpoint(r.number(src))
	dname, dport := parseEndpoint(r.number(dst))
	return sockFlowKey{
		Saddr: toAddress(r.f.addr(sname)), Daddr: toAddress(r.f.addr(dname)),
		Sport: sport, Dport: dport, Proto: proto,
	}
}

func directFlows(proto uint8) []fixture {
	first := packet(proto, "A:1234", "B:7000")
	answer := packet(proto, "B:7000", "A:1234").with(flagSYN | flagACK)
	out := packet(proto, "A:1234", "N:53")
	in := packet(proto, "N:53", "A:1234").with(flagSYN | flagACK).by("N")
	in.dmac = "A"
	fromNode := packet(proto, "N:53", "A:1234").by("G")
	fromNode.dmac = "A"
	toNode := packet(proto, "A:1234", "N:53").with(flagSYN | flagACK)
	return []fixture{{
		name: "container to container",
		steps: []step{
			at("A>", first).redirects(first.to("B")),
			at("B>", answer).redirects(answer.to("A")),
			at("A>", first.with(flagACK)).redirects(first.with(flagACK).to("B")),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"A:1234>B:7000 = A:1234>B:7000 A->B [A B]",
			"B:7000>A:1234 = B:7000>A:1234 B->A reply [B A]"),
		stats: map[uint32]serviceStats{},
	}, {
		name: "container to the node's stack",
		steps: []step{
			at("A>", out).passes(),
			at(">A", in).passes(),
			at("A>", out.with(flagACK)).passes(),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"A:1234>N:53 = A:1234>N:53 A->- [A -]",
			"N:53>A:1234 = N:53>A:1234 -->A reply [- A]"),
	}, {
		name: "the node's stack to a container",
		steps: []step{
			at(">A", fromNode).passes(),
			at("A>", toNode).passes(),
			at(">A", fromNode.with(flagACK)).passes(),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"N:53>A:1234 = N:53>A:1234 -->- node [- A]",
			"A:1234>N:53 = A:1234>N:53 A->- reply node [A -]"),
	}, {
		name:  "the stack to an address that is not the container's",
		steps: []step{at(">A", packet(proto, "N:53", "B:1234").by("N")).passes()},
	}, {
		name: "container to an unknown address of the range",
		steps: []step{
			at("A>", packet(proto, "A:1234", "X:80")).passes(),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"A:1234>X:80 = A:1234>X:80 A->- [A -]",
			"X:80>A:1234 = X:80>A:1234 -->A reply [- A]"),
	}}
}

func hairpinFlows(f family, proto uint8) []fixture {
	first := packet(proto, "A:1234", "V:100")
	answer := packet(proto, "A:7000", "H:1234").with(flagSYN | flagACK)
	return []fixture{{
		name: "its own backend",
		steps: []step{
			at("A>", first).redirects(first.as("H:1234", "A:7000").to("A")),
			at("A>", answer).redirects(answer.as("V:100", "A:1234").to("A")),
			at("A>", first.with(flagACK)).
				redirects(first.with(flagACK).as("H:1234", "A:7000").to("A")),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"A:1234>V:100 = H:1234>A:7000 A->A src dst svc4 be4 [A A]",
			"A:7000>H:1234 = V:100>A:1234 A->A src dst reply svc4 be4 [A A]"),
		stats: map[uint32]serviceStats{4: {Connections: 1, Packets: 3}},
	}, {
		name: "renewed",
		steps: []step{
			at("A>", first).redirects(first.as("H:1234", "A:7000").to("A")),
			do(func(r *rig) { r.raise(1) }),
			at("A>", first.with(flagACK)).
				redirects(first.with(flagACK).as("H:1234", "A:7000").to("A")),
			do(func(r *rig) { r.raise(1) }),
			at("A>", answer).redirects(answer.as("V:100", "A:1234").to("A")),
			at("A>", first.with(flagACK)).
				redirects(first.with(flagACK).as("H:1234", "A:7000").to("A")),
		},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 3},
		flows: lines(proto,
			"A:1234>V:100 = H:1234>A:7000 A->A src dst svc4 be4 [A A]",
			"A:7000>H:1234 = V:100>A:1234 A->A src dst reply svc4 be4 [A A]"),
	}, {
		name: "its own address",
		steps: []step{
			at("A>", packet(proto, "A:1234", "A:7000")).
				redirects(packet(proto, "H:1234", "A:7000").to("A")),
		},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"A:1234>A:7000 = H:1234>A:7000 A->A src [A A]",
			"A:7000>H:1234 = A:7000>A:1234 A->A dst reply [A A]"),
	}}
}
