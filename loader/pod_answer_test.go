package loader

import "testing"

// TestAnswersEnd: what may be said only in answer to something may not be said for ever.
func TestAnswersEnd(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		ab := request(f, proto, "A:1234", "B:7000")
		back := response(f, ab)
		out := request(f, proto, "A:1234", "N:53")
		answer := response(f, out).by("N")
		another := rewire("A", func(e *endpoint) { e.Id = 9 })
		all := []fixture{{
			name: "the address has gone to a container that asked nothing",
			steps: []step{goes(ab), rule("B", egress, rulesetOf(deny)), another, raise(1),
				dropped(back), dropped(back)},
			counters: counters{FlowsCreated: 1, DropEgress: 2},
		}, {
			name: "the same, and the answering half is lost",
			steps: []step{goes(ab), rule("B", egress, rulesetOf(deny)), another, raise(1),
				do(func(r *rig) { r.removeFlow("B") }), dropped(back)},
			counters: counters{FlowsCreated: 1, DropEgress: 1},
		}, {
			name: "the same, and the answers come from outside",
			steps: []step{leaves(out), rule("A", ingress, rulesetOf(deny)), another, raise(1),
				at("->A", answer).drops()},
			counters: counters{FlowsCreated: 1, DropIngress: 1},
		}}
		if proto != protoTCP && proto != protoSCTP {
			return all
		}
		open := request(f, proto, "B:7000", "A:1234")
		data := back
		data.flags &^= flagSYN
		return append(all, fixture{
			name: "a connection the other way round is one of its own",
			steps: []step{goes(ab), goes(open), goes(response(f, open)), goes(data),
				rule("A", ingress, rulesetOf(deny)), raise(1), dropped(data), dropped(open)},
			counters: counters{FlowsCreated: 1, FlowsRenewed: 1, DropIngress: 2},
		})
	})
}

// TestPolicySameTuple: an entry decides packets that come the way it was made for.
func TestPolicySameTuple(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		far := request(f, proto, "X:53", "A:1234").by("X")
		ba := request(f, proto, "B:7000", "A:1234")
		return []fixture{{
			name:     "of a flow that the node began, from outside",
			steps:    []step{rule("A", ingress, rulesetOf(deny)), at(">A", far).passes(), at("->A", far).drops()},
			counters: counters{FlowsCreated: 1, DropIngress: 1},
		}, {
			name: "of a flow that another container began, from outside",
			steps: []step{rule("A", ingress, rulesetOf(deny)), ruleFor("A", ingress, "B", rulesetOf(allow)),
				goes(ba), at("B>A", ba).passes(), at("->A", ba.by("X")).drops()},
			counters: counters{FlowsCreated: 1, DropIngress: 1},
		}}
	})
}

// TestGatewayAddresses: nothing is there that would take what is sent to them, so it goes nowhere.
func TestGatewayAddresses(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		var all []fixture
		for _, name := range []string{"G", "H"} {
			all = append(all, fixture{
				name:     name,
				steps:    []step{dropped(request(f, proto, "A:1234", name+":53"))},
				counters: counters{DropLinkLocal: 1},
			})
		}
		return all
	})
}
