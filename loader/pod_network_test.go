package loader

import "testing"

// TestPolicyOfVIPs: policies are about backends, never about VIPs.
func TestPolicyOfVIPs(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(protoName(proto), func(t *testing.T) { r.runFixtures(t, vipPolicies(f, proto)) })
			}
		})
	}
}

func vipPolicies(f family, proto uint8) []fixture {
	vip, none := request(f, proto, "A:1234", "V:80"), request(f, proto, "A:1234", "V:90")
	away := request(f, proto, "A:1234", "V:110")
	back := response(f, vip.as("A:1234", "B:7000"))
	at7000 := []portSpan{{6999, deny}, {7000, allow}, {65535, deny}}
	at80 := []portSpan{{79, deny}, {80, allow}, {65535, deny}}
	// ports lets a ruleset be this for all protocols.
	ports := func(ruleset uint32, spans []portSpan) step {
		return do(func(r *rig) {
			next := ruleset
			ref := r.tree(spans, &next)
			r.ruleset(ruleset, ref, ref, ref, leaf|deny)
		})
	}
	allowed := []step{ports(30, at7000), rule("A", egress, rulesetOf(deny)), rule("B", ingress, rulesetOf(deny)),
		ruleFor("A", egress, "B", 30), ruleFor("B", ingress, "A", 30)}
	begin := at("A>", vip).redirects(vip.as("A:1234", "B:7000").to("B"))
	return []fixture{{
		name: "the backend's port is allowed", counters: counters{FlowsCreated: 1},
		steps: append(allowed, begin, at("B>", back).redirects(back.as("V:80", "A:1234").to("A"))),
		stats: map[uint32]serviceStats{1: {Connections: 1, Packets: 2}},
	}, {
		name: "the VIP's port is allowed", counters: counters{DropEgress: 1},
		steps: append(allowed, ports(40, at80), ruleFor("A", egress, "B", 40), at("A>", vip).drops()),
		stats: map[uint32]serviceStats{1: {Connections: 1}},
	}, {
		name: "a backend elsewhere", counters: counters{FlowsCreated: 1, DropEgress: 1},
		steps: []step{
			ports(30, at7000), rule("A", egress, rulesetOf(deny)), at("A>", away).drops(),
			ruleFor("A", egress, "R", 30), at("A>", away).passesAs(away.as("A:1234", "R:7000")),
		},
	}, {
		name: "with another source port", counters: counters{FlowsCreated: 2, PortsRewritten: 1, FlowsRenewed: 1},
		steps: append(allowed, begin,
			at("A>", vip.as("A:1234", "B:7000")).redirects(vip.as("A:P", "B:7000").to("B")), raise(1),
			at("B>", back.as("B:7000", "A:P")).redirects(back.to("A"))),
	}, {
		name: "refused without asking a policy", counters: counters{Refused: 1},
		steps: []step{rule("A", egress, rulesetOf(deny)), do(func(r *rig) {
			if v, _ := r.run("A>", none.bytes(r.f)); v != redirect {
				r.t.Errorf("verdict is %v, want redirect", v)
			}
		})},
	}}
}

// TestPingedVIPs: what asks a VIP itself is refused, whatever policies say.
func TestPingedVIPs(t *testing.T) {
	for _, f := range families() {
		r := newRig(t, f, rigOptions{})
		for _, proto := range kinds(f)[3:] {
			p := request(f, proto, "A", "V")
			if p.icmp != nil {
				continue // answered, see TestEchoes
			}
			r.runFixtures(t, []fixture{{
				name: f.name + " " + protoName(proto), counters: counters{Refused: 1},
				steps: []step{rule("A", egress, rulesetOf(deny)),
					at("A>", p).redirects(unreachable(f, p, min(8, len(p.bytes(f))-len(frame{src: "A", dst: "V"}.bytes(f)))))},
			}})
		}
	}
}

// TestNetworks: containers of different networks are apart, unless a rule joins them.
func TestNetworks(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		ab := request(f, proto, "A:1234", "B:7000")
		back := response(f, ab)
		apart := rewire("B", func(e *endpoint) { e.Network = 2 })
		created, closed := counters{FlowsCreated: 1}, counters{DropNetwork: 1}
		joined := func(s ...step) []step { return append([]step{apart}, append(s, goes(ab), goes(back))...) }
		return []fixture{{
			name: "closed", counters: counters{DropNetwork: 3}, policies: []string{},
			steps: []step{apart, dropped(ab), dropped(back), at("A>B", ab).drops()},
		}, {
			name: "allowed but not joined", counters: closed,
			steps: []step{apart, rule("A", egress, rulesetOf(allow)), rule("B", ingress, rulesetOf(allow)), dropped(ab)},
		}, {
			name: "joined by the sender's policy", counters: created, steps: joined(rule("A", egress, rulesetOf(join))),
			policies: []string{"104 allowed egress 1"},
		}, {
			name: "joined by the receiver's", counters: created,
			steps: joined(rule("A", egress, rulesetOf(allow)), rule("B", ingress, rulesetOf(deny)),
				ruleFor("B", ingress, "A", rulesetOf(join))),
		}, {
			name: "joined by one, denied by the other", counters: counters{DropIngress: 1},
			steps: []step{apart, rule("A", egress, rulesetOf(join)), rule("B", ingress, rulesetOf(deny)), dropped(ab)},
		}, {
			name: "joined for the other direction only", counters: closed,
			steps: []step{apart, rule("A", ingress, rulesetOf(join)), rule("B", egress, rulesetOf(join)), dropped(ab)},
		}, {
			name: "one of no network in particular", counters: created,
			steps: []step{rewire("B", func(e *endpoint) { e.Network = 0 }), goes(ab)},
		}, {
			name: "the world is of no network", counters: counters{FlowsCreated: 1},
			steps: []step{apart, at("->B", request(f, proto, "N:1", "B:7000").by("N")).passes()},
		}, {
			name: "node-wide audit", counters: counters{FlowsCreated: 1, Audited: 1},
			steps: joined(set(func(s *sockSettings) { s.Audit = 1 })),
		}, {
			name: "moved apart while they talked", counters: counters{FlowsCreated: 1, DropNetwork: 2},
			steps: []step{goes(ab), goes(back), apart, raise(2), dropped(back), dropped(ab)},
		}}
	})
}

// TestAudit: what only audit mode lets pass, passes and is counted.
func TestAudit(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		ab := request(f, proto, "A:1234", "B:7000")
		back := response(f, ab)
		audited := counters{FlowsCreated: 1, Audited: 1}
		everywhere := set(func(s *sockSettings) { s.Audit = 1 })
		return []fixture{{
			name: "of a policy", counters: audited, policies: []string{"103 audited egress 1"},
			steps: []step{rule("A", egress, rulesetOf(audit)), goes(ab), goes(back), goes(ab)},
		}, {
			name: "of the receiver's policy", counters: audited,
			policies: []string{"102 allowed egress 1", "103 audited ingress 1"},
			steps:    []step{rule("A", egress, rulesetOf(allow)), rule("B", ingress, rulesetOf(audit)), goes(ab)},
		}, {
			name: "of one policy, denied by another", counters: counters{DropIngress: 1},
			steps:    []step{rule("A", egress, rulesetOf(audit)), rule("B", ingress, rulesetOf(deny)), dropped(ab)},
			policies: []string{"101 denied ingress 1"},
		}, {
			name: "of the node", counters: audited, policies: []string{"101 audited egress 1", "101 audited ingress 1"},
			steps: []step{everywhere, rule("A", egress, rulesetOf(deny)), rule("B", ingress, rulesetOf(deny)),
				goes(ab), goes(back)},
		}, {
			name: "of the node, where policies did not fit", counters: audited, policies: []string{},
			steps: []step{everywhere, rule("A", egress, rulesetClosed), goes(ab)},
		}, {
			name: "ends", counters: counters{FlowsCreated: 1, Audited: 1, DropEgress: 1},
			steps: []step{rule("A", egress, rulesetOf(audit)), goes(ab), rule("A", egress, rulesetOf(deny)), raise(1),
				dropped(ab)},
		}, {
			name: "begins while they talk", counters: counters{FlowsCreated: 1, FlowsRenewed: 1, Audited: 1},
			steps: []step{goes(ab), rule("A", egress, rulesetOf(audit)), raise(1), goes(ab)},
		}}
	})
}
