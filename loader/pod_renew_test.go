package loader

import "testing"

// TestPolicyRenewed: a change of policy holds for flows that are there, in both directions, and a flow
// that is allowed again goes on.
func TestPolicyRenewed(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		ab := request(f, proto, "A:1234", "B:7000")
		back := response(f, ab)
		next := ab
		if proto == protoTCP {
			next.flags = flagACK
		}
		if proto == protoSCTP {
			next.vtag = 9
		}
		out := request(f, proto, "A:1234", "N:53")
		answer := response(f, out).by("N")
		denied := []step{rule("A", egress, rulesetOf(deny)), raise(1)}
		allowed := []step{rule("A", egress, rulesetOf(allow)), raise(1)}
		apart := func(s ...any) (all []step) {
			for _, s := range s {
				switch s := s.(type) {
				case step:
					all = append(all, s)
				case []step:
					all = append(all, s...)
				}
			}
			return all
		}
		return []fixture{{
			name:     "denied, then allowed",
			steps:    apart(goes(ab), goes(back), denied, dropped(next), dropped(back), allowed, goes(next), goes(back)),
			counters: counters{FlowsCreated: 1, FlowsRenewed: 1, DropEgress: 2},
			// The answer that was denied counts for the sender's policy. What was allowed before does not again.
			policies: []string{"101 denied egress 2"},
		}, {
			name:     "denied, then allowed: the answer comes first",
			steps:    apart(goes(ab), goes(back), denied, dropped(back), allowed, goes(back), goes(next)),
			counters: counters{FlowsCreated: 1, FlowsRenewed: 2, DropEgress: 1},
		}, {
			name:     "denied by the receiver",
			steps:    apart(goes(ab), goes(back), rule("B", ingress, rulesetOf(deny)), raise(2), dropped(back), dropped(next)),
			counters: counters{FlowsCreated: 1, DropIngress: 2},
		}, {
			name: "what the answering side may send is nothing to an answer",
			steps: apart(goes(ab), rule("B", egress, rulesetOf(deny)), rule("A", ingress, rulesetOf(deny)), raise(1, 2),
				goes(back), goes(next), goes(back)),
			counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
		}, {
			name: "another identity",
			steps: apart(goes(ab), rule("B", ingress, rulesetOf(deny)), ruleFor("B", ingress, "A", rulesetOf(allow)),
				raise(2), goes(next), rewire("A", func(e *endpoint) { e.Identity = identities["C"] }), raise(1),
				dropped(back), dropped(next)),
			counters: counters{FlowsCreated: 1, FlowsRenewed: 1, DropIngress: 2},
		}, {
			name: "to outside",
			steps: apart(leaves(out), at("->A", answer).passes(), denied, at("->A", answer).drops(), leaves(out).drops(),
				allowed, at("->A", answer).passes(), leaves(out)),
			counters: counters{FlowsCreated: 1, FlowsRenewed: 2, DropEgress: 2},
		}, {
			name: "the answering half is lost",
			steps: apart(goes(ab), rule("B", egress, rulesetOf(deny)),
				do(func(r *rig) { r.removeFlow("B") }), goes(back), goes(next)),
			counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		}, {
			name:     "the answering half is lost, and the flow is denied",
			steps:    apart(goes(ab), denied, do(func(r *rig) { r.removeFlow("B") }), dropped(back)),
			counters: counters{FlowsCreated: 1, DropEgress: 1},
		}, {
			name: "the asking half is lost",
			steps: apart(goes(ab), rule("B", egress, rulesetOf(deny)), raise(2),
				do(func(r *rig) { r.removeFlow("A") }), goes(back), goes(next)),
			counters: counters{FlowsCreated: 2, FlowsRenewed: 1},
		}, {
			name: "both halves are lost: what was an answer is not",
			steps: apart(goes(ab), rule("B", egress, rulesetOf(deny)),
				do(func(r *rig) { r.empty("flows") }), dropped(back)),
			counters: counters{FlowsCreated: 1, DropEgress: 1},
		}}
	})
}

// removeFlow removes the entry of what a container sends.
func (r *rig) removeFlow(from string) {
	r.t.Helper()
	var key sockFlowKey
	var flow sockFlow
	for it := r.coll.Maps["flows"].Iterate(); it.Next(&key, &flow); {
		if key.Saddr == toAddress(r.f.addr(from)) {
			r.remove("flows", key)
			return
		}
	}
	r.t.Errorf("%s has no flow", from)
}

// TestRequestIsNoAnswer: what asks for something new in the answering direction of a flow is judged for
// itself: a SYN, an INIT, an echo request.
func TestRequestIsNoAnswer(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		if proto == protoUDP || proto == 47 {
			return nil // nothing tells there
		}
		ab, ba := request(f, proto, "A:1234", "B:7000"), request(f, proto, "B:7000", "A:1234")
		if ab.icmp != nil {
			// Only with this identifier do both directions have one tuple.
			ab.icmp.rest, ba.icmp.rest = 1, 1
		}
		back := response(f, ab)
		return []fixture{{
			name:     "denied",
			steps:    []step{rule("B", egress, rulesetOf(deny)), goes(ab), dropped(ba), goes(back), goes(ab)},
			counters: counters{FlowsCreated: 1, DropEgress: 1}, policies: []string{"101 denied egress 1"},
		}, {
			name:  "allowed",
			steps: []step{rule("B", egress, rulesetOf(allow)), goes(ab), goes(ba), goes(back), goes(ab)},
			// Each begins a flow of its own in place of the other's.
			counters: counters{FlowsCreated: 1, FlowsRenewed: 2},
		}}
	})
}

// TestPolicyKeepsBackend: a flow through a VIP that is denied and allowed again stays with its backend.
func TestPolicyKeepsBackend(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				vip := packet(proto, "A:1234", "V:80")
				next, at7000 := vip.with(flagACK), vip.as("A:1234", "B:7000")
				back := response(f, at7000)
				preferC := do(func(r *rig) { r.service("V:80", proto, 1, 6) })
				both := lines(proto,
					"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
					"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]")
				r.runFixtures(t, []fixture{{
					name: protoName(proto),
					steps: []step{
						at("A>", vip).redirects(at7000.to("B")), preferC,
						rule("B", ingress, rulesetOf(deny)), raise(2), at("A>", next).drops(), at("B>", back).drops(),
						rule("B", ingress, rulesetOf(allow)), raise(2),
						at("A>", next).redirects(at7000.with(flagACK).to("B")),
						at("B>", back).redirects(back.as("V:80", "A:1234").to("A")),
					},
					counters: counters{FlowsCreated: 1, FlowsRenewed: 1, DropIngress: 2},
					flows:    both, stats: map[uint32]serviceStats{1: {Connections: 1, Packets: 3}},
				}, {
					name: protoName(proto) + " over its closed tuple",
					steps: []step{
						at("A>", vip).redirects(at7000.to("B")),
						at("A>", vip.with(flagRST)).redirects(at7000.with(flagRST).to("B")),
						rule("B", ingress, rulesetOf(deny)), raise(2), at("A>", opening(vip)).drops(),
					},
					counters: counters{FlowsCreated: 1, DropIngress: 1},
				}})
			}
		})
	}
}

// TestIdleAnswer: a datagram flow that was silent for long has no answers any more.
func TestIdleAnswer(t *testing.T) {
	for _, f := range families() {
		r := newRig(t, f, rigOptions{})
		for _, proto := range []uint8{protoUDP, 47} {
			ab := request(f, proto, "A:1234", "B:7000")
			back := response(f, ab)
			life := uint64(DefaultLifetimes().Other.Seconds())
			if proto == protoUDP {
				life = uint64(DefaultLifetimes().UDPAnswered.Seconds())
			}
			idle := func(seconds uint64) step {
				return do(func(r *rig) {
					var key sockFlowKey
					var flow sockFlow
					var keys []sockFlowKey
					for it := r.coll.Maps["flows"].Iterate(); it.Next(&key, &flow); {
						keys = append(keys, key)
					}
					if flow.Seen < seconds*1e9 {
						r.t.Skipf("the machine has not been up for %d s", seconds)
					}
					for _, key := range keys {
						r.age(key, seconds)
					}
				})
			}
			r.runFixtures(t, []fixture{{
				name: f.name + " " + protoName(proto), counters: counters{FlowsCreated: 1, DropEgress: 1},
				steps: []step{rule("B", egress, rulesetOf(deny)), goes(ab), goes(back), idle(life - 1), goes(back), idle(life + 1),
					dropped(back)},
			}})
		}
	}
}
