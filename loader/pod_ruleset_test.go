package loader

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// portSpan is what becomes of the ports up to last that the span before it does not cover.
type portSpan struct {
	last    uint16
	outcome uint32
}

func outcomeAt(spans []portSpan, port uint16) uint32 {
	return spans[slices.IndexFunc(spans, func(s portSpan) bool { return port <= s.last })].outcome
}

// tree writes port_nodes from *next on that say the same as spans, as small as can be, and returns the
// reference to them.
func (r *rig) tree(spans []portSpan, next *uint32) uint32 {
	uniform := func(from, to int) bool {
		for p := from; p <= to; p++ {
			if outcomeAt(spans, uint16(p)) != outcomeAt(spans, uint16(from)) {
				return false
			}
		}
		return true
	}
	node := func(refs [256]uint32) uint32 {
		*next++
		r.put("port_nodes", *next, sockPortNode{Refs: refs})
		return *next
	}
	if uniform(0, 65535) {
		return leaf | outcomeAt(spans, 0)
	}
	var root [256]uint32
	for high := range 256 {
		first := high << 8
		if uniform(first, first|255) {
			root[high] = leaf | outcomeAt(spans, uint16(first))
			continue
		}
		var low [256]uint32
		for i := range low {
			low[i] = leaf | outcomeAt(spans, uint16(first|i))
		}
		root[high] = node(low)
	}
	return node(root)
}

// probePorts tries ports against spans, each for the protocol whose rules they are.
func (r *rig) probePorts(t *testing.T, proto uint8, spans []portSpan, ports []uint16) {
	t.Helper()
	for _, port := range ports {
		p := packet(proto, "A:1234", fmt.Sprintf("B:%d", port))
		got, _ := r.run("A>", p.bytes(r.f))
		want := map[uint32]verdict{deny: drop, allow: redirect}[outcomeAt(spans, port)]
		if got != want {
			t.Errorf("%s port %d: %v, want %v", protoName(proto), port, got, want)
		}
	}
}

// TestRulesets tries trees of ports against the spans that they are made of: a leaf at the root, on the
// first and on the second level, and random ones.
func TestRulesets(t *testing.T) {
	trees := map[string][]portSpan{
		"everything":      {{65535, allow}},
		"nothing":         {{65535, deny}},
		"the lower half":  {{0x7fff, allow}, {65535, deny}},
		"port 80":         {{79, deny}, {80, allow}, {65535, deny}},
		"port 0":          {{0, allow}, {65535, deny}},
		"port 65535":      {{65534, deny}, {65535, allow}},
		"255 and 256":     {{254, deny}, {256, allow}, {65535, deny}},
		"256 to 511":      {{255, deny}, {511, allow}, {65535, deny}},
		"all but 256":     {{255, allow}, {256, deny}, {65535, allow}},
		"1024 and higher": {{1023, deny}, {65535, allow}},
	}
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 20 {
		trees[fmt.Sprint("random ", i)] = randomSpans(random)
	}
	for _, f := range families() {
		r := newRig(t, f, rigOptions{})
		for name, spans := range trees {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				r.t = t
				r.enter()
				r.reset()
				var next uint32
				r.rule("B", ingress, 30)
				ref := r.tree(spans, &next)
				// Outside of their protocol, the opposite holds.
				other := r.tree(opposite(spans), &next)
				ports := []uint16{0, 1, 79, 80, 81, 255, 256, 257, 511, 512, 65279, 65280, 65534, 65535}
				for _, s := range spans {
					ports = append(ports, s.last, s.last+1)
				}
				for _, proto := range protocols() {
					refs := map[uint8]uint32{protoTCP: other, protoUDP: other, protoSCTP: other}
					refs[proto] = ref
					r.ruleset(30, refs[protoTCP], refs[protoUDP], refs[protoSCTP], leaf|deny)
					r.empty("flows")
					r.probePorts(t, proto, spans, ports)
				}
			})
		}
	}
}

func randomSpans(random *rand.Rand) (spans []portSpan) {
	outcome := uint32(deny)
	for range 1 + random.IntN(6) {
		spans = append(spans, portSpan{uint16(random.IntN(65535)), 0})
		if random.IntN(2) == 0 {
			spans[len(spans)-1].last %= 1024
		}
	}
	spans = append(spans, portSpan{last: 65535})
	slices.SortFunc(spans, func(a, b portSpan) int { return int(a.last) - int(b.last) })
	spans = slices.CompactFunc(spans, func(a, b portSpan) bool { return a.last == b.last })
	for i := range spans {
		spans[i].outcome = outcome
		outcome ^= deny ^ allow
	}
	return spans
}

func opposite(spans []portSpan) (o []portSpan) {
	for _, s := range spans {
		o = append(o, portSpan{s.last, s.outcome ^ deny ^ allow})
	}
	return o
}

// TestCorruptRules: what leads nowhere is denied.
func TestCorruptRules(t *testing.T) {
	const nowhere = 1 << 20
	corrupt := map[string]func(*rig){
		"rulesets":               func(r *rig) { r.rule("B", ingress, nowhere) },
		"rulesets, of a peer":    func(r *rig) { r.ruleFor("B", ingress, "A", nowhere) },
		"open ruleset of a peer": func(r *rig) { r.ruleFor("B", ingress, "A", rulesetOpen) },
		"closed one":             func(r *rig) { r.ruleFor("B", ingress, "A", rulesetClosed) },
		"a ruleset never written": func(r *rig) {
			r.rule("B", ingress, 77)
		},
		"root": func(r *rig) { r.ruleset(rulesetOf(allow), nowhere, nowhere, nowhere, nowhere) },
		"outcomes": func(r *rig) {
			r.ruleset(rulesetOf(allow), leaf|nowhere, leaf|nowhere, leaf|nowhere, leaf|nowhere)
		},
		"second level": func(r *rig) {
			r.put("port_nodes", uint32(1), sockPortNode{Refs: [256]uint32{27: nowhere}})
			r.ruleset(rulesetOf(allow), 1, 1, 1, 1)
		},
		"third level": func(r *rig) {
			r.put("port_nodes", uint32(1), sockPortNode{Refs: [256]uint32{27: 2}})
			r.put("port_nodes", uint32(2), sockPortNode{Refs: [256]uint32{88: 1}}) // 27<<8 + 88 = 7000
			r.ruleset(rulesetOf(allow), 1, 1, 1, 1)
		},
		"nodes never written": func(r *rig) {
			r.ruleset(rulesetOf(allow), 50, 50, 50, 50)
		},
		"subjects": func(r *rig) {
			var e endpoint
			r.lookup("endpoints", toAddress(r.f.addr("B")), &e)
			e.Identity = nowhere
			r.put("endpoints", toAddress(r.f.addr("B")), e)
		},
	}
	eachKind(t, func(f family, proto uint8) (all []fixture) {
		ab := request(f, proto, "A:1234", "B:7000")
		for name, break_ := range corrupt {
			all = append(all, fixture{
				name: name, counters: counters{DropClosed: 1},
				steps: []step{rule("B", ingress, rulesetOf(allow)), do(break_), dropped(ab)},
			})
		}
		return append(all, fixture{
			name: "an outcome that names no policy there is", counters: counters{FlowsCreated: 1, DropIngress: 1},
			steps: []step{
				do(func(r *rig) { r.put("outcomes", uint32(60), sockOutcome{Policy: nowhere, Flags: outcomeAllow}) }),
				do(func(r *rig) { r.put("outcomes", uint32(61), sockOutcome{Policy: nowhere}) }),
				do(func(r *rig) { r.ruleset(30, leaf|60, leaf|60, leaf|60, leaf|60) }),
				do(func(r *rig) { r.ruleset(31, leaf|61, leaf|61, leaf|61, leaf|61) }),
				rule("B", ingress, 30), goes(ab), do(func(r *rig) { r.empty("flows") }),
				rule("B", ingress, 31), dropped(ab),
			},
			policies: []string{},
		})
	})
}
