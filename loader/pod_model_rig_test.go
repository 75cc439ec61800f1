package loader

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// modelRig gives each packet to the programs and to the model.
type modelRig struct {
	*rig
	model    *podModel
	runs     map[modelProgram]*testRun
	gen      *packetSource
	entries  []*worldEntry
	flowKeys []sockFlowKey
	flowVals []sockFlow
	fragKeys []sockFragKey
	fragVals []sockFrag
	stats    map[uint32]serviceStats // before this episode
	began    time.Time
	beganAt  uint64         // the kernel's clock
	blurred  bool           // of this episode, packets whose counters the model does not know
	seen     map[string]int // packets by what became of them
	changes  int
	nodeMade bool     // all that comes to a container is the node's
	total    counters // of all episodes
}

// modelProgram is what runs: a program, or one that puts tags in front for it.
type modelProgram struct {
	ingress bool
	tags    int
}

// An episode begins with empty maps. Seconds pass when it says so, and less than one besides: no lifetime
// ends near a whole second.
const (
	episodePackets = 1500
	episodeTime    = 900 * time.Millisecond
	packetsAChange = 40
	modelSeconds   = 24 // that may pass in an episode
)

func modelLifetimes() Lifetimes {
	const most = 950 * time.Millisecond
	return Lifetimes{
		TCPOpening: 2*time.Second + most, TCPEstablished: 7*time.Second + most,
		TCPClosing: 4*time.Second + most, TCPTimeWait: 3*time.Second + most,
		UDPUnanswered: 2*time.Second + most, UDPAnswered: 5*time.Second + most,
		SCTPOpening: 3*time.Second + most, SCTPEstablished: 6*time.Second + most, SCTPClosing: 2*time.Second + most,
		Other: 4*time.Second + most,
	}
}

func newModelRig(t testing.TB, f family) *modelRig {
	r := newRig(t, f, rigOptions{exact: true, lifetimes: modelLifetimes(), flows: func(m *ebpf.MapSpec) { m.MaxEntries = 8192 },
		edit: func(s *ebpf.CollectionSpec) {
			s.Maps["frags"].MaxEntries, s.Maps["slots"].MaxEntries = 8192, worldSlots
		}})
	r.reset()
	for id := range uint32(worldBackends) {
		r.put("backends", id, backend{})
	}
	m := &modelRig{rig: r, seen: map[string]int{}, runs: map[modelProgram]*testRun{}}
	// What is in the past of the flows must be in the machine's, which may have booted a moment ago.
	time.Sleep((modelSeconds+6)*time.Second - time.Duration(monotonic()))
	for tags, tci := range modelTags() {
		for _, ingress := range []bool{false, true} {
			hook := "A>"
			if ingress {
				hook = ">A"
			}
			program, _ := r.hook(hook)
			if tags > 0 {
				program = r.tagging(program, tci)
			}
			m.runs[modelProgram{ingress, tags}] = newTestRun(program)
		}
	}
	// Old kernels do not let a test say by which interface a packet came: Linux 5.10 wants ingress_ifindex to
	// be 0 (convert___skb_to_skb in net/bpf/test_run.c). What is left is what the node made itself.
	_, _, err := m.runs[modelProgram{ingress: true}].run(make([]byte, 60), skBuff{Ifindex: r.ifindex["A"], IngressIfindex: 1})
	if m.nodeMade = errors.Is(err, unix.EINVAL); err != nil && !m.nodeMade {
		t.Fatal(err)
	}
	m.flowKeys, m.flowVals = make([]sockFlowKey, 8192), make([]sockFlow, 8192)
	m.fragKeys, m.fragVals = make([]sockFragKey, 8192), make([]sockFrag, 8192)
	m.model = m.newModel()
	m.gen = newPacketSource(r)
	m.begin(0)
	return m
}

// newModel makes a model of what does not change.
func (m *modelRig) newModel() *podModel {
	at := func(name string) modelAddr { return toAddress(m.f.addr(name)).Bytes }
	lifetimes, err := modelLifetimes().withDefaults()
	if err != nil {
		m.t.Fatal(err)
	}
	return &podModel{v6: m.f.v6, vips: map[modelAddr]bool{at("V"): true, at("W"): true}, lifetimes: lifetimes,
		hairpin: at("H"), gateways: []modelAddr{at("G"), at("H")}}
}

func flowKeyOf(t modelTuple) sockFlowKey {
	k := sockFlowKey{Sport: t.sport, Dport: t.dport, Proto: t.proto}
	k.Saddr.Bytes, k.Daddr.Bytes = t.src, t.dst
	return k
}

// begin starts an episode: what happens in it follows from the seed alone.
func (m *modelRig) begin(seed uint64) {
	m.t.Helper()
	m.forget()
	m.restore()
	m.gen.begin(seed)
	w := m.model
	w.now, w.flows, w.frags = modelSecond, map[modelTuple]*modelEntry{}, map[modelFragment]modelTuple{}
	w.asked, w.buckets, w.affinity = map[modelTuple]modelTuple{}, map[uint32][]uint32{}, map[modelClient]*modelAffinity{}
	w.count, m.before, m.blurred, w.crowded = counters{}, m.rig.counters(), false, false
	m.stats = map[uint32]serviceStats{}
	for id := range w.stats {
		m.stats[id] = m.rig.stats(id)
	}
	m.began, m.beganAt = time.Now(), monotonic()
}

// late says whether the model knows no more how old things are, or what is in asked.
func (m *modelRig) late() bool { return time.Since(m.began) > episodeTime || m.model.crowded }

// packet gives one to both. It returns what differs.
func (m *modelRig) packet(h modelHook, in []byte) (verdict, []byte, error) {
	if m.nodeMade {
		h.from = 0
	}
	run := m.runs[modelProgram{h.ingress, h.tags}]
	got, out, err := run.run(in, skBuff{Ifindex: h.ifindex, IngressIfindex: h.from})
	if err != nil {
		return got, out, err
	}
	want := m.model.run(h, in)
	m.blurred = m.blurred || m.model.unjudged
	switch {
	case m.model.unjudged && (got == pass || got == drop || got == redirect):
	case m.model.unjudged:
		err = fmt.Errorf("verdict is %v", got)
	case m.model.broken != "":
		err = errors.New(m.model.broken)
	case got != want:
		err = fmt.Errorf("verdict is %v, want %v", got, want)
	case got != drop && !bytes.Equal(out, m.model.out):
		err = errors.New("the packet is not what it should be")
	case got != drop && verifyChecksums(in) == nil:
		if sum := verifyChecksums(out); sum != nil && !errors.Is(sum, errNotChecked) {
			err = sum
		}
	}
	if err == nil && m.model.touched {
		err = m.compareAffinity()
	}
	return got, out, err
}

// episode runs packets from empty maps on. It returns how many of them count: none when time has passed.
func (m *modelRig) episode(seed uint64, packets int) int {
	m.t.Helper()
	m.begin(seed)
	for i := range packets {
		if m.gen.random.IntN(packetsAChange) == 0 {
			m.changes++
			if err := m.change(); err != nil {
				m.t.Fatal(err)
			}
		}
		h, in := m.gen.next()
		kept := slices.Clone(in)
		got, out, err := m.packet(h, in)
		if err != nil {
			if m.late() {
				return 0
			}
			m.t.Errorf("SLUICE_MODEL_SEED=%d, packet %d, %+v: %v\nin:\n%sout:\n%swant:\n%s", seed, i, h, err, hex.Dump(kept), hex.Dump(out), hex.Dump(m.model.out))
			return i
		}
		if got != drop {
			m.gen.note(out)
		}
		m.seen[m.class(h, kept, got)]++
	}
	err := m.compareMaps()
	if m.late() {
		return 0
	}
	if err != nil {
		m.t.Errorf("SLUICE_MODEL_SEED=%d, after %d packets: %v", seed, packets, err)
	}
	return packets
}

// class names what a packet was and what became of it.
func (m *modelRig) class(h modelHook, in []byte, v verdict) string {
	p := parseModel(in, m.f.v6, !h.ingress)
	hook := "from_pod"
	if h.ingress {
		hook = "to_pod"
	}
	kind := [...]string{"other", "arp", "vlan", protoName(p.tuple.proto), "icmp", "ip", "later fragment", "malformed", "extensions", "source route"}[p.kind]
	if p.kind == kindICMP && p.isError() {
		kind = "icmp error"
	}
	if p.fragment == fragmentFirst {
		kind += " fragment"
	}
	if h.tags > 0 {
		kind = "tagged"
	}
	return fmt.Sprintf("%s %s %s: %v", m.f.name, hook, kind, v)
}

// forget empties the maps.
func (m *modelRig) forget() {
	m.t.Helper()
	for _, name := range []string{"flows", "frags", "affinity"} {
		m.empty(name)
	}
	none := make([]byte, m.coll.Maps["asked"].ValueSize())
	for bucket := range m.model.buckets {
		m.put("asked", bucket, none)
	}
}

// compareMaps empties flows and frags, and compares what was in them, and the counters, with the model.
func (m *modelRig) compareMaps() error {
	var cursor ebpf.MapBatchCursor
	n, err := m.coll.Maps["flows"].BatchLookupAndDelete(&cursor, m.flowKeys, m.flowVals, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	for i := range n {
		if err := m.compareFlow(&m.flowKeys[i], &m.flowVals[i]); err != nil {
			return err
		}
	}
	if n != len(m.model.flows) {
		return fmt.Errorf("%d entries in flows, want %d", n, len(m.model.flows))
	}
	var fragCursor ebpf.MapBatchCursor
	n, err = m.coll.Maps["frags"].BatchLookupAndDelete(&fragCursor, m.fragKeys, m.fragVals, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	if n != len(m.model.frags) {
		return fmt.Errorf("%d entries in frags, want %d", n, len(m.model.frags))
	}
	if err := m.compareAffinity(); err != nil {
		return err
	}
	if n := m.rig.count("affinity"); n != len(m.model.affinity) {
		return fmt.Errorf("%d entries in affinity, want %d", n, len(m.model.affinity))
	}
	for id, want := range m.model.stats {
		before := m.stats[id]
		got := m.rig.stats(id)
		got.Connections -= before.Connections
		got.Refused -= before.Refused
		got.Packets -= before.Packets
		got.Bytes -= before.Bytes
		if got != *want {
			return fmt.Errorf("stats of service %d are %+v, want %+v", id, got, *want)
		}
	}
	got, want := m.rig.counters().minus(m.before), m.model.count
	got.EventsLost = 0
	m.total = m.total.minus(counters{}.minus(got))
	if m.blurred { // neighbour messages
		got.ArpReplies, got.DropArp, got.DropLinkLocal, want.DropLinkLocal = 0, 0, 0, 0
		got.DropSpoofed, want.DropSpoofed = 0, 0
	}
	if got != want {
		return fmt.Errorf("counters are\n%s, want\n%s", show(got), show(want))
	}
	return nil
}

func (m *modelRig) compareFlow(k *sockFlowKey, f *sockFlow) error {
	key := modelTuple{src: k.Saddr.Bytes, dst: k.Daddr.Bytes, sport: k.Sport, dport: k.Dport, proto: k.Proto}
	e := m.model.flows[key]
	if e == nil {
		return fmt.Errorf("no flow should be there: %+v: %+v", key, *f)
	}
	got := modelEntry{src: f.Saddr.Bytes, dst: f.Daddr.Bytes, sport: f.Sport, dport: f.Dport, in: f.InIfindex,
		out: f.OutIfindex, inMAC: f.InMac, outMAC: f.OutMac, flags: f.Flags, service: f.Service, backend: f.Backend,
		srcEP: f.SrcEndpoint, dstEP: f.DstEndpoint, epoch: f.Epoch, unanswered: f.Seen&1 != 0, seen: e.seen}
	if got != *e {
		return fmt.Errorf("flow %+v\nis\n%+v, want\n%+v", key, got, *e)
	}
	// A second of the model is one of the kernel's, but for what the episode took; see unanswered for one more.
	at := m.beganAt - uint64(m.model.silent(e.seen))
	if e.unanswered {
		at--
	}
	if f.Seen+2 < at || f.Seen > at+uint64(time.Second) {
		return fmt.Errorf("flow %+v\nwas seen at %d, want %d", key, f.Seen, at)
	}
	return nil
}
