package loader

import "testing"

// TestDraining: a backend that drains keeps its flows, whatever else changes, and is given no new ones.
func TestDraining(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(protoName(proto), func(t *testing.T) { r.runFixtures(t, draining(proto)) })
			}
		})
	}
}

func draining(proto uint8) []fixture {
	first, other := packet(proto, "A:1234", "V:80"), packet(proto, "A:1235", "V:80")
	next := first.with(flagACK)
	answer := packet(proto, "B:7000", "A:1234").with(flagSYN | flagACK)
	begin := at("A>", first).redirects(first.as("A:1234", "B:7000").to("B"))
	toB := at("A>", next).redirects(next.as("A:1234", "B:7000").to("B"))
	reply := at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A"))
	newToC := at("A>", other).redirects(other.as("A:1235", "C:7000").to("C"))
	drain := do(func(r *rig) {
		r.service("V:80", proto, 1, 6)
		r.drainBackend(1, proto)
	})
	onlyDrains := do(func(r *rig) { r.drainBackend(1, proto) }) // the run is as it was
	activeAgain := do(func(r *rig) {
		r.service("V:80", proto, 1, 1)
		var b backend
		r.lookup("backends", number(1, proto), &b)
		b.State = backendActive
		r.put("backends", number(1, proto), b)
	})
	both := lines(proto,
		"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
		"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]")
	return []fixture{{
		name: "goes on", steps: []step{begin, drain, toB, reply, toB, reply},
		counters: counters{FlowsCreated: 1}, flows: both,
	}, {
		name:     "new flows go elsewhere",
		steps:    []step{begin, drain, newToC, toB, reply},
		counters: counters{FlowsCreated: 2},
	}, {
		name: "a new flow while the run still leads there", counters: counters{Refused: 1},
		steps: []step{onlyDrains, do(func(r *rig) {
			if v, _ := r.run("A>", opening(first).bytes(r.f)); v != redirect {
				r.t.Errorf("verdict %v", v)
			}
		})},
	}, {
		name: "renewed for its container", counters: counters{FlowsCreated: 1, FlowsRenewed: 1}, flows: both,
		steps: []step{begin, drain, raise(2), toB, reply, toB},
	}, {
		name: "renewed for the client", counters: counters{FlowsCreated: 1, FlowsRenewed: 2}, flows: both,
		steps: []step{begin, drain, raise(1), reply, toB, reply},
	}, {
		name: "renewed for policies, and again", counters: counters{FlowsCreated: 1, FlowsRenewed: 2, DropIngress: 1},
		steps: []step{begin, drain, raise(1, 2), toB, rule("B", ingress, rulesetOf(deny)), raise(2),
			at("A>", next).drops(), rule("B", ingress, rulesetOf(allow)), raise(2), toB},
		flows: both,
	}, {
		name: "begins again while it is not answered", counters: counters{FlowsCreated: 1, FlowsRenewed: 1}, flows: both,
		steps: []step{begin, drain, begin, raise(2), begin},
	}, {
		name: "half is lost", counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
		steps: []step{begin, drain, reply, do(func(r *rig) {
			r.remove("flows", r.key(proto, "A:1234", "V:80"))
			r.age(r.key(proto, "B:7000", "A:1234"), 2)
		}), reply, toB},
		flows: both,
	}, {
		name: "serves again", counters: counters{FlowsCreated: 2},
		steps: []step{begin, drain, activeAgain, toB,
			at("A>", other).redirects(other.as("A:1235", "B:7000").to("B"))},
	}, {
		name: "another's now", counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		steps: []step{begin, drain, do(func(r *rig) {
			var b backend
			r.lookup("backends", number(1, proto), &b)
			b.Service, b.Epoch = number(2, proto), b.Epoch+1
			r.put("backends", number(1, proto), b)
		}), do(func(r *rig) {
			to := "B" // a stream is finished where it began
			if proto == protoUDP {
				to = "C"
			}
			r.step("then", at("A>", next).redirects(next.as("A:1234", to+":7000").to(to)))
		})},
	}}
}
