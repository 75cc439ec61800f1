package loader

import "testing"

// TestErrorPolicy: an ICMP error passes when the flow that it is about may be, and is judged for itself
// when it is about none.
func TestErrorPolicy(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range kinds(f) {
				t.Run(protoName(proto), func(t *testing.T) { r.runFixtures(t, errorPolicies(f, proto)) })
			}
		})
	}
}

func errorPolicies(f family, proto uint8) []fixture {
	e := reports(f)[1] // quotes the whole packet
	ab := request(f, proto, "A:1234", "B:7000")
	back := response(f, ab)
	byB, byA := e.about(f, "B", "A", ab), e.about(f, "A", "B", back)
	out := request(f, proto, "A:1234", "N:53")
	byN, byRouter := e.about(f, "N", "A", out).by("N"), e.about(f, "X", "A", out).by("X")
	// Nothing but what answers may go from B to A.
	onlyAB := []step{rule("B", egress, rulesetOf(deny)), rule("A", ingress, rulesetOf(deny))}
	with := func(s ...step) []step { return append(append([]step{}, onlyAB...), s...) }
	deniedAB := []step{rule("A", egress, rulesetOf(deny)), raise(1)}
	fixtures := []fixture{{
		name: "about a known flow", counters: counters{FlowsCreated: 1},
		steps: with(goes(ab), goes(byB), goes(back), goes(byA)),
	}, {
		name: "about no flow", counters: counters{DropEgress: 1, DropIngress: 1},
		steps: with(dropped(byB), at("->A", byN).drops()),
	}, {
		name: "about another's flow", counters: counters{FlowsCreated: 1, DropEgress: 1},
		steps: with(goes(ab), rule("C", egress, rulesetOf(deny)), dropped(e.about(f, "C", "A", ab))),
	}, {
		name: "about what its receiver did not send", counters: counters{FlowsCreated: 1, DropEgress: 1},
		steps: with(goes(ab), dropped(e.about(f, "B", "C", ab))),
	}, {
		name: "by whom it was sent to, and by a router", counters: counters{FlowsCreated: 1},
		steps: with(leaves(out), at("->A", byN).passes(), at("->A", byRouter).passes()),
	}, {
		name: "made by the node", counters: counters{},
		steps: with(at(">A", byN).passes()),
	}, {
		name: "about a flow that is denied now", counters: counters{FlowsCreated: 1, DropEgress: 2},
		steps: append(append(with(goes(ab)), deniedAB...), dropped(byB), dropped(byA)),
	}, {
		name: "about one whose policy changed, but allows it", counters: counters{FlowsCreated: 1},
		steps: with(goes(ab), rule("A", egress, rulesetOf(allow)), raise(1, 2), goes(byB), goes(byA)),
	}, {
		name: "from outside, about a flow that is denied now", counters: counters{FlowsCreated: 1, DropEgress: 1},
		steps: append(append(with(leaves(out)), deniedAB...), at("->A", byRouter).drops()),
	}}
	if proto != protoTCP && proto != protoUDP && proto != protoSCTP {
		return fixtures
	}
	vip := packet(proto, "A:1234", "V:80")
	about := e.about(f, "B", "A", vip.as("A:1234", "B:7000"))
	begin := at("A>", vip).redirects(vip.as("A:1234", "B:7000").to("B"))
	return append(fixtures, fixture{
		name: "about a translated flow", counters: counters{FlowsCreated: 1, IcmpTranslated: 1},
		steps: with(begin, at("B>", about).redirects(e.aboutAs(f, "V", "A", vip.as("A:1234", "B:7000"), vip).to("A"))),
	}, fixture{
		name: "about one that is denied now", counters: counters{FlowsCreated: 1, DropEgress: 1},
		steps: append(append(with(begin), deniedAB...), at("B>", about).drops()),
	})
}

// TestSingles: messages that are of no flow are judged one by one.
func TestSingles(t *testing.T) {
	for _, f := range families() {
		r := newRig(t, f, rigOptions{})
		message := func(src, dst string) frame {
			p := ping(f, src, dst)
			p.icmp.typ = 13 // timestamp
			if f.v6 {
				p.icmp.typ = 139 // node information query
			}
			return p
		}
		ab := message("A", "B")
		first, later := ab, ab
		first.cut, later.cut = &cut{id: 6, to: 16}, &cut{id: 6, from: 16, to: 1000, last: true}
		r.runFixtures(t, []fixture{{
			name: f.name + " denied", counters: counters{DropEgress: 1, DropIngress: 2},
			steps: []step{rule("A", egress, rulesetOf(deny)), dropped(ab), rule("A", egress, rulesetOpen),
				rule("B", ingress, rulesetOf(deny)), dropped(ab), at("->B", message("N", "B").by("N")).drops()},
			policies: []string{"101 denied egress 1", "101 denied ingress 2"},
		}, {
			name: f.name + " allowed, each counts", flows: []string{},
			steps:    []step{rule("A", egress, rulesetOf(allow)), goes(ab), goes(ab), leaves(message("A", "N"))},
			policies: []string{"102 allowed egress 3"},
		}, {
			name: f.name + " audited, each counts", counters: counters{Audited: 2},
			steps:    []step{rule("A", egress, rulesetOf(audit)), goes(ab), goes(ab)},
			policies: []string{"103 audited egress 2"},
		}, {
			name: f.name + " no answer", counters: counters{DropEgress: 1},
			steps: []step{rule("B", egress, rulesetOf(deny)), goes(ab), dropped(message("B", "A"))},
		}, {
			name: f.name + " in fragments", counters: counters{DropEgress: 2},
			steps: []step{rule("A", egress, rulesetOf(deny)), dropped(first), dropped(later)},
		}})
	}
}
