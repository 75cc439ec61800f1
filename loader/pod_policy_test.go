package loader

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

// kinds are protocols, one of each kind that policies tell apart: with ports, echo, and all others.
func kinds(f family) []uint8 {
	icmp := uint8(protoICMP)
	if f.v6 {
		icmp = protoICMPv6
	}
	return append(protocols(), icmp, 47)
}

// request is a flow's first packet, of whatever protocol. Ports are left out where there are none.
func request(f family, proto uint8, src, dst string) frame {
	switch proto {
	case protoICMP, protoICMPv6:
		return ping(f, src, dst)
	case protoTCP, protoUDP, protoSCTP:
		return opening(packet(proto, src, dst))
	}
	src, _ = parseEndpoint(src)
	dst, _ = parseEndpoint(dst)
	return frame{src: src, dst: dst, proto: proto, data: []byte{1, 2, 3, 4}}
}

// response answers it.
func response(f family, q frame) frame {
	q.src, q.dst, q.smac, q.dmac = q.dst, q.src, "", ""
	switch q.proto {
	case protoICMP, protoICMPv6:
		m := *q.icmp
		m.typ = m.typ / 128 * 129
		q.icmp = &m
	case protoTCP:
		q.flags = flagSYN | flagACK
	case protoSCTP:
		q.vtag = 9
	}
	return q
}

// goes is a step in which a packet passes to another container unchanged.
func goes(p frame) step {
	src, _ := parseEndpoint(p.src)
	dst, _ := parseEndpoint(p.dst)
	return at(src+">", p).redirects(p.to(dst))
}

// leaves is one in which it passes to the stack, and drops one in which it is dropped.
func leaves(p frame) step {
	src, _ := parseEndpoint(p.src)
	return at(src+">", p).passes()
}

func dropped(p frame) step {
	src, _ := parseEndpoint(p.src)
	return at(src+">", p).drops()
}

// eachKind runs fixtures for both families and all kinds of protocols.
func eachKind(t *testing.T, fixtures func(f family, proto uint8) []fixture) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range kinds(f) {
				t.Run(protoName(proto), func(t *testing.T) { r.runFixtures(t, fixtures(f, proto)) })
			}
		})
	}
}

// TestPolicy: what containers send each other.
func TestPolicy(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		ab := request(f, proto, "A:1234", "B:7000")
		back := response(f, ab)
		ba := request(f, proto, "B:5678", "A:7000")
		if proto == 47 {
			ba = request(f, proto, "C", "A") // one flow each way is all there is between two
		}
		created := counters{FlowsCreated: 1}
		closed := []step{rule("A", egress, rulesetOf(deny)), rule("A", ingress, rulesetOf(deny)),
			rule("B", egress, rulesetOf(deny)), rule("B", ingress, rulesetOf(deny))}
		return []fixture{{
			name: "egress is closed", steps: []step{rule("A", egress, rulesetOf(deny)), dropped(ab), dropped(ab)},
			counters: counters{DropEgress: 2}, policies: []string{"101 denied egress 2"},
		}, {
			name: "ingress is closed", steps: []step{rule("B", ingress, rulesetOf(deny)), dropped(ab)},
			counters: counters{DropIngress: 1}, policies: []string{"101 denied ingress 1"},
		}, {
			name: "the sender is asked first", steps: append(closed, dropped(ab)),
			counters: counters{DropEgress: 1}, policies: []string{"101 denied egress 1"},
		}, {
			name: "by no policy in particular", steps: []step{rule("B", ingress, rulesetOf(quiet)), dropped(ab)},
			counters: counters{DropIngress: 1}, policies: []string{},
		}, {
			name: "the other direction is closed", counters: counters{FlowsCreated: 1, DropIngress: 1},
			steps: []step{rule("A", ingress, rulesetOf(deny)), rule("B", egress, rulesetOf(allow)),
				goes(ab), goes(back), goes(ab), dropped(ba)},
			policies: []string{"101 denied ingress 1"},
		}, {
			name: "allowed to all", counters: created,
			steps:    []step{rule("A", egress, rulesetOf(allow)), rule("B", ingress, rulesetOf(allow)), goes(ab)},
			policies: []string{"102 allowed egress 1", "102 allowed ingress 1"},
		}, {
			name: "allowed to each other only", counters: created,
			steps: append(closed, ruleFor("A", egress, "B", rulesetOf(allow)),
				ruleFor("B", ingress, "A", rulesetOf(join)), goes(ab), goes(back), goes(ab)),
			policies: []string{"102 allowed egress 1", "104 allowed ingress 1"},
		}, {
			name: "allowed to others only", counters: counters{DropEgress: 1},
			steps: append(closed, ruleFor("A", egress, "C", rulesetOf(allow)), dropped(ab)),
		}, {
			name: "denied to one only", counters: counters{DropIngress: 1},
			steps: []step{rule("B", ingress, rulesetOf(allow)), ruleFor("B", ingress, "A", rulesetOf(deny)),
				dropped(ab)},
		}, {
			name: "the receiver denies: the sender's policy counts nothing", counters: counters{DropIngress: 1},
			steps: []step{rule("A", egress, rulesetOf(allow)), rule("B", ingress, rulesetOf(deny)),
				dropped(ab)},
			policies: []string{"101 denied ingress 1"},
		}, {
			name: "rules of an open side do not count", counters: created,
			steps: []step{ruleFor("A", egress, "B", rulesetOf(deny)), goes(ab)},
		}, {
			name: "rules of a side that did not fit do not count", counters: counters{DropClosed: 2},
			steps: []step{rule("A", egress, rulesetClosed), ruleFor("A", egress, "B", rulesetOf(allow)),
				dropped(ab), rule("A", egress, rulesetOpen), rule("B", ingress, rulesetClosed), dropped(ab)},
		}, {
			name: "no identity could be given", counters: counters{DropClosed: 2},
			steps: []step{rule("closed", egress, rulesetClosed), rule("closed", ingress, rulesetClosed),
				rewire("A", func(e *endpoint) { e.Identity = identityClosed }), dropped(ab), dropped(ba)},
		}, {
			name: "no identity was given yet", counters: created,
			steps: []step{rewire("A", func(e *endpoint) { e.Identity = 0 }),
				rule("B", ingress, rulesetOf(allow)), goes(ab)},
			policies: []string{"102 allowed ingress 1"},
		}}
	})
}

// TestPolicyToItself: a container reaches itself whatever policies say.
func TestPolicyToItself(t *testing.T) {
	for _, f := range families() {
		r := newRig(t, f, rigOptions{})
		for _, proto := range kinds(f) {
			closed := []step{rule("A", egress, rulesetClosed), rule("A", ingress, rulesetClosed)}
			own := request(f, proto, "A:1234", "A:7000")
			out := own.to("A")
			if has := proto == protoTCP || proto == protoUDP || proto == protoSCTP; has {
				out = own.as("H:1234", "A:7000").to("A")
				vip := request(f, proto, "A:1234", "V:100")
				r.runFixtures(t, []fixture{{
					name:     f.name + " " + protoName(proto) + " by a VIP",
					steps:    append(closed, at("A>", vip).redirects(vip.as("H:1234", "A:7000").to("A"))),
					counters: counters{FlowsCreated: 1},
				}})
			}
			r.runFixtures(t, []fixture{{
				name:     f.name + " " + protoName(proto),
				steps:    append(closed, at("A>", own).redirects(out)),
				counters: counters{FlowsCreated: 1},
			}})
		}
	}
}

// TestPolicyOutside: what goes to and comes from elsewhere.
func TestPolicyOutside(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		out, far := request(f, proto, "A:1234", "N:53"), request(f, proto, "A:1234", "X:53")
		in, farIn := request(f, proto, "N:53", "A:1234").by("N"), request(f, proto, "X:53", "A:1234").by("X")
		answer := response(f, out).by("N")
		created := counters{FlowsCreated: 1}
		closed := []step{rule("A", egress, rulesetOf(deny)), rule("A", ingress, rulesetOf(deny))}
		with := func(s ...step) []step { return append(append([]step{}, closed...), s...) }
		node := do(func(r *rig) { r.prefix("N", 128, identityNode) })
		return []fixture{{
			name: "closed", counters: counters{DropEgress: 1, DropIngress: 1},
			steps: with(leaves(out).drops(), at("->A", in).drops()),
		}, {
			name: "to a block that a policy names", counters: counters{FlowsCreated: 1, DropEgress: 1},
			steps: with(ruleFor("A", egress, "N", rulesetOf(allow)), leaves(out), at("->A", answer).passes(),
				dropped(far)),
		}, {
			name: "from one", counters: counters{FlowsCreated: 1, DropIngress: 1},
			steps: with(ruleFor("A", ingress, "N", rulesetOf(allow)), at("->A", in).passes(),
				leaves(response(f, in)), at("->A", farIn).drops()),
		}, {
			name: "to the rest of the world", counters: counters{FlowsCreated: 1, DropEgress: 1},
			steps: with(ruleFor("A", egress, "world", rulesetOf(allow)), leaves(far), dropped(out)),
		}, {
			name: "from the rest of the world", counters: counters{FlowsCreated: 1, DropIngress: 1},
			steps: with(ruleFor("A", ingress, "world", rulesetOf(allow)), at("->A", farIn).passes(),
				at("->A", in).drops()),
		}, {
			name: "the longest prefix counts", counters: counters{FlowsCreated: 1, DropEgress: 1},
			steps: with(do(func(r *rig) {
				r.prefix("N", 100, identities["R"])
				r.prefix("X", 100, identities["R"])
			}), ruleFor("A", egress, "R", rulesetOf(allow)), dropped(out), leaves(far)),
		}, {
			name: "to the node and from it", counters: counters{FlowsCreated: 2},
			steps: with(node, leaves(out), at("->A", answer).passes(),
				do(func(r *rig) { r.empty("flows") }), at(">A", in).passes(), leaves(response(f, in))),
		}, {
			name: "not from who has its address only", counters: counters{DropIngress: 1},
			steps: with(node, at("->A", in).drops()),
		}, {
			name: "also of a container whose policies did not fit", counters: created,
			steps: []step{rule("A", egress, rulesetClosed), node, leaves(out)},
		}, {
			name: "what the node's stack made, whatever its address", counters: created,
			steps: with(at(">A", farIn).passes(), leaves(response(f, farIn))),
			flows: outsideFlows(f, proto, "X:53", "A:1234", " node"),
		}, {
			name: "and its answers when they are judged anew", counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
			steps: with(at(">A", farIn).passes(), raise(1), leaves(response(f, farIn))),
		}, {
			name:     "but not what answers a stranger with the same tuple",
			counters: counters{FlowsCreated: 1, DropIngress: 1, DropEgress: 1},
			steps: with(at(">A", farIn).passes(), raise(1), at("->A", farIn).drops(),
				do(func(r *rig) { r.empty("flows") }), dropped(response(f, farIn))),
		}, {
			name: "an open container needs no prefix", counters: created,
			steps: []step{do(func(r *rig) { r.prefix("N", 128, 1<<31) }), leaves(out)},
		}}
	})
}

// outsideFlows writes the two entries of a flow from outside.
func outsideFlows(f family, proto uint8, src, dst, flag string) []string {
	switch proto {
	case protoICMP, protoICMPv6:
		src, _ = parseEndpoint(src)
		dst, _ = parseEndpoint(dst)
		src, dst = src+":1", dst+":0"
	case 47:
		src, _ = parseEndpoint(src)
		dst, _ = parseEndpoint(dst)
		src, dst = src+":0", dst+":0"
	}
	return lines(proto,
		src+">"+dst+" = "+src+">"+dst+" -->-"+flag+" [- A]",
		dst+">"+src+" = "+dst+">"+src+" A->- reply"+flag+" [A -]")
}

// TestPolicyThroughStack: what one container sends another, but the node's stack forwards.
func TestPolicyThroughStack(t *testing.T) {
	eachKind(t, func(f family, proto uint8) []fixture {
		ab := request(f, proto, "A:1234", "B:7000")
		return []fixture{{
			name: "both sides are judged", counters: counters{DropEgress: 1, DropIngress: 1, FlowsCreated: 1},
			steps: []step{
				rule("A", egress, rulesetOf(deny)), at("A>B", ab).drops(),
				rule("A", egress, rulesetOpen), rule("B", ingress, rulesetOf(deny)), at("A>B", ab).drops(),
				ruleFor("B", ingress, "A", rulesetOf(allow)), at("A>B", ab).passes(),
			},
		}, {
			name: "from outside under a container's address", counters: counters{DropIngress: 2, FlowsCreated: 1},
			steps: []step{
				rule("B", ingress, rulesetOf(deny)), ruleFor("B", ingress, "A", rulesetOf(allow)),
				at("->B", ab).drops(), at("C>B", ab).drops(),
				ruleFor("B", ingress, "world", rulesetOf(allow)), at("->B", ab).passes(),
			},
		}, {
			name: "decided before the receiver was there", counters: counters{FlowsCreated: 1, DropIngress: 1},
			steps: []step{
				do(func(r *rig) { r.remove("endpoints", toAddress(r.f.addr("B"))) }),
				rule("B", ingress, rulesetOf(deny)),
				leaves(ab), do(func(r *rig) { r.endpoint("B", 2) }), at("A>B", ab).drops(),
			},
		}, {
			name:  "to an address that is not the container's",
			steps: []step{rule("B", ingress, rulesetOf(deny)), at("A>B", request(f, proto, "A:1234", "X:7000")).passes()},
		}}
	})
}

// TestPolicyConstants compares what BTF does not carry with the header.
func TestPolicyConstants(t *testing.T) {
	header, err := os.ReadFile("../bpf/types.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"IDENTITY_WORLD": identityWorld, "IDENTITY_NODE": identityNode, "IDENTITY_CLOSED": identityClosed,
		"RULESET_OPEN": rulesetOpen, "RULESET_CLOSED": rulesetClosed,
		"DIRECTION_INGRESS": ingress, "DIRECTION_EGRESS": egress,
		"OUTCOME_ALLOW": outcomeAllow, "OUTCOME_AUDIT": outcomeAudit, "OUTCOME_JOIN": outcomeJoin,
		"EVENT_DROP": eventDrop, "EVENT_VERDICT": eventVerdict, "EVENT_AUDIT": eventAudit,
		"ENDPOINT_WATCHED": endpointWatched,
	} {
		m := regexp.MustCompile(name + `\s*=\s*(?:1 << )?(\d+)`).FindStringSubmatch(string(header))
		if m == nil {
			t.Errorf("%s is not in types.h", name)
			continue
		}
		got, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(name + `\s*=\s*1 <<`).MatchString(string(header)) {
			got = 1 << got
		}
		if got != want {
			t.Errorf("%s is %d in types.h, want %d", name, got, want)
		}
	}
}
