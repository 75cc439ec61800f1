package loader

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// talk is a connection that goes on while others begin: what A sends to a VIP's port, and what B answers.
type talk struct {
	there, here frame // as A sends it, and as B receives it
	back, home  frame // as B answers, and as A receives it
}

// talks begins connections through two VIPs of one backend from the same source ports, so that each second
// one has another port at the backend.
func (r *rig) talks(proto uint8, n int) (all []talk) {
	r.t.Helper()
	for i := range n {
		for _, vip := range []string{"V:80", "W:81"} {
			first := opening(packet(proto, fmt.Sprintf("A:%d", 2000+i), vip))
			v, out := r.run("A>", first.bytes(r.f))
			if v != redirect {
				r.t.Fatalf("verdict %v", v)
			}
			at := 34
			if r.f.v6 {
				at = 54
			}
			port := int(out[at])<<8 | int(out[at+1])
			t := talk{there: packet(proto, first.src, vip).with(flagACK)}
			t.here = t.there.as(fmt.Sprintf("A:%d", port), "B:7000").to("B")
			t.back = t.there.as("B:7000", fmt.Sprintf("A:%d", port))
			t.home = t.back.as(vip, first.src).to("A")
			r.goOn(t)
			all = append(all, t)
		}
	}
	return all
}

// goOn sends a packet each way and wants it to arrive as those before did.
func (r *rig) goOn(t talk) {
	r.t.Helper()
	r.step(t.there.src+" to "+t.there.dst, at("A>", t.there).redirects(t.here))
	r.step(t.back.src+" to "+t.back.dst, at("B>", t.back).redirects(t.home))
}

// halves are the keys of a connection's entries.
func (r *rig) halves(t talk) [2]sockFlowKey {
	return [2]sockFlowKey{
		r.key(t.there.proto, t.there.src, t.there.dst), r.key(t.back.proto, t.back.src, t.back.dst),
	}
}

// flood begins n flows from C, of which each has one packet: a scan.
func (r *rig) flood(proto uint8, n, from int) {
	r.t.Helper()
	p := opening(packet(proto, "C:1", "X:1"))
	for i := range n {
		p.src, p.dst = fmt.Sprintf("C:%d", 1+(from+i)%65000), fmt.Sprintf("X:%d", 1+(from+i)/65000)
		if v, _ := r.run("C>", p.bytes(r.f)); v != pass {
			r.t.Fatalf("flow %d of the scan: verdict %v", from+i, v)
		}
	}
}

// TestScan: a scan that would fill the map many times over takes the room of what is idle, and never that
// of a connection which goes on.
func TestScan(t *testing.T) {
	const entries, rounds = 4096, 60
	for _, f := range families() {
		for _, proto := range protocols() {
			t.Run(f.name+"/"+protoName(proto), func(t *testing.T) {
				r := newRig(t, f, rigOptions{flows: func(m *ebpf.MapSpec) { m.MaxEntries = entries }})
				r.reset()
				active := r.talks(proto, 8)
				idle := active[8:]
				active = active[:8]
				r.flood(proto, entries, 0)
				before := r.counters()
				for round := range rounds {
					r.flood(proto, entries/16, entries+round*entries/16)
					for _, talk := range active {
						for _, key := range r.halves(talk) {
							if err := r.coll.Maps["flows"].Lookup(key, &sockFlow{}); err != nil {
								t.Errorf("round %d: %+v was evicted", round, key)
							}
						}
						r.goOn(talk)
					}
				}
				c := r.counters().minus(before)
				if want := (counters{FlowsCreated: rounds * entries / 16}); c != want {
					t.Errorf("counters are %s, want %s", show(c), show(want))
				}
				kept := 0 // which of the idle ones go is the kernel's choice; most must
				for i := range entries / 4 {
					if r.coll.Maps["flows"].Lookup(r.key(proto, fmt.Sprintf("C:%d", 1+i), "X:1"), &sockFlow{}) == nil {
						kept++
					}
				}
				if kept > entries/8 {
					t.Errorf("%d of the scan's first %d flows, which are idle, were kept", kept, entries/4)
				}
				// Even these, which are idle since before the scan, have been in use more often.
				for _, talk := range idle {
					r.goOn(talk)
				}
			})
		}
	}
}

// TestEvicted: whatever of a connection's entries is evicted while it goes on, its packets arrive as
// before: the same backend, the same source port there, the same VIP in its answers. Where the run of
// the service has changed since, its answers bring back the half that was lost.
func TestEvicted(t *testing.T) {
	for _, f := range families() {
		for _, proto := range protocols() {
			t.Run(f.name+"/"+protoName(proto), func(t *testing.T) {
				r := newRig(t, f, rigOptions{})
				r.reset()
				talks := r.talks(proto, 4)
				evict := func(talk talk, half int) { r.remove("flows", r.halves(talk)[half]) }
				for _, talk := range talks {
					evict(talk, 0)
					r.goOn(talk)
					evict(talk, 0)
					evict(talk, 1)
					r.goOn(talk)
					evict(talk, 1)
					r.age(r.halves(talk)[0], 2)
					r.goOn(talk)
					evict(talk, 1)
					r.step("answer", at("B>", talk.back).redirects(talk.home))
					r.goOn(talk)
				}
				// With neither half there is nothing that it answers.
				evict(talks[0], 0)
				evict(talks[0], 1)
				stray := talks[0].back
				r.step("stray", at("B>", stray).redirects(stray.to("A")))
				r.empty("flows")
				talks = r.talks(proto, 4)
				// What is not A's backend any more by its hash, is by what its answers say.
				r.service("V:80", proto, 1, 6)
				r.service("W:81", proto, 2, 6)
				for _, talk := range talks {
					evict(talk, 0)
					r.age(r.halves(talk)[1], 2)
					r.step("answer", at("B>", talk.back).redirects(talk.home))
					r.goOn(talk)
				}
				for _, talk := range talks {
					r.goOn(talk)
				}
			})
		}
	}
}

// TestFullOfActive has more connections go on than the kernel's LRU looks at before it takes one at
// random (kernel/bpf/bpf_lru_list.c: __bpf_lru_list_shrink looks at LOCAL_NR_SCANS entries, and if all
// were used since, takes the next whatever it is). Those which it takes must not show it.
func TestFullOfActive(t *testing.T) {
	const entries, connections, rounds = 4096, 700, 12 // two connections of two entries each: 68 %
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{flows: func(m *ebpf.MapSpec) { m.MaxEntries = entries }})
			r.reset()
			active := r.talks(protoTCP, connections)
			lost := [2]int{}
			for round := range rounds {
				r.flood(protoTCP, entries/16, round*entries/16)
				for _, talk := range slices.Backward(active) {
					for i, key := range r.halves(talk) {
						if r.coll.Maps["flows"].Lookup(key, &sockFlow{}) != nil {
							lost[i]++
						}
					}
					r.goOn(talk)
				}
				if t.Failed() {
					break
				}
			}
			t.Logf("of %d connections, %d asking and %d answering halves were evicted", 2*connections, lost[0], lost[1])
		})
	}
}
