package loader

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// numberNames names everything by its number.
type numberNames struct{}

func (numberNames) EndpointOf(uint32) (registry.Endpoint, bool) { return registry.Endpoint{}, false }
func (numberNames) IdentityName(uint32) (policy.Identity, bool) { return policy.Identity{}, false }
func (numberNames) ServiceName(uint32) (registry.Name, string, bool) {
	return registry.Name{}, "", false
}
func (numberNames) PolicyName(n uint32) (registry.PolicyID, bool) {
	return registry.PolicyID{Name: registry.Name{Namespace: "p", Name: fmt.Sprint(n)}}, true
}

func (numberNames) Explain(uint32, registry.Direction, uint32, uint8, uint16) []policy.Reason {
	return nil
}

// mapTracer asks a rig's maps.
func (r *rig) mapTracer() *tracer {
	return &tracer{
		naming: numberNames{}, sockets: true,
		find: lookupIn(func(name string) *ebpf.Map { return r.coll.Maps[name] }),
	}
}

// ingressSKB is skBuff with the interface that a packet came in by.
type ingressSKB struct {
	_              [9]uint32
	IngressIfindex uint32
	Ifindex        uint32
	_              [37]uint32
}

// whyRig runs random packets over random maps, and asks the tracer what should become of them.
type whyRig struct {
	*rig
	rand   *rand.Rand
	events *ringbuf.Reader
	seen   map[string]int // how often each answer was right
	routed bool           // the kernel lets a test say by which interface a packet came in
}

const (
	whyRulesets = 10 // numbers up to this are in use; the same for the others
	whyOutcomes = 8
	whyNodes    = 8
	whyFirst    = 4 // of the nodes of the first level; the others are of the second
)

// TestWhyIsKernel: on whatever is in the maps, what the tracer says becomes of a packet is what the programs
// do with it: the verdict, the reason, the policy, for each backend.
func TestWhyIsKernel(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			seed := uint64(time.Now().UnixNano())
			w := &whyRig{rig: r, rand: rand.New(rand.NewPCG(seed, 1)), seen: map[string]int{}}
			var err error
			if w.events, err = ringbuf.NewReader(r.coll.Maps[podMapEvents]); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { w.events.Close() })
			opts := ebpf.RunOptions{Data: make([]byte, 64), Context: ingressSKB{Ifindex: r.ifindex["A"], IngressIfindex: 1}}
			_, err = r.coll.Programs["to_pod"].Run(&opts)
			w.routed = err == nil
			worlds := 150
			if testing.Short() {
				worlds = 15
			}
			for world := range worlds {
				w.fill()
				for probe := range 40 {
					w.probe(fmt.Sprintf("seed %d, world %d, probe %d", seed, world, probe))
					if t.Failed() {
						return
					}
				}
			}
			for _, answer := range []string{
				"allowed", "denied egress", "denied ingress", "denied network", "denied closed",
				"audit egress", "audit ingress", "audit network", "audit closed", "refused",
			} {
				if w.seen[answer] == 0 && !testing.Short() {
					t.Errorf("answers %v: no %q", w.seen, answer)
				}
			}
		})
	}
}

// chance is true n times in 100.
func (w *whyRig) chance(n int) bool { return w.rand.IntN(100) < n }

func (w *whyRig) number(from, to uint32) uint32 { return from + w.rand.Uint32N(to-from+1) }

// fill makes a new world: containers, identities, services and policies.
func (w *whyRig) fill() {
	w.t.Helper()
	w.reset()
	for _, name := range []string{podMapPrefixes, podMapPolicy} {
		w.empty(name)
	}
	for i, name := range []string{"A", "B", "C"} {
		e := endpoint{Ifindex: w.ifindex[name], Id: uint32(i + 1), Mac: mac(name), Identity: w.number(10, 14), Network: w.rand.Uint32N(4)}
		if w.chance(5) {
			e.Identity = 0
		}
		w.put(podMapEndpoints, toAddress(w.f.addr(name)), e)
	}
	for _, name := range []string{"N", "R", "X"} {
		if w.chance(70) {
			key := prefixKey{Length: w.number(120, 128), Addr: toAddress(w.f.addr(name))}
			identity := w.number(15, 17)
			if w.chance(20) {
				identity = identityNode
			}
			w.put(podMapPrefixes, key, prefixEntry{Identity: identity})
		}
	}
	w.fillRules()
	for i, backends := range [][]string{{"A"}, {"B"}, {"A", "B", "C"}, {"R", "N", "B"}, {}} {
		w.fillService(uint16(80+i), backends)
	}
	s := settings{Sample: 1, EventRate: 1_000_000}
	if w.chance(40) {
		s.Audit = 1
	}
	w.put(podMapSettings, uint32(0), s)
}

func (w *whyRig) fillService(port uint16, names []string) {
	for i, proto := range protocols() {
		svc := service{First: w.slots, Count: uint32(len(names)), Id: 100 + uint32(port) + 40*uint32(i)}
		for j, name := range names {
			id := 100 + uint32(port-80)*10 + uint32(j) + uint32(i)*50
			w.put(podMapBackends, id, backend{
				Addr: toAddress(w.f.addr(name)), Port: w.port(), Proto: proto, State: backendActive, Service: svc.Id, Epoch: 1,
			})
			w.put(podMapSlots, w.slots, id)
			w.slots++
		}
		w.put(podMapServices, serviceKey{Addr: toAddress(w.f.addr("V")), Port: port, Proto: proto}, svc)
	}
}

func (w *whyRig) port() uint16 { return []uint16{1, 80, 255, 256, 7000, 65535}[w.rand.IntN(6)] }

func (w *whyRig) fillRules() {
	leafRef := func() uint32 {
		if w.chance(1) {
			return leaf | 1<<20 // leads nowhere
		}
		return leaf | w.rand.Uint32N(whyOutcomes)
	}
	ref := func(first, last uint32, chance int) uint32 {
		if w.chance(chance) {
			return w.number(first, last)
		}
		return leafRef()
	}
	ruleset := func() uint32 {
		switch {
		case w.chance(1):
			return 1 << 20
		case w.chance(4):
			return w.rand.Uint32N(rulesetClosed + 1)
		}
		return w.number(2, whyRulesets)
	}
	for i := range uint32(18) {
		s := subject{Ingress: ruleset(), Egress: ruleset()}
		if w.chance(35) {
			s.Ingress = rulesetOpen
		}
		if w.chance(35) {
			s.Egress = rulesetOpen
		}
		w.put(podMapSubjects, i, s)
	}
	for range 60 {
		key := policyKey{Subject: w.number(10, 14), Peer: w.number(10, 17), Direction: w.rand.Uint32N(2)}
		if w.chance(20) {
			key.Peer = w.rand.Uint32N(3)
		}
		w.put(podMapPolicy, key, policyEntry{Ruleset: ruleset()})
	}
	for i := range uint32(whyRulesets) + 1 {
		w.put(podMapRulesets, i, rulesetEntry{
			Tcp: ref(0, whyFirst-1, 50), Udp: ref(0, whyFirst-1, 50), Sctp: ref(0, whyFirst-1, 50), Other: ref(0, whyFirst-1, 3),
		})
	}
	for i := range uint32(whyNodes) {
		var n portNode
		for j := range n.Refs {
			if i < whyFirst {
				n.Refs[j] = ref(whyFirst, whyNodes-1, 50)
			} else {
				n.Refs[j] = ref(whyFirst, whyNodes-1, 2)
			}
		}
		w.put(podMapPortNodes, i, n)
	}
	for i := range uint32(whyOutcomes) {
		o := outcome{Policy: w.rand.Uint32N(4)}
		if w.chance(75) {
			o.Flags = uint8(w.number(0, 3))<<1 | outcomeAllow
		}
		w.put(podMapOutcomes, i, o)
	}
}

// probe sends a random packet, and compares.
func (w *whyRig) probe(where string) {
	w.t.Helper()
	w.empty("flows")
	locals := []string{"A", "B", "C"}
	pick := func(names ...string) string { return names[w.rand.IntN(len(names))] }
	src, dst := pick(locals...), pick("A", "B", "C", "N", "R", "X", "V", "V", "V")
	hook, ctx := "from_pod", ingressSKB{Ifindex: w.ifindex[src]}
	p := registry.Probe{Source: registry.Place{Address: w.f.addr(src)}}
	if w.chance(30) {
		src, dst = pick("N", "R", "X", "B"), pick("A", "C")
		hook, ctx = "to_pod", ingressSKB{Ifindex: w.ifindex[dst], IngressIfindex: 1}
		p.Source.Address = w.f.addr(src)
		switch {
		case src == "B" && w.routed:
			ctx.IngressIfindex = w.ifindex[src]
		case w.chance(20) || !w.routed:
			ctx.IngressIfindex = 0 // the node's own stack
			p.Source = registry.Place{Kind: registry.PartyNode}
		}
	}
	p.Destination = registry.Place{Address: w.f.addr(dst)}
	p.Protocol, p.Port = protocols()[w.rand.IntN(3)], w.port()
	if dst == "V" {
		p.Port = uint16(w.number(80, 86))
	}
	packet := frame{src: fmt.Sprintf("%s:%d", src, w.number(1024, 65000)), dst: fmt.Sprintf("%s:%d", dst, p.Port), proto: p.Protocol, flags: flagSYN}
	if w.chance(10) {
		packet.icmp, packet.proto = &icmp{typ: 8}, protoICMP
		if w.f.v6 {
			packet.icmp, packet.proto = &icmp{typ: 128}, protoICMPv6
		}
		p.Port, p.Protocol = 0, packet.proto
	}
	flow, err := w.mapTracer().trace(p)
	if err != nil {
		w.t.Fatalf("%s: %v", where, err)
	}
	if flow.Source.Kind == registry.PartyNode {
		ctx.IngressIfindex = 0 // whoever asks about the node's address means the node
	}
	got, at := w.send(hook, packet.bytes(w.f), ctx)
	want := wanted(&flow, at)
	w.seen[strings.TrimSuffix(strings.SplitN(got, " by", 2)[0], " ")]++
	if got != want {
		w.t.Errorf("%s: %s %s: the programs say %q at %s, the tracer %q\n%+v", where, hook, describe(registry.Frontend{
			Addr: p.Destination.Address, Port: p.Port, Protocol: registry.Protocol(p.Protocol)}), got, at, want, flow)
	}
}

// wanted says what the tracer says becomes of a flow that arrives at an address: VERDICT REASON by POLICY.
func wanted(f *registry.TraceFlow, at netip.AddrPort) string {
	if len(f.Targets) == 0 {
		return string(f.Verdict)
	}
	for _, t := range f.Targets {
		if f.Destination.Address == t.Address || t.Address == at.Addr() && t.Port == at.Port() {
			text := string(t.Verdict)
			if t.Verdict == registry.VerdictAllowed {
				return text
			}
			text += " " + t.Reason
			for _, s := range t.Sides {
				if s.Direction.String() == t.Reason && s.Policy != nil {
					text += " by " + s.Policy.Name.Name
				}
			}
			return text
		}
	}
	return "no such target"
}

// send runs a packet through a program, and returns what becomes of it, and where it goes if that was told.
func (w *whyRig) send(hook string, packet []byte, ctx ingressSKB) (string, netip.AddrPort) {
	w.t.Helper()
	before := w.counters()
	opts := ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256), Context: ctx}
	ret, err := w.coll.Programs[hook].Run(&opts)
	if err != nil {
		w.t.Fatalf("run %s: %v", hook, err)
	}
	after := w.counters().minus(before)
	w.events.SetDeadline(time.Now())
	var record ringbuf.Record
	var first podEvent
	for events := 0; ; events++ {
		err := w.events.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		raw, parseErr := parseEvent(record.RawSample)
		if err := errors.Join(err, parseErr); err != nil {
			w.t.Fatal(err)
		}
		// Of a flow that both sides audit there are two: the sender's comes first.
		if events == 0 {
			first = raw
		}
	}
	at := netip.AddrPortFrom(fromAddress(address{Bytes: first.Daddr.Bytes}), first.Dport)
	text := string(registry.VerdictAllowed)
	switch {
	case after.Refused+after.DropRefused > 0:
		return string(registry.VerdictRefused), at
	case after.Audited > 0:
		text = string(registry.VerdictAudit)
	case verdict(ret) == drop:
		text = string(registry.VerdictDenied)
	default:
		return text, at
	}
	text += " " + reasonNames()[first.Reason]
	if first.Policy != 0 {
		text += fmt.Sprintf(" by %d", first.Policy)
	}
	return text, at
}
