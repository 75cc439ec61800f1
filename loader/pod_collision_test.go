package loader

import (
	"encoding/binary"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

func TestCollisions(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(lines(proto, "")[0], func(t *testing.T) {
					r.runFixtures(t, collisions(proto))
					r.runFixtures(t, deadCollisions(proto))
				})
			}
		})
	}
}

func collisions(proto uint8) []fixture {
	vip, other := packet(proto, "A:1234", "V:80"), packet(proto, "A:1234", "W:81")
	direct := packet(proto, "A:1234", "B:7000")
	answer := packet(proto, "B:7000", "A:1234").with(flagSYN | flagACK)
	toVIP := at("A>", vip).redirects(vip.as("A:1234", "B:7000").to("B"))
	toBackend := at("A>", direct).redirects(direct.to("B"))
	return []fixture{{
		name: "VIP, then its backend",
		steps: []step{
			toVIP,
			at("A>", direct).redirects(direct.as("A:P", "B:7000").to("B")),
			at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A")),
			at("B>", answer.as("B:7000", "A:P")).redirects(answer.to("A")),
			at("A>", direct).redirects(direct.as("A:P", "B:7000").to("B")),
		},
		counters: counters{FlowsCreated: 2, PortsRewritten: 1},
		flows: lines(proto,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]",
			"A:1234>B:7000 = A:P>B:7000 A->B src [A B]",
			"B:7000>A:P = B:7000>A:1234 B->A dst reply [B A]"),
	}, {
		name: "backend, then a VIP of it",
		steps: []step{
			toBackend,
			at("A>", vip).redirects(vip.as("A:P", "B:7000").to("B")),
			at("B>", answer).redirects(answer.to("A")),
			at("B>", answer.as("B:7000", "A:P")).redirects(answer.as("V:80", "A:1234").to("A")),
			at("A>", vip).redirects(vip.as("A:P", "B:7000").to("B")),
		},
		counters: counters{FlowsCreated: 2, PortsRewritten: 1},
		flows: lines(proto,
			"A:1234>B:7000 = A:1234>B:7000 A->B [A B]",
			"B:7000>A:1234 = B:7000>A:1234 B->A reply [B A]",
			"A:1234>V:80 = A:P>B:7000 A->B src dst svc1 be1 [A B]",
			"B:7000>A:P = V:80>A:1234 B->A src dst reply svc1 be1 [B A]"),
	}, {
		name: "two VIPs of one backend",
		steps: []step{
			toVIP,
			at("A>", other).redirects(other.as("A:P", "B:7000").to("B")),
			at("B>", answer.as("B:7000", "A:P")).redirects(answer.as("W:81", "A:1234").to("A")),
			at("B>", answer).redirects(answer.as("V:80", "A:1234").to("A")),
		},
		counters: counters{FlowsCreated: 2, PortsRewritten: 1},
		flows: lines(proto,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]",
			"A:1234>W:81 = A:P>B:7000 A->B src dst svc2 be2 [A B]",
			"B:7000>A:P = W:81>A:1234 B->A src dst reply svc2 be2 [B A]"),
	}, {
		name: "a chosen port stays when the flow is renewed",
		steps: []step{
			toVIP,
			at("A>", other).redirects(other.as("A:P", "B:7000").to("B")),
			do(func(r *rig) { r.raise(2) }),
			at("A>", other).redirects(other.as("A:P", "B:7000").to("B")),
			do(func(r *rig) { r.raise(2) }),
			at("B>", answer.as("B:7000", "A:P")).redirects(answer.as("W:81", "A:1234").to("A")),
			at("A>", vip).redirects(vip.as("A:1234", "B:7000").to("B")),
			at("A>", other).redirects(other.as("A:P", "B:7000").to("B")),
		},
		counters: counters{FlowsCreated: 2, FlowsRenewed: 4, PortsRewritten: 1},
		flows: lines(proto,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]",
			"A:1234>W:81 = A:P>B:7000 A->B src dst svc2 be2 [A B]",
			"B:7000>A:P = W:81>A:1234 B->A src dst reply svc2 be2 [B A]"),
	}, {
		name: "another client does not collide",
		steps: []step{
			toVIP,
			at("C>", vip.as("C:1234", "V:80")).redirects(vip.as("C:1234", "B:7000").to("B")),
		},
		counters: counters{FlowsCreated: 2},
		flows: lines(proto,
			"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
			"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]",
			"C:1234>V:80 = C:1234>B:7000 C->B dst svc1 be1 [C B]",
			"B:7000>C:1234 = V:80>C:1234 B->C src reply svc1 be1 [B C]"),
	}}
}

// deadCollisions begin with a flow that has ended, whose tuple the next one takes over.
func deadCollisions(proto uint8) []fixture {
	vip, direct := packet(proto, "A:1234", "V:80"), packet(proto, "A:1234", "B:7000")
	toVIP := at("A>", vip).redirects(vip.as("A:1234", "B:7000").to("B"))
	taken := at("A>", direct).redirects(direct.to("B"))
	flows := lines(proto,
		"A:1234>B:7000 = A:1234>B:7000 A->B [A B]",
		"B:7000>A:1234 = B:7000>A:1234 B->A reply [B A]")
	dead := func(name string, forward string, steps ...step) fixture {
		return fixture{
			name: name, steps: append(append([]step{toVIP}, steps...), taken),
			counters: counters{FlowsCreated: 2},
			flows:    append(lines(proto, forward), flows...),
		}
	}
	const whole = "A:1234>V:80 = A:1234>B:7000 A->B dst"
	idle := func(r *rig) {
		life := DefaultLifetimes().SCTPEstablished
		switch proto { // nobody has answered
		case protoTCP:
			life = DefaultLifetimes().TCPOpening
		case protoUDP:
			life = DefaultLifetimes().UDPUnanswered
		}
		age := uint64(life/time.Second) + 1
		r.age(r.key(proto, "A:1234", "V:80"), age)
		r.age(r.key(proto, "B:7000", "A:1234"), age)
	}
	x := []fixture{
		dead("idle", whole+" svc1 be1 [A B]", do(idle)),
	}
	if proto != protoTCP {
		return x
	}
	fin := packet(proto, "A:1234", "V:80").with(flagFIN | flagACK)
	rst := packet(proto, "A:1234", "V:80").with(flagRST)
	back := packet(proto, "B:7000", "A:1234")
	sendFIN := at("A>", fin).redirects(fin.as("A:1234", "B:7000").to("B"))
	sendBackFIN := at("B>", back.with(flagFIN)).redirects(back.with(flagFIN).as("V:80", "A:1234").to("A"))
	minute := func(r *rig) {
		r.age(r.key(proto, "A:1234", "V:80"), 62)
		r.age(r.key(proto, "B:7000", "A:1234"), 62)
	}
	return append(x,
		dead("closed a minute ago", whole+" fin svc1 be1 [A B]", sendFIN, sendBackFIN, do(minute)),
		dead("reset by the client", whole+" rst svc1 be1 [A B]",
			at("A>", rst).redirects(rst.as("A:1234", "B:7000").to("B"))),
		dead("reset by the backend", whole+" svc1 be1 [A B]",
			at("B>", back.with(flagRST)).redirects(back.with(flagRST).as("V:80", "A:1234").to("A"))),
		fixture{
			name: "closed just now: the backend may keep it in TIME_WAIT",
			steps: []step{
				toVIP, sendFIN, sendBackFIN,
				at("A>", direct).redirects(direct.as("A:P", "B:7000").to("B")),
			},
			counters: counters{FlowsCreated: 2, PortsRewritten: 1},
			flows: lines(proto,
				"A:1234>V:80 = A:1234>B:7000 A->B dst fin svc1 be1 [A B]",
				"B:7000>A:1234 = V:80>A:1234 B->A src reply fin svc1 be1 [B A]",
				"A:1234>B:7000 = A:P>B:7000 A->B src [A B]",
				"B:7000>A:P = B:7000>A:1234 B->A dst reply [B A]"),
		},
		fixture{
			name: "closed from one side only",
			steps: []step{
				toVIP, sendFIN, at("A>", direct).redirects(direct.as("A:P", "B:7000").to("B")),
			},
			counters: counters{FlowsCreated: 2, PortsRewritten: 1},
			flows: lines(proto,
				"A:1234>V:80 = A:1234>B:7000 A->B dst fin svc1 be1 [A B]",
				"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]",
				"A:1234>B:7000 = A:P>B:7000 A->B src [A B]",
				"B:7000>A:P = B:7000>A:1234 B->A dst reply [B A]"),
		},
		fixture{
			name: "refused, then accepted on the same port: alive again",
			steps: []step{
				toVIP,
				at("B>", back.with(flagRST)).redirects(back.with(flagRST).as("V:80", "A:1234").to("A")),
				toVIP, // decided anew: the RST has freed it from its backend
				at("B>", back.with(flagSYN|flagACK)).
					redirects(back.with(flagSYN|flagACK).as("V:80", "A:1234").to("A")),
				at("A>", direct).redirects(direct.as("A:P", "B:7000").to("B")),
			},
			counters: counters{FlowsCreated: 2, FlowsRenewed: 1, PortsRewritten: 1},
			flows: lines(proto,
				"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
				"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]",
				"A:1234>B:7000 = A:P>B:7000 A->B src [A B]",
				"B:7000>A:P = B:7000>A:1234 B->A dst reply [B A]"),
		})
}

// age makes an entry's last packet lie so many seconds further back.
func (r *rig) age(key sockFlowKey, seconds uint64) {
	r.t.Helper()
	var f sockFlow
	r.lookup("flows", key, &f)
	f.Seen -= seconds * 1e9
	r.put("flows", key, f)
}

func TestPortsSpent(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{flows: func(m *ebpf.MapSpec) { m.MaxEntries = 65536 }})
			vip := packet(protoTCP, "A:1234", "V:80")
			var taken int
			r.runFixtures(t, []fixture{{
				name: "every port is taken",
				steps: []step{
					at("A>", vip).redirects(vip.as("A:1234", "B:7000").to("B")),
					do(func(r *rig) {
						var reply sockFlow
						key := r.key(protoTCP, "B:7000", "A:1234")
						r.lookup("flows", key, &reply)
						reply.Dport = 1 // answers another flow
						for p := 32768; p < 61000; p++ {
							key.Dport = uint16(p)
							r.put("flows", key, reply)
						}
						taken = r.count("flows")
					}),
					at("A>", packet(protoTCP, "A:1234", "W:81")).drops(),
					do(func(r *rig) {
						if got := r.count("flows"); got != taken {
							r.t.Errorf("%d flows, want %d", got, taken)
						}
						r.empty("flows")
					}),
				},
				counters: counters{FlowsCreated: 1, DropPortsSpent: 1},
			}})
		})
	}
}

func TestFlowsFull(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			// An LRU map makes room by itself; a plain one refuses, as an LRU map does when all its
			// entries are in use at once.
			r := newRig(t, f, rigOptions{flows: func(m *ebpf.MapSpec) {
				m.Type, m.MaxEntries = ebpf.Hash, 3
			}})
			first, second := packet(protoTCP, "A:1234", "V:80"), packet(protoTCP, "A:1235", "V:80")
			r.runFixtures(t, []fixture{{
				name: "no room for the other half",
				steps: []step{
					at("A>", first).redirects(first.as("A:1234", "B:7000").to("B")),
					at("A>", second).drops(),
				},
				counters: counters{FlowsCreated: 1, DropFlowsFull: 1},
				flows: lines(protoTCP,
					"A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
					"B:7000>A:1234 = V:80>A:1234 B->A src reply svc1 be1 [B A]"),
			}})
		})
	}
}

// portTries are the source ports that a flow with this key tries, its own first: port_try of bpf/create.h.
func portTries(key sockFlowKey) []uint16 {
	hash := func(words []byte, seed uint64) uint32 {
		h := 0x9e3779b97f4a7c15 ^ seed
		for ; len(words) > 0; words = words[4:] {
			h = (h ^ uint64(binary.LittleEndian.Uint32(words))) * 0xff51afd7ed558ccd
			h ^= h >> 32
		}
		return uint32(h)
	}
	flow := hash(unsafe.Slice((*byte)(unsafe.Pointer(&key)), unsafe.Sizeof(key)), 0)
	tries := []uint16{key.Sport}
	for i := range uint64(15) {
		tries = append(tries, uint16(32768+hash(binary.LittleEndian.AppendUint32(nil, flow), i+2)%28232))
	}
	return tries
}

// TestPortsGiveWay fills every port with flows that nobody may use again: of those that a new one tries, the one
// that was silent for longest gives way. A flow of datagrams that goes on after all gets another port.
func TestPortsGiveWay(t *testing.T) {
	// What is in the past of the flows must be in the machine's, which may have booted a moment ago.
	time.Sleep(25*time.Second - time.Duration(monotonic()))
	for _, f := range families() {
		for _, proto := range []uint8{protoUDP, protoTCP} {
			t.Run(f.name+"/"+protoName(proto), func(t *testing.T) {
				r := newRig(t, f, rigOptions{flows: func(m *ebpf.MapSpec) { m.MaxEntries = 131072 }})
				w := wornPorts{r, proto, portTries(r.key(proto, "A:1234", "W:81"))}
				list := []fixture{w.spent("all are active", 0, flowFIN), w.taken()}
				if proto == protoTCP {
					list = append(list, w.spent("all are open", 10, 0))
				}
				r.runFixtures(t, list)
			})
		}
	}
}

// wornPorts are all that a new flow of A's to W:81 tries, which leads to B:7000 as well.
type wornPorts struct {
	r     *rig
	proto uint8
	tries []uint16
}

// begin makes a flow of A's to B:7000.
func (w wornPorts) begin() []step {
	there, back := packet(w.proto, "A:1234", "B:7000"), packet(w.proto, "B:7000", "A:1234").with(flagSYN|flagACK)
	return []step{at("A>", there).redirects(there.to("B")), at("B>", back).redirects(back.to("A"))}
}

// fill gives each port a flow like that, which is so silent, in seconds, and has these flags.
func (w wornPorts) fill(silent func(try int) uint64, flags uint8) step {
	return do(func(r *rig) {
		asks, answers := r.key(w.proto, "A:1234", "B:7000"), r.key(w.proto, "B:7000", "A:1234")
		var there, back sockFlow
		r.lookup("flows", asks, &there)
		r.lookup("flows", answers, &back)
		there.Flags, back.Flags = there.Flags|flags, back.Flags|flags
		for try, port := range w.tries {
			asks.Sport, there.Sport, answers.Dport, back.Dport = port, port, port, port
			there, back := there, back
			there.Seen -= silent(try) * 1e9
			back.Seen -= silent(try) * 1e9
			r.put("flows", asks, there)
			r.put("flows", answers, back)
		}
	})
}

// spent is that none of them gives way.
func (w wornPorts) spent(name string, silent uint64, flags uint8) fixture {
	steps := append(w.begin(), w.fill(func(int) uint64 { return silent }, flags),
		at("A>", packet(w.proto, "A:1234", "W:81")).drops(), do(func(r *rig) { r.empty("flows") }))
	return fixture{name: name, steps: steps, counters: counters{FlowsCreated: 1, DropPortsSpent: 1}}
}

// taken is that the eldest does.
func (w wornPorts) taken() fixture {
	const eldest = 7
	other, late := packet(w.proto, "A:1234", "W:81"), packet(w.proto, "A:P", "B:7000") // whose flow gave way
	steps := append(w.begin(),
		w.fill(func(try int) uint64 { return map[bool]uint64{true: 20, false: 10}[try == eldest] }, flowFIN),
		at("A>", other).redirects(other.as("A:P", "B:7000").to("B")))
	want := counters{FlowsCreated: 2, PortsRewritten: 1}
	if w.proto == protoUDP {
		steps = append(steps, at("A>", late).redirects(late.as("A:Q", "B:7000").to("B")))
		want.FlowsRenewed, want.PortsRewritten = 1, 2
	}
	steps = append(steps, do(func(r *rig) {
		if r.ports["P"] != w.tries[eldest] || r.ports["Q"] == r.ports["P"] {
			r.t.Errorf("port %d gave way, want %d of %v; its flow went on from port %d",
				r.ports["P"], w.tries[eldest], w.tries, r.ports["Q"])
		}
		r.empty("flows")
	}))
	return fixture{name: "the eldest gives way", steps: steps, counters: want}
}
