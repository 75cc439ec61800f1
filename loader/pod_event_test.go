package loader

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestEvents: drops, verdicts and what audit mode let pass are reported as they were.
func TestEvents(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(protoName(proto), func(t *testing.T) {
					r.runFixtures(t, policyEvents(f, proto))
					r.runFixtures(t, verdictEvents(f, proto))
				})
			}
			r.runFixtures(t, otherEvents(f))
		})
	}
}

func policyEvents(f family, proto uint8) []fixture {
	name := protoName(proto)
	ab, vip := packet(proto, "A:1234", "B:7000"), packet(proto, "A:1234", "V:80")
	back, out := response(f, ab), packet(proto, "A:1234", "N:53")
	in := packet(proto, "X:53", "A:1234").by("X")
	begin := at("A>", vip).redirects(ab.to("B"))
	return []fixture{{
		name: "nothing while no rate is given", counters: counters{DropEgress: 1}, events: []string{},
		steps: []step{rule("A", egress, rulesetOf(deny)), dropped(ab)},
	}, {
		name: "denied by the sender's policy", counters: counters{DropEgress: 2},
		steps: []step{reported(), rule("A", egress, rulesetOf(deny)), dropped(ab), dropped(out)},
		events: []string{"drop egress drop_egress p101 " + name + " A:1234>B:7000 10>11 [A B] at A",
			"drop egress drop_egress p101 " + name + " A:1234>N:53 10>20 [A -] at A"},
	}, {
		name: "by the receiver's, through a VIP", counters: counters{DropIngress: 1},
		steps:  []step{reported(), rule("B", ingress, rulesetOf(deny)), at("A>", vip).drops()},
		events: []string{"drop ingress drop_ingress p101 " + name + " A:1234>B:7000 svc1 10>11 [A B] at A"},
	}, {
		name: "by no policy in particular", counters: counters{DropIngress: 1},
		steps:  []step{reported(), rule("A", ingress, rulesetOf(quiet)), at("->A", in).drops()},
		events: []string{"drop ingress drop_ingress " + name + " X:53>A:1234 1>10 [- A] at A"},
	}, {
		name: "of an answer", counters: counters{FlowsCreated: 1, DropEgress: 1},
		steps:  []step{reported(), begin, rule("A", egress, rulesetOf(deny)), raise(1), at("B>", back).drops()},
		events: []string{"drop egress drop_egress p101 " + name + " B:7000>A:1234 svc1 11>10 [B A] at B"},
	}, {
		name: "of another network", counters: counters{DropNetwork: 2},
		steps: []step{reported(), rewire("B", func(e *endpoint) { e.Network = 2 }), rule("A", egress, rulesetOf(allow)),
			dropped(ab), at("A>B", ab).drops()},
		events: []string{"drop egress drop_network " + name + " A:1234>B:7000 10>11 [A B] at A",
			"drop ingress drop_network " + name + " A:1234>B:7000 10>11 [A B] at B"},
	}, {
		name: "of policies that did not fit", counters: counters{DropClosed: 2},
		steps: []step{reported(), rule("B", ingress, rulesetClosed), dropped(ab), rule("A", egress, rulesetClosed),
			dropped(ab)},
		events: []string{"drop ingress drop_closed " + name + " A:1234>B:7000 10>11 [A B] at A",
			"drop egress drop_closed " + name + " A:1234>B:7000 10>11 [A B] at A"},
	}, {
		name: "audit mode of policies", counters: counters{FlowsCreated: 1, Audited: 1},
		steps: []step{reported(), rule("A", egress, rulesetOf(audit)), rule("B", ingress, rulesetOf(audit)), begin, begin},
		events: []string{"audit egress drop_egress p103 " + name + " A:1234>B:7000 svc1 10>11 [A B] at A",
			"audit ingress drop_ingress p103 " + name + " A:1234>B:7000 svc1 10>11 [A B] at A"},
	}, {
		name: "audit mode of the node", counters: counters{FlowsCreated: 3, Audited: 3},
		steps: []step{reported(), set(func(s *sockSettings) { s.Audit = 1 }), rule("A", egress, rulesetOf(deny)), goes(ab),
			rule("A", egress, rulesetClosed), do(func(r *rig) { r.empty("flows") }), goes(ab),
			rule("A", egress, rulesetOpen), rewire("B", func(e *endpoint) { e.Network = 2 }),
			do(func(r *rig) { r.empty("flows") }), goes(ab)},
		events: []string{"audit egress drop_egress p101 " + name + " A:1234>B:7000 10>11 [A B] at A",
			"audit egress drop_closed " + name + " A:1234>B:7000 10>11 [A B] at A",
			"audit egress drop_network " + name + " A:1234>B:7000 10>11 [A B] at A"},
	}}
}

func verdictEvents(f family, proto uint8) []fixture {
	name := protoName(proto)
	ab, in := packet(proto, "A:1234", "B:7000"), packet(proto, "X:53", "A:1234").by("X")
	watched := func(who string) step { return rewire(who, func(e *endpoint) { e.Flags = endpointWatched }) }
	every := func(n uint32) step { return set(func(s *sockSettings) { s.Sample = n }) }
	created := counters{FlowsCreated: 1}
	verdict := "verdict egress " + name + " A:1234>B:7000 10>11 [A B] at A"
	return []fixture{{
		name: "not asked for", counters: created, events: []string{}, steps: []step{reported(), goes(ab)},
	}, {
		name: "every flow, once", counters: created, events: []string{verdict},
		steps: []step{reported(), every(1), goes(ab), goes(ab)},
	}, {
		name: "not when it is judged anew", counters: counters{FlowsCreated: 1, FlowsRenewed: 1}, events: []string{verdict},
		steps: []step{reported(), every(1), goes(ab), raise(1), goes(ab)},
	}, {
		name: "of a watched sender", counters: created, events: []string{verdict},
		steps: []step{reported(), watched("A"), goes(ab)},
	}, {
		name: "of a watched receiver", counters: created,
		steps:  []step{reported(), watched("B"), rule("B", ingress, rulesetOf(allow)), goes(ab)},
		events: []string{"verdict ingress p102 " + name + " A:1234>B:7000 10>11 [A B] at A"},
	}, {
		name: "of the sender's policy", counters: created,
		steps: []step{reported(), watched("A"), rule("A", egress, rulesetOf(join)), rule("B", ingress, rulesetOf(allow)),
			goes(ab)},
		events: []string{"verdict egress p104 " + name + " A:1234>B:7000 10>11 [A B] at A"},
	}, {
		name: "of others", counters: created, events: []string{}, steps: []step{reported(), watched("C"), goes(ab)},
	}, {
		name: "from outside", counters: created,
		steps:  []step{reported(), watched("A"), at("->A", in).passes()},
		events: []string{"verdict ingress " + name + " X:53>A:1234 1>10 [- A] at A"},
	}, {
		name: "from the node", counters: created,
		steps:  []step{reported(), every(1), at(">A", in).passes()},
		events: []string{"verdict ingress " + name + " X:53>A:1234 1>10 [- A] at A"},
	}, {
		name: "one of a thousand", counters: counters{FlowsCreated: 4000},
		steps: []step{reported(), every(1000), do(func(r *rig) {
			for i := range 4000 {
				r.run("A>", packet(proto, fmt.Sprintf("A:%d", 1000+i%2000), "B:7000").bytes(r.f))
				if i == 1999 {
					r.empty("flows")
				}
			}
			// The odds of none or of 40 are below 1 to 50 and 1 to 10^25.
			if n := len(r.drain()); n > 40 {
				r.t.Errorf("%d events for 4000 flows", n)
			}
		})},
	}}
}

// otherEvents are of drops for other reasons, told of what is known.
func otherEvents(f family) []fixture {
	echo, later := ping(f, "A", "B"), packet(protoUDP, "A:1234", "B:7000")
	later.data, later.cut = make([]byte, 100), &cut{id: 1, from: 48, to: 100, last: true}
	spoofed := packet(protoUDP, "C:1", "B:7000").by("A")
	rst := packet(protoTCP, "A:1234", "V:90").with(flagRST)
	long := packet(protoUDP, "A:1234", "B:7000").bytes(f)
	if f.v6 {
		long[18] = 0x70
	} else {
		long[16] = 0x70
	}
	icmpName := protoName(echo.proto)
	x := []fixture{{
		name: "spoofed: the source is no one's", counters: counters{DropSpoofed: 1},
		steps:  []step{reported(), at("A>", spoofed).drops()},
		events: []string{"drop egress drop_spoofed udp C:1>B:7000 0>11 [- B] at A"},
	}, {
		name: "a fragment: without ports", counters: counters{DropFragment: 2},
		steps: []step{reported(), at("A>", later).drops(), at("A>B", later).drops()},
		events: []string{"drop egress drop_fragment udp A:0>B:0 10>11 [A B] at A",
			"drop ingress drop_fragment udp A:0>B:0 10>11 [A B] at B"},
	}, {
		name: "refused without an answer", counters: counters{DropRefused: 1},
		steps:  []step{reported(), at("A>", rst).drops()},
		events: []string{"drop egress drop_refused tcp A:1234>V:90 10>1 [A -] at A"},
	}, {
		name: "refused with one", counters: counters{Refused: 1}, events: []string{},
		steps: []step{reported(), do(func(r *rig) { r.run("A>", packet(protoUDP, "A:1234", "V:90").bytes(f)) })},
	}, {
		name: "echo: with its identifier", counters: counters{DropEgress: 1},
		steps:  []step{reported(), rule("A", egress, rulesetOf(deny)), dropped(echo)},
		events: []string{"drop egress drop_egress p101 " + icmpName + " A:1>B:0 10>11 [A B] at A"},
	}, {
		name: "malformed", counters: counters{DropMalformed: 1},
		steps: []step{reported(), at("A>", long).drops(), do(func(r *rig) {
			e := r.drain()
			if len(e) != 1 || e[0].Reason != 8 || e[0].Ifindex != r.ifindex["A"] || e[0].Type != eventDrop {
				r.t.Errorf("events are %+v", e)
			}
		})},
	}}
	if f.v6 {
		return x
	}
	return append(x, fixture{
		name: "ARP: no IP, but addresses", counters: counters{DropArp: 1},
		steps:  []step{reported(), at("A>", arpFrame(f, 1, "*", "C", "B", 0)).drops()},
		events: []string{"drop egress drop_arp 0 C:0>B:0 0>11 [- B] at A"},
	})
}

// TestEventRate: no more events than the rate allows; what it eats is counted and told by the next one.
func TestEventRate(t *testing.T) {
	f := families()[0]
	r := newRig(t, f, rigOptions{})
	const rate = 5
	const ringEvents = (1<<20 - 1) / (88 + 8) // a ring buffer puts 8 bytes before each
	ab := packet(protoUDP, "A:1234", "B:7000")
	drops := func(n int) step {
		return do(func(r *rig) {
			prog, opts := r.hook("A>")
			opts.Data, opts.Repeat = ab.bytes(f), uint32(n)
			if _, err := prog.Run(&opts); err != nil {
				r.t.Fatal(err)
			}
		})
	}
	// back moves the buckets' clocks back, as if that time had passed.
	back := func(d time.Duration) step {
		return do(func(r *rig) {
			var each []sockEventLimit
			r.lookup("event_limits", uint32(0), &each)
			for i := range each {
				each[i].Refilled -= uint64(d)
			}
			r.put("event_limits", uint32(0), each)
		})
	}
	// expect checks what was reported and what each event says was lost before it.
	expect := func(lost ...uint32) step {
		return do(func(r *rig) {
			all := r.drain()
			if len(all) != len(lost) {
				r.t.Errorf("%d events, want %d", len(all), len(lost))
				return
			}
			for i, e := range all {
				if e.Lost != lost[i] {
					r.t.Errorf("event %d: %d were lost before it, want %d", i, e.Lost, lost[i])
				}
			}
		})
	}
	limited := []step{set(func(s *sockSettings) { s.EventRate = rate }), rule("A", egress, rulesetOf(deny)), do(onOneCPU)}
	r.runFixtures(t, []fixture{{
		name: "a burst, then nothing", counters: counters{DropEgress: 25, EventsLost: 20},
		steps: append(limited, drops(25), expect(0, 0, 0, 0, 0)),
	}, {
		name: "full again after a second", counters: counters{DropEgress: 27, EventsLost: 20},
		steps: append(limited, drops(25), expect(0, 0, 0, 0, 0), back(time.Second), drops(2), expect(20, 0)),
	}, {
		name: "a share after a part of one", counters: counters{DropEgress: 13, EventsLost: 6},
		steps: append(limited, drops(10), expect(0, 0, 0, 0, 0), back(410*time.Millisecond), drops(3), expect(5, 0)),
	}, {
		name: "not more than a second's worth", counters: counters{DropEgress: 15, EventsLost: 5},
		steps: append(limited, drops(5), back(time.Hour), drops(10), expect(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
	}, {
		name: "a smaller rate", counters: counters{DropEgress: 8, EventsLost: 5},
		steps: append(limited, drops(1), set(func(s *sockSettings) { s.EventRate = 2 }), back(700*time.Millisecond),
			drops(4), expect(0, 0, 0), drops(3)),
	}, {
		name: "a full ring buffer", counters: counters{DropEgress: 100000, EventsLost: 100000 - ringEvents},
		steps: append(limited, set(func(s *sockSettings) { s.EventRate = 1 << 30 }), drops(100000), do(func(r *rig) {
			if n := len(r.drain()); n != ringEvents {
				r.t.Errorf("%d events in the ring buffer, want %d", n, ringEvents)
			}
		}), do(func(r *rig) {
			r.run("A>", ab.bytes(f))
			r.before.DropEgress++
			if e := r.drain(); len(e) != 1 || e[0].Lost != 100000-ringEvents {
				r.t.Errorf("after a full ring buffer: %+v", e)
			}
		})),
	}})
}

// onOneCPU keeps the test on the CPU that it runs on: what the programs count per CPU is then one number.
func onOneCPU(r *rig) {
	r.t.Helper()
	var cpus, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		r.t.Fatal(err)
	}
	for cpu := range 1024 {
		if cpus.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	// The thread ends with the test: see newRig.
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		r.t.Fatal(err)
	}
}
