package loader

import (
	"testing"
)

func TestEpochs(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(lines(proto, "")[0], func(t *testing.T) {
					r.runFixtures(t, backendEpochs(proto))
					r.runFixtures(t, endpointEpochs(proto))
				})
			}
			r.runFixtures(t, closedFlows())
			r.runFixtures(t, idleFlows())
		})
	}
}

// leaveB takes B out of service 1 and puts C in.
func leaveB(proto uint8) step {
	return do(func(r *rig) {
		r.service("V:80", proto, 1, 6)
		r.freeBackend(1, proto)
	})
}

func backendEpochs(proto uint8) []fixture {
	first := packet(proto, "A:1234", "V:80")
	next := first.with(flagACK)
	answer := packet(proto, "B:7000", "A:1234").with(flagACK)
	begin := at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))
	reply := at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A"))
	toB := at("A>", next).redirects(next.as("A:1234", "B:7000").to("B"))
	toC := at("A>", next).redirects(next.as("A:1234", "C:7000").to("C"))
	onB := lines(proto,
		"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 [A B]",
		"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 [B A]")
	onC := lines(proto,
		"A:1234>V:80 = A:1234>C:7000 A->C dst svc1 be6 [A C]",
		"C:7000>A:1234 = V:80>A:1234 C->A src reply svc1 be6 [C A]")
	x := []fixture{{
		name:     "another backend's end is nobody else's business",
		steps:    []step{begin, do(func(r *rig) { r.freeBackend(6, proto) }), toB},
		counters: counters{FlowsCreated: 1},
		flows: lines(proto,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]"),
	}}
	if proto == protoUDP {
		return append(x, fixture{
			name:     "backend gone: a datagram leaves it at once",
			steps:    []step{begin, leaveB(proto), toC},
			counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
			flows:    onC,
		}, fixture{
			name:     "an answer that was on its way does not bring it back",
			steps:    []step{begin, leaveB(proto), reply, toC},
			counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
			flows:    onC,
		}, fixture{
			name: "backend's id belongs to another service",
			steps: []step{begin, do(func(r *rig) {
				r.service("V:80", proto, 1, 6)
				r.freeBackend(1, proto)
				r.backend(1, "B:7000", proto, 2)
				var b backend
				r.lookup("backends", number(1, proto), &b)
				b.Epoch = 3
				r.put("backends", number(1, proto), b)
			}), toC},
			counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
			flows:    onC,
		})
	}
	return append(x, fixture{
		name:     "backend gone: a connection ends where it began",
		steps:    []step{begin, leaveB(proto), toB, reply, toB},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows:    onB,
	}, fixture{
		name:     "backend gone, its answer first",
		steps:    []step{begin, leaveB(proto), reply, toB, reply, toB},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
		flows:    onB,
	}, fixture{
		name: "backend gone: a new connection from the same port goes elsewhere",
		steps: []step{begin, leaveB(proto),
			at("A>", opening(first)).redirects(opening(first).as("A:1234", "C:7000").to("C"))},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows:    onC,
	})
}

// opening makes a packet the first of a connection: a SYN, or an INIT (verification tag 0).
func opening(p frame) frame {
	if p.proto == protoSCTP {
		p.vtag = 0
		return p
	}
	return p.with(flagSYN)
}

func endpointEpochs(proto uint8) []fixture {
	first := packet(proto, "A:1234", "V:80")
	next := first.with(flagACK)
	answer := packet(proto, "B:7000", "A:1234").with(flagACK)
	direct := packet(proto, "A:1234", "B:7000")
	begin := at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))
	reply := at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A"))
	toB := at("A>", next).redirects(next.as("A:1234", "B:7000").to("B"))
	both := lines(proto,
		"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
		"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]")
	// From here on a new choice would be C; B is still a legal one.
	preferC := do(func(r *rig) { r.service("V:80", proto, 1, 6) })
	moveB := do(func(r *rig) {
		r.ifindex["B"], r.ifindex["C"] = r.ifindex["C"], r.ifindex["B"]
		r.endpoint("B", 2)
		r.raise(2)
	})
	node := packet(proto, "R:7000", "A:1234").with(flagACK).by("R")
	remote := packet(proto, "A:1234", "V:110")
	return []fixture{{
		name: "renewed with the same choice",
		steps: []step{begin, preferC, do(func(r *rig) { r.raise(2) }), toB,
			do(func(r *rig) { r.raise(1) }), toB, reply},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
		flows:    both,
	}, {
		name:     "answer renews itself",
		steps:    []step{begin, preferC, do(func(r *rig) { r.raise(1) }), reply, toB},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
		flows:    both,
	}, {
		name:     "container wired anew, to another veth",
		steps:    []step{begin, moveB, toB, reply, moveB, reply, toB},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 3},
		flows:    both,
	}, {
		name: "direct flow",
		steps: []step{
			at("A>", direct).redirects(direct.to("B")), do(func(r *rig) { r.raise(2) }),
			at("A>", direct).redirects(direct.to("B")), do(func(r *rig) { r.raise(2) }),
			at("B>", answer).redirects(answer.to("A")),
		},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
		flows: lines(proto,
			"A:1234>B:7000 = A:1234>B:7000 A->B [A B] stale",
			"B:7000>A:1234 = B:7000>A:1234 B->A reply [B A]"),
	}, {
		name: "answer from another node",
		steps: []step{
			at("A>", remote).passesAs(remote.as("A:1234", "R:7000")),
			do(func(r *rig) { r.raise(1) }),
			at(">A", node).passesAs(node.as("V:110", "A:1234").by("R")),
			at("A>", remote.with(flagACK)).passesAs(remote.with(flagACK).as("A:1234", "R:7000")),
		},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
		flows: lines(proto,
			"A:1234>V:110 = A:1234>R:7000 A->- dst svc5 be5 [A -]",
			"R:7000>A:1234 = V:110>A:1234 -->A src reply svc5 be5 [- A]"),
	}}
}

func closedFlows() []fixture {
	first := packet(protoTCP, "A:1234", "V:80")
	fin, rst := first.with(flagFIN|flagACK), first.with(flagRST|flagACK)
	answer := packet(protoTCP, "B:7000", "A:1234").with(flagFIN | flagACK)
	begin := at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))
	finish := at("A>", fin).redirects(fin.as("A:1234", "B:7000").to("B"))
	preferC := do(func(r *rig) { r.service("V:80", protoTCP, 1, 6) })
	toC := at("A>", first).redirects(first.as("A:1234", "C:7000").to("C"))
	onC := lines(protoTCP,
		"A:1234>V:80 = A:1234>C:7000 A->C dst svc1 be6 [A C]",
		"C:7000>A:1234 = V:80>A:1234 C->A src reply svc1 be6 [C A]")
	return []fixture{{
		name: "SYN after both FINs",
		steps: []step{begin, finish,
			at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A")), preferC, toC},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		// B may have the old connection in TIME_WAIT: nobody else gets its tuple there.
		flows: append(lines(protoTCP, "B:7000>A:1234 = V:80>A:1234 B->A src reply fin svc1 be1 [B A]"), onC...),
	}, {
		name: "SYN after RST",
		steps: []step{begin, at("A>", rst).redirects(rst.as("A:1234", "B:7000").to("B")),
			preferC, toC},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows:    onC,
	}, {
		name:     "SYN again",
		steps:    []step{begin, preferC, begin},
		counters: counters{FlowsCreated: 1},
		flows: lines(protoTCP,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]"),
	}, {
		name: "FINs are remembered when the flow is renewed",
		steps: []step{begin, at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A")),
			do(func(r *rig) { r.raise(2) }), finish},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows: lines(protoTCP,
			"A:1234>V:80 = A:1234>B:7000 A->B dst fin svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply fin svc1 be1 [B A]"),
	}}
}

func idleFlows() []fixture {
	first := packet(protoUDP, "A:1234", "V:80")
	answer := packet(protoUDP, "B:7000", "A:1234")
	begin := at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))
	reply := at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A"))
	preferC := do(func(r *rig) { r.service("V:80", protoUDP, 1, 6) })
	age := func(src, dst string, seconds uint64) step {
		return do(func(r *rig) {
			var f sockFlow
			if r.lookup("flows", r.key(protoUDP, src, dst), &f); f.Seen < seconds*1e9 {
				r.t.Skipf("the machine has not been up for %d s", seconds)
			}
			r.age(r.key(protoUDP, src, dst), seconds)
		})
	}
	on := func(b, id string) []string {
		return lines(protoUDP,
			"A:1234>V:80 = A:1234>"+b+":7000 A->"+b+" dst svc1 be"+id+" [A "+b+"]",
			b+":7000>A:1234 = V:80>A:1234 "+b+"->A src reply svc1 be"+id+" ["+b+" A]")
	}
	return []fixture{{
		name: "idle for too long",
		steps: []step{begin, preferC, age("A:1234", "V:80", 121), age("B:7000", "A:1234", 121),
			at("A>", first).redirects(first.as("A:1234", "C:7000").to("C"))},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows:    on("C", "6"),
	}, {
		name: "idle for less",
		steps: []step{begin, preferC, age("A:1234", "V:80", 119), age("B:7000", "A:1234", 119),
			begin, do(func(r *rig) {
				var f sockFlow
				r.lookup("flows", r.key(protoUDP, "B:7000", "A:1234"), &f)
				old := f.Seen
				r.lookup("flows", r.key(protoUDP, "A:1234", "V:80"), &f)
				if f.Seen < old+118e9 {
					r.t.Error("the packet was not noted")
				}
			})},
		counters: counters{FlowsCreated: 1},
		flows:    on("B", "1"),
	}, {
		name:     "only the client was silent",
		steps:    []step{begin, reply, preferC, age("A:1234", "V:80", 1000), begin},
		counters: counters{FlowsCreated: 1},
		flows:    on("B", "1"),
	}, {
		name:     "only the backend was silent",
		steps:    []step{begin, preferC, age("B:7000", "A:1234", 1000), reply, begin},
		counters: counters{FlowsCreated: 1},
		flows:    on("B", "1"),
	}}
}
