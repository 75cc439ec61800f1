package loader

import (
	"fmt"
	"testing"
)

// containerGone takes B off the node, as the loader does.
func containerGone() step {
	return do(func(r *rig) {
		r.remove("endpoints", toAddress(r.f.addr("B")))
		r.raise(2)
	})
}

// containerReplaced gives B's address to another container.
func containerReplaced() step {
	return do(func(r *rig) {
		r.endpoint("B", 4)
		r.raise(2)
	})
}

// TestBackendGone: streams to a backend whose container is no more end at once, datagrams go elsewhere.
func TestBackendGone(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(protoName(proto), func(t *testing.T) {
					for name, gone := range map[string]step{
						"gone": containerGone(), "another has the address": containerReplaced(),
					} {
						t.Run(name, func(t *testing.T) {
							r.runFixtures(t, goneByPacket(f, proto, gone))
							r.runFixtures(t, goneBySocket(f, proto, gone))
						})
					}
					r.runFixtures(t, notGone(proto))
				})
			}
		})
	}
}

// refusal is what a sender is told about a packet that is to a VIP or a backend.
func refusal(f family, p frame) func(*rig) frame {
	if p.proto != protoTCP {
		return func(*rig) frame { return unreachable(f, p, 8) }
	}
	rst := p
	rst.src, rst.dst = p.dst, p.src
	rst.flags, rst.seq, rst.ack, rst.window, rst.data = flagRST, p.ack, 0, 0, nil
	from, _ := parseEndpoint(p.src)
	// The header's identification stays; the rest of it is fresh.
	return func(r *rig) frame { rst.df = false; return rst.to(from) }
}

func goneByPacket(f family, proto uint8, gone step) []fixture {
	first := packet(proto, "A:1234", "V:80")
	next := first.with(flagACK)
	next.ack = 4711
	data, fin := next, next.with(flagFIN|flagACK)
	data.data = []byte("of a connection that is no more")
	begin := at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))
	toC := func(p frame) step { return at("A>", p).redirects(p.as("A:1234", "C:7000").to("C")) }
	refused := func(p frame) step { return at("A>", p).redirects(refusal(f, p)) }
	opened := toC(opening(first))
	onC := lines(proto,
		"A:1234>V:80 = A:1234>C:7000 A->C dst svc1 be6 [A C]",
		"C:7000>A:1234 = V:80>A:1234 C->A src reply svc1 be6 [C A]")
	empty := do(func(r *rig) {
		r.service("V:80", proto, 1)
		r.freeBackend(1, proto)
	})
	if gone, finished := gone, leaveB(proto); proto == protoUDP {
		return []fixture{{
			name: "moves", steps: []step{begin, finished, gone, toC(next)},
			counters: counters{FlowsCreated: 1, FlowsRenewed: 1}, flows: onC,
			stats: map[uint32]serviceStats{1: {Connections: 2, Packets: 2}},
		}, {
			name: "no other", steps: []step{begin, empty, gone, refused(next)},
			counters: counters{FlowsCreated: 1, Refused: 1},
			stats:    map[uint32]serviceStats{1: {Connections: 1, Refused: 1, Packets: 1}},
			flows:    lines(proto, "A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B] stale"),
		}}
	}
	stale := "A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B] stale"
	left := "A:1234>V:80 = A:1234>B:7000 A->B dst svc1 [A B] stale"
	x := []fixture{{
		name: "each packet is answered", steps: []step{begin, leaveB(proto), gone, refused(next), refused(data), refused(fin)},
		counters: counters{FlowsCreated: 1, Refused: 3}, flows: lines(proto, stale),
		stats: map[uint32]serviceStats{1: {Connections: 1, Packets: 1}},
	}, {
		name: "the service does not know yet", steps: []step{begin, gone, refused(next)},
		counters: counters{FlowsCreated: 1, Refused: 1}, flows: lines(proto, stale),
	}, {
		name: "while it drained", counters: counters{FlowsCreated: 1, Refused: 1}, flows: lines(proto, stale),
		steps: []step{begin, do(func(r *rig) { r.drainBackend(1, proto) }), gone, refused(next)},
	}, {
		name:  "while it was finished",
		steps: []step{begin, leaveB(proto), at("A>", next).redirects(next.as("A:1234", "B:7000").to("B")), gone, refused(next)},
		flows: lines(proto, left), counters: counters{FlowsCreated: 1, FlowsRenewed: 1, Refused: 1},
	}, {
		name: "no other", steps: []step{begin, empty, gone, refused(next)},
		counters: counters{FlowsCreated: 1, Refused: 1}, flows: lines(proto, stale),
	}, {
		name: "the next connection goes elsewhere", steps: []step{begin, leaveB(proto), gone, refused(next), opened},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1, Refused: 1}, flows: onC,
	}, {
		name: "a connection that begins goes elsewhere", steps: []step{begin, leaveB(proto), gone, opened},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1}, flows: onC,
	}}
	if proto == protoTCP {
		return append(x, fixture{
			name: "a reset is not answered", steps: []step{begin, gone, at("A>", next.with(flagRST)).drops()},
			counters: counters{FlowsCreated: 1, DropRefused: 1},
		})
	}
	return x
}

// goneBySocket is about flows whose backend a socket hook has chosen.
func goneBySocket(f family, proto uint8, gone step) []fixture {
	first := packet(proto, "A:1234", "B:7000")
	next := first.with(flagACK)
	next.ack = 4711
	begin := at("A>", first).redirects(first.to("B"))
	ofService := do(func(r *rig) {
		for _, key := range []sockFlowKey{r.key(proto, "A:1234", "B:7000"), r.key(proto, "B:7000", "A:1234")} {
			var flow sockFlow
			r.lookup("flows", key, &flow)
			flow.Service = number(1, proto)
			r.put("flows", key, flow)
		}
	})
	refused := at("A>", next).redirects(refusal(f, next))
	isRefused := fixture{
		name: "of a socket", steps: []step{begin, ofService, gone, refused, refused},
		counters: counters{FlowsCreated: 1, Refused: 2},
	}
	x := []fixture{{
		name: "of a socket: what begins is another's", steps: []step{begin, ofService, gone, do(func(r *rig) {
			if v, _ := r.run("A>", opening(first).bytes(r.f)); v != redirect && v != pass {
				r.t.Errorf("verdict %v", v)
			}
		})}, counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
	}, {
		name: "of no service", steps: []step{begin, gone, do(func(r *rig) {
			if v, _ := r.run("A>", next.bytes(r.f)); v != redirect && v != pass {
				r.t.Errorf("verdict %v", v)
			}
		})}, counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
	}}
	if proto == protoUDP {
		x = x[1:]
		// Whether it is an old datagram's peer or a new one's cannot be told from the packet.
		isRefused = fixture{name: "of a socket", steps: []step{begin, ofService, gone, do(func(r *rig) {
			v, out := r.run("A>", next.bytes(r.f))
			_, wired := r.endpointOf("B")
			switch {
			case wired && v != redirect:
				r.t.Errorf("verdict %v", v)
			case !wired && (v != redirect || fmt.Sprint(out) != fmt.Sprint(r.render(refusal(f, next)))):
				r.t.Errorf("verdict %v, want a refusal", v)
			case !wired:
				r.before.Refused++
			default:
				r.before.FlowsRenewed++
			}
		})}, counters: counters{FlowsCreated: 1}}
	}
	return append(x, isRefused)
}

// endpointOf returns a container's entry, if it has one.
func (r *rig) endpointOf(name string) (e endpoint, wired bool) {
	return e, r.coll.Maps["endpoints"].Lookup(toAddress(r.f.addr(name)), &e) == nil
}

// notGone: a backend that only left its service is not gone, and neither is one that is wired anew.
func notGone(proto uint8) []fixture {
	first := packet(proto, "A:1234", "V:80")
	next := first.with(flagACK)
	begin := at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))
	toB := at("A>", next).redirects(next.as("A:1234", "B:7000").to("B"))
	answer := packet(proto, "B:7000", "A:1234").with(flagACK)
	x := []fixture{{
		name: "wired anew", steps: []step{begin, do(func(r *rig) { r.endpoint("B", 2); r.raise(2) }), toB},
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
	}, {
		name: "the client's container changed", counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		steps: []step{begin, raise(1), toB},
	}}
	if proto != protoUDP {
		x = append(x, fixture{
			name: "left the service", counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
			steps: []step{begin, leaveB(proto), toB, raise(2), toB,
				at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A"))},
			flows: lines(proto,
				"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 [A B]",
				"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 [B A]"),
		})
	}
	return x
}
