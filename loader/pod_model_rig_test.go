package loader

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// modelRig gives each packet to the programs and to the model.
type modelRig struct {
	*rig
	model    *podModel
	runs     map[bool]*testRun // by whether it is to_pod
	gen      *packetSource
	flowKeys []sockFlowKey
	flowVals []sockFlow
	fragKeys []sockFragKey
	fragVals []sockFrag
	began    time.Time
	blurred  bool           // of this episode, packets whose counters the model does not know
	seen     map[string]int // packets by what became of them
}

// An episode begins with empty maps. It must end before the programs look at a flow's age (a second):
// the model knows no time.
const (
	episodePackets = 1500
	episodeTime    = 900 * time.Millisecond
)

func newModelRig(t testing.TB, f family, seed uint64) *modelRig {
	r := newRig(t, f, rigOptions{flows: func(m *ebpf.MapSpec) { m.MaxEntries = 8192 }, edit: func(s *ebpf.CollectionSpec) {
		s.Maps["frags"].MaxEntries = 8192
	}})
	r.reset()
	for _, proto := range protocols() {
		r.backend(7, "B:80", proto, 6)
		r.backend(8, "C:7000", proto, 6)
		r.backend(9, "C:7001", proto, 6)
		r.service("W:82", proto, 6, 7, 8, 9)
	}
	m := &modelRig{rig: r, seen: map[string]int{}, runs: map[bool]*testRun{
		false: newTestRun(r.coll.Programs["from_pod"]), true: newTestRun(r.coll.Programs["to_pod"]),
	}}
	m.flowKeys, m.flowVals = make([]sockFlowKey, 8192), make([]sockFlow, 8192)
	m.fragKeys, m.fragVals = make([]sockFragKey, 8192), make([]sockFrag, 8192)
	m.model = m.newModel()
	m.gen = newPacketSource(r, rand.New(rand.NewPCG(seed, seed)))
	m.begin()
	return m
}

// newModel makes a model of what reset has written.
func (m *modelRig) newModel() *podModel {
	at := func(name string) modelAddr { return toAddress(m.f.addr(name)).Bytes }
	w := &podModel{v6: m.f.v6, pods: map[modelAddr]modelPod{}, vips: map[modelAddr]bool{at("V"): true, at("W"): true},
		services: map[modelPort]modelService{}, hairpin: at("H"), chosen: m.chosen,
		gateways: []modelAddr{at("G"), at("H")}}
	for i, name := range []string{"A", "B", "C"} {
		w.pods[at(name)] = modelPod{ifindex: m.ifindex[name], id: uint32(i + 1), mac: mac(name)}
	}
	end := func(s string) modelEnd { name, port := parseEndpoint(s); return modelEnd{at(name), port} }
	for _, proto := range protocols() {
		for i, s := range [][]string{{"V:80", "B:7000"}, {"W:81", "B:7000"}, {"V:90"}, {"V:100", "A:7000"},
			{"V:110", "R:7000"}, {"W:82", "B:80", "C:7000", "C:7001"}} {
			svc := modelService{id: number(uint32(i+1), proto)}
			for _, b := range s[1:] {
				svc.backends = append(svc.backends, end(b))
			}
			w.services[modelPort{end(s[0]), proto}] = svc
		}
	}
	return w
}

func flowKeyOf(t modelTuple) sockFlowKey {
	k := sockFlowKey{Sport: t.sport, Dport: t.dport, Proto: t.proto}
	k.Saddr.Bytes, k.Daddr.Bytes = t.src, t.dst
	return k
}

// chosen reads what the programs entered for a flow.
func (m *modelRig) chosen(t modelTuple) (modelEntry, bool) {
	var f sockFlow
	if err := m.coll.Maps["flows"].Lookup(flowKeyOf(t), &f); err != nil {
		return modelEntry{}, false
	}
	return modelEntry{dst: f.Daddr.Bytes, sport: f.Sport, dport: f.Dport}, true
}

// begin starts an episode.
func (m *modelRig) begin() {
	m.model.flows, m.model.frags = map[modelTuple]*modelEntry{}, map[modelFragment]modelTuple{}
	m.model.count, m.before, m.blurred = counters{}, m.rig.counters(), false
	m.began = time.Now()
}

// packet gives one to both. It returns what differs.
func (m *modelRig) packet(h modelHook, in []byte) (verdict, []byte, error) {
	run := m.runs[h.ingress]
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
	return got, out, err
}

// episode runs packets from empty maps on. It returns how many of them count: none when time has passed.
func (m *modelRig) episode(packets int) int {
	m.t.Helper()
	m.begin()
	for i := range packets {
		h, in := m.gen.next()
		kept := slices.Clone(in)
		got, out, err := m.packet(h, in)
		if err != nil {
			if time.Since(m.began) > episodeTime {
				m.forget()
				return 0
			}
			m.t.Errorf("packet %d, %+v: %v\nin:\n%sout:\n%swant:\n%s", i, h, err, hex.Dump(kept), hex.Dump(out), hex.Dump(m.model.out))
			return i
		}
		if got != drop {
			m.gen.note(out)
		}
		m.seen[m.class(h, kept, got)]++
	}
	err := m.compareMaps()
	if time.Since(m.began) > episodeTime {
		return 0
	}
	if err != nil {
		m.t.Errorf("after %d packets: %v", packets, err)
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
	kind := [...]string{"other", protoName(p.tuple.proto), "icmp", "ip", "later fragment", "malformed", "extensions", "source route"}[p.kind]
	if p.kind == kindICMP && p.isError() {
		kind = "icmp error"
	}
	if p.fragment == fragmentFirst {
		kind += " fragment"
	}
	return fmt.Sprintf("%s %s %s: %v", m.f.name, hook, kind, v)
}

// forget empties the maps.
func (m *modelRig) forget() {
	for _, name := range []string{"flows", "frags"} {
		m.empty(name)
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
	got, want := m.rig.counters().minus(m.before), m.model.count
	got.EventsLost = 0
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
		return fmt.Errorf("no flow should be there: %s", m.line(*k, *f))
	}
	fresh := uint32(0)
	if f.Backend != 0 {
		fresh = 1 // what rig.backend writes; the containers' are 0
	}
	got := modelEntry{src: f.Saddr.Bytes, dst: f.Daddr.Bytes, sport: f.Sport, dport: f.Dport, in: f.InIfindex,
		out: f.OutIfindex, inMAC: f.InMac, outMAC: f.OutMac, flags: f.Flags, service: f.Service,
		srcEP: f.SrcEndpoint, dstEP: f.DstEndpoint, stale: f.Epoch != fresh,
		unanswered: f.Flags&flowReply != 0 && f.Seen&1 != 0}
	if got != *e {
		return fmt.Errorf("flow %s\nis\n%+v, want\n%+v", m.line(*k, *f), got, *e)
	}
	return nil
}

// testRun runs a program on one packet after another and allocates nothing.
type testRun struct {
	attr *testRunAttr
	in   *[1 << 16]byte
	out  *[1 << 16]byte
	ctx  *skBuff
}

// testRunAttr is union bpf_attr's part for BPF_PROG_TEST_RUN.
type testRunAttr struct {
	prog, retval, sizeIn, sizeOut uint32
	in, out                       uint64
	repeat, duration              uint32
	ctxSizeIn, ctxSizeOut         uint32
	ctxIn, ctxOut                 uint64
	flags, cpu, batch, _          uint32
}

func newTestRun(p *ebpf.Program) *testRun {
	r := &testRun{attr: &testRunAttr{prog: uint32(p.FD())}, in: new([1 << 16]byte), out: new([1 << 16]byte), ctx: new(skBuff)}
	r.attr.in, r.attr.out = uint64(uintptr(unsafe.Pointer(r.in))), uint64(uintptr(unsafe.Pointer(r.out)))
	r.attr.ctxIn, r.attr.ctxSizeIn = uint64(uintptr(unsafe.Pointer(r.ctx))), uint32(unsafe.Sizeof(*r.ctx))
	return r
}

// run returns the verdict and the packet afterwards, which is valid until the next run.
func (r *testRun) run(in []byte, ctx skBuff) (verdict, []byte, error) {
	copy(r.in[:], in)
	*r.ctx = ctx
	r.attr.sizeIn, r.attr.sizeOut = uint32(len(in)), uint32(len(r.out))
	const testRunCommand = 10
	_, _, errno := unix.Syscall(unix.SYS_BPF, testRunCommand, uintptr(unsafe.Pointer(r.attr)), unsafe.Sizeof(*r.attr))
	runtime.KeepAlive(r)
	if errno != 0 {
		return 0, nil, fmt.Errorf("run on %d bytes: %w", len(in), errno)
	}
	return verdict(r.attr.retval), r.out[:r.attr.sizeOut], nil
}
