package loader

import "testing"

// TestReopened: what begins on the tuple of a connection that has ended is given a backend anew; what
// seems to begin on one that is open goes where that goes.
func TestReopened(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, s := range states() {
				if s.proto != protoUDP {
					r.runFixtures(t, reopened(s))
				}
			}
		})
	}
}

// reopened sends a SYN or an INIT in each state, when a new choice would be C.
func reopened(s state) []fixture {
	first := opening(packet(s.proto, "A:1234", "V:80"))
	life := s.lives(DefaultLifetimes())
	closed := false // what the client itself has closed, or either side has cut, is over to it
	for _, s := range s.said {
		switch s.what {
		case flagRST, flagRST | flagACK:
			closed = true
		case flagFIN | flagACK:
			closed = closed || !s.answer
		}
	}
	if s.proto == protoSCTP {
		closed = life == 0
		for _, s := range s.said {
			closed = closed || !s.answer && (s.what == chunkShutdownAck || s.what == chunkShutdownComplete)
		}
	}
	said := conversation(s.proto, s.said...)
	said = append(said, do(func(r *rig) { r.service("V:80", s.proto, 1, 6) }))
	toC := at("A>", first).redirects(first.as("A:1234", "C:7000").to("C"))
	name := protoName(s.proto) + ", " + s.name
	now := fixture{name: name + ": open", counters: counters{FlowsCreated: 1}}
	now.steps = append(said[:len(said):len(said)], at("A>", first).redirects(first.as("A:1234", "B:7000").to("B")))
	if closed {
		now = fixture{name: name + ": closed", counters: counters{FlowsCreated: 1, FlowsRenewed: 1}}
		now.steps = append(said[:len(said):len(said)], toC)
	}
	later := fixture{name: name + ": silent", counters: counters{FlowsCreated: 1, FlowsRenewed: 1}}
	later.steps = append(said[:len(said):len(said)], do(func(r *rig) {
		seconds := uint64(life.Seconds()) + 1
		var f sockFlow
		if r.lookup("flows", r.key(s.proto, "A:1234", "V:80"), &f); f.Seen < seconds*1e9 {
			r.t.Skipf("the machine has not been up for %d s", seconds)
		}
		r.age(r.key(s.proto, "A:1234", "V:80"), seconds)
		r.age(r.key(s.proto, "B:7000", "A:1234"), seconds)
	}), toC)
	return []fixture{now, later}
}

// TestSimultaneousOpen: both ends begin at once (RFC 9293, 3.5; RFC 9260, 5.2.1), through a VIP and without.
func TestSimultaneousOpen(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range []uint8{protoTCP, protoSCTP} {
				r.runFixtures(t, simultaneous(proto))
			}
		})
	}
}

func simultaneous(proto uint8) []fixture {
	says := func(what, chunk uint8, src, dst string) frame {
		p := packet(proto, src, dst)
		if proto == protoSCTP {
			return p.chunk(chunk)
		}
		return p.with(what)
	}
	var vip, direct []step
	for _, s := range []struct{ flags, chunk uint8 }{
		{flagSYN, chunkInit}, {flagSYN | flagACK, chunkInitAck}, {flagACK, chunkData},
	} {
		there, back := says(s.flags, s.chunk, "A:1234", "V:80"), says(s.flags, s.chunk, "B:7000", "A:1234")
		vip = append(vip, at("A>", there).redirects(there.as("A:1234", "B:7000").to("B")),
			at("B>", back).redirects(back.as("V:80", "A:1234").to("A")))
		there = there.as("A:1234", "B:7000")
		direct = append(direct, at("A>", there).redirects(there.to("B")), at("B>", back).redirects(back.to("A")))
	}
	return []fixture{{
		name: protoName(proto) + " through a VIP", steps: vip,
		// What the backend begins is judged for itself, and translated all the same.
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows: lines(proto,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]"),
	}, {
		name: protoName(proto), steps: direct,
		counters: counters{FlowsCreated: 1, FlowsRenewed: 1},
		flows: lines(proto,
			"A:1234>B:7000 = A:1234>B:7000 A->B reply [A B]",
			"B:7000>A:1234 = B:7000>A:1234 B->A [B A]"),
	}}
}

// TestClientReplaced: a container that has the address of one that is gone begins on its tuples.
func TestClientReplaced(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			fin := uint8(flagFIN | flagACK)
			for name, said := range map[string][]said{
				"open":         {asks(flagSYN), answers(flagSYN | flagACK), asks(flagACK)},
				"in TIME_WAIT": {asks(flagSYN), answers(flagSYN | flagACK), answers(fin), asks(fin), answers(flagACK)},
			} {
				syn := packet(protoTCP, "A:1234", "V:80")
				late := packet(protoTCP, "B:7000", "A:1234").with(flagACK)
				steps := append(conversation(protoTCP, said...), do(func(r *rig) {
					r.service("V:80", protoTCP, 1, 6)
					r.freeBackend(1, protoTCP)
					r.endpoint("A", 4)
					r.raise(1)
				}), rule("B", egress, rulesetOf(deny)),
					// Nobody has asked for that.
					at("B>", late).drops(),
					at("A>", syn).redirects(syn.as("A:1234", "C:7000").to("C")),
					at("B>", late).drops())
				r.runFixtures(t, []fixture{{
					name: name, steps: steps, counters: counters{FlowsCreated: 1, FlowsRenewed: 1, DropEgress: 2},
				}})
			}
		})
	}
}
