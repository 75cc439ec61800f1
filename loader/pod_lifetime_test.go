package loader

import (
	"testing"
	"time"
)

// oddLifetimes are all different, so that none can stand for another.
func oddLifetimes() Lifetimes {
	s := time.Second
	return Lifetimes{
		TCPOpening: 101 * s, TCPEstablished: 709 * s, TCPClosing: 211 * s, TCPTimeWait: 53 * s, TCPReset: 31 * s,
		UDPUnanswered: 67 * s, UDPAnswered: 151 * s,
		SCTPOpening: 97 * s, SCTPEstablished: 809 * s, SCTPClosing: 43 * s, Other: 113 * s,
	}
}

// chunk makes a packet of SCTP carry one chunk without content; an INIT has verification tag 0.
func (p frame) chunk(typ uint8) frame {
	p.data = []byte{typ, 0, 0, 4}
	if typ == 1 {
		p.vtag = 0
	}
	return p
}

// The types of chunks, RFC 9260, 3.2.
const (
	chunkData, chunkInit, chunkInitAck, chunkAbort = 0, 1, 2, 6
	chunkShutdown, chunkShutdownAck                = 7, 8
	chunkCookieEcho, chunkShutdownComplete         = 10, 14
)

// said is what one side sends, by flags or by chunk.
type said struct {
	answer bool
	what   uint8
}

func asks(what uint8) said    { return said{false, what} }
func answers(what uint8) said { return said{true, what} }

// conversation makes steps of what A and V:80 say, whose backend is B.
func conversation(proto uint8, all ...said) (steps []step) {
	for _, s := range all {
		there, back := packet(proto, "A:1234", "V:80"), packet(proto, "B:7000", "A:1234")
		if proto == protoSCTP {
			there, back = there.chunk(s.what), back.chunk(s.what)
		} else {
			there, back = there.with(s.what), back.with(s.what)
		}
		if s.answer {
			steps = append(steps, at("B>", back).redirects(back.as("V:80", "A:1234").to("A")))
		} else {
			steps = append(steps, at("A>", there).redirects(there.as("A:1234", "B:7000").to("B")))
		}
	}
	return steps
}

// state is a flow's state and how it is reached.
type state struct {
	name  string
	proto uint8
	said  []said
	lives func(Lifetimes) time.Duration
}

// states are all that there are. Those of TCP and SCTP are reached in every order that leads there.
func states() []state {
	syn, synAck, ack, fin, rst := uint8(flagSYN), uint8(flagSYN|flagACK), uint8(flagACK), uint8(flagFIN|flagACK), uint8(flagRST)
	open := func(more ...said) []said { return append([]said{asks(syn), answers(synAck), asks(ack)}, more...) }
	assoc := func(more ...said) []said {
		return append([]said{asks(chunkInit), answers(chunkInitAck), asks(chunkCookieEcho), answers(11)}, more...)
	}
	opening := func(l Lifetimes) time.Duration { return l.TCPOpening }
	established := func(l Lifetimes) time.Duration { return l.TCPEstablished }
	closing := func(l Lifetimes) time.Duration { return l.TCPClosing }
	timeWait := func(l Lifetimes) time.Duration { return l.TCPTimeWait }
	reset := func(l Lifetimes) time.Duration { return l.TCPReset }
	none := func(Lifetimes) time.Duration { return 0 }
	sctpEstablished := func(l Lifetimes) time.Duration { return l.SCTPEstablished }
	sctpClosing := func(l Lifetimes) time.Duration { return l.SCTPClosing }
	return []state{
		{"SYN", protoTCP, []said{asks(syn)}, opening},
		{"SYN twice", protoTCP, []said{asks(syn), asks(syn)}, opening},
		{"answered", protoTCP, open()[:2], established},
		{"open", protoTCP, open(), established},
		{"begun before its entries", protoTCP, []said{asks(ack)}, established},
		{"SYN to an open one", protoTCP, open(asks(syn)), established},
		{"FIN", protoTCP, open(asks(fin)), closing},
		{"FIN by the backend", protoTCP, open(answers(fin)), closing},
		{"half closed, data the other way", protoTCP, open(asks(fin), answers(ack), asks(ack), answers(ack)), closing},
		{"FIN before the answer", protoTCP, []said{asks(syn), asks(fin)}, closing},
		{"both FINs", protoTCP, open(asks(fin), answers(fin), asks(ack)), timeWait},
		{"both FINs, the backend's first", protoTCP, open(answers(fin), asks(fin), answers(ack)), timeWait},
		{"FINs that cross", protoTCP, open(asks(fin), answers(fin), answers(ack), asks(ack)), timeWait},
		{"FINs repeated", protoTCP, open(asks(fin), answers(fin), asks(fin), answers(fin)), timeWait},
		{"RST", protoTCP, open(asks(rst)), reset},
		{"RST by the backend", protoTCP, open(answers(rst)), reset},
		{"refused", protoTCP, []said{asks(syn), answers(rst | ack)}, reset},
		{"FIN, then RST", protoTCP, open(asks(fin), answers(fin), asks(rst)), reset},
		{"RST, then FIN", protoTCP, open(asks(rst), answers(fin)), reset},

		{"one way", protoUDP, []said{asks(0), asks(0)}, func(l Lifetimes) time.Duration { return l.UDPUnanswered }},
		{"answered", protoUDP, []said{asks(0), answers(0)}, func(l Lifetimes) time.Duration { return l.UDPAnswered }},

		{"INIT", protoSCTP, []said{asks(chunkInit)}, func(l Lifetimes) time.Duration { return l.SCTPOpening }},
		{"open", protoSCTP, assoc(asks(chunkData)), sctpEstablished},
		{"begun before its entries", protoSCTP, []said{asks(chunkData)}, sctpEstablished},
		{"SHUTDOWN, whose data is still to come", protoSCTP, assoc(asks(chunkShutdown)), sctpEstablished},
		{"SHUTDOWN ACK", protoSCTP, assoc(asks(chunkShutdown), answers(chunkShutdownAck)), sctpClosing},
		{"SHUTDOWN COMPLETE", protoSCTP,
			assoc(asks(chunkShutdown), answers(chunkShutdownAck), asks(chunkShutdownComplete)), sctpClosing},
		{"shut down by the backend", protoSCTP,
			assoc(answers(chunkShutdown), asks(chunkShutdownAck), answers(chunkShutdownComplete)), sctpClosing},
		{"ABORT", protoSCTP, assoc(asks(chunkAbort)), none},
		{"ABORT by the backend", protoSCTP, assoc(answers(chunkAbort)), none},
		{"ABORT of an INIT", protoSCTP, []said{asks(chunkInit), answers(chunkAbort)}, none},
	}
}

// TestLifetimes: in each state, a flow's tuple is its own for its lifetime, and another's after it.
func TestLifetimes(t *testing.T) {
	for _, f := range families() {
		for name, given := range map[string]Lifetimes{"defaults": {}, "given": oddLifetimes()} {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				r := newRig(t, f, rigOptions{lifetimes: given})
				l, err := given.withDefaults()
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range states() {
					r.runFixtures(t, s.fixtures(uint64(s.lives(l).Seconds())))
				}
			})
		}
	}
}

func (s state) fixtures(seconds uint64) []fixture {
	direct := packet(s.proto, "A:1234", "B:7000")
	silent := func(seconds uint64) step {
		return do(func(r *rig) {
			var f sockFlow
			if r.lookup("flows", r.key(s.proto, "A:1234", "V:80"), &f); f.Seen < seconds*1e9 {
				r.t.Skipf("the machine has not been up for %d s", seconds)
			}
			r.age(r.key(s.proto, "A:1234", "V:80"), seconds)
			r.age(r.key(s.proto, "B:7000", "A:1234"), seconds)
		})
	}
	said := conversation(s.proto, s.said...)
	after := func(seconds uint64, then step) []step {
		return append(said[:len(said):len(said)], silent(seconds), then)
	}
	name := protoName(s.proto) + ", " + s.name
	over := fixture{
		name: name + ": over", steps: after(seconds+1, at("A>", direct).redirects(direct.to("B"))),
		counters: counters{FlowsCreated: 2},
	}
	if seconds == 0 {
		over.steps = after(0, over.steps[len(over.steps)-1])
		return []fixture{over}
	}
	return []fixture{over, {
		name: name, steps: after(seconds-1, at("A>", direct).redirects(direct.as("A:P", "B:7000").to("B"))),
		counters: counters{FlowsCreated: 2, PortsRewritten: 1},
	}}
}

// TestLifetimeBounds: what is not given has its default, and what is given is within bounds.
func TestLifetimeBounds(t *testing.T) {
	got, err := Lifetimes{UDPAnswered: MinLifetime, TCPReset: MaxLifetime}.withDefaults()
	want := DefaultLifetimes()
	want.UDPAnswered, want.TCPReset = MinLifetime, MaxLifetime
	if err != nil || got != want {
		t.Errorf("got %+v and %v, want %+v", got, err, want)
	}
	for _, wrong := range []Lifetimes{{TCPOpening: MinLifetime - 1}, {Other: MaxLifetime + 1}, {TCPReset: -1}} {
		if _, err := wrong.withDefaults(); err == nil {
			t.Errorf("%+v was taken", wrong)
		}
	}
}
