package loader

import (
	"fmt"
	"math"
	"testing"
)

// affine gives a service affinity, with the run that it has.
func affine(vip string, proto uint8, seconds uint32) step {
	return do(func(r *rig) {
		r.changeService(vip, proto, func(s *service) { s.AffinityTimeout = seconds })
	})
}

// changeService changes a service's entry in place.
func (r *rig) changeService(vip string, proto uint8, change func(*service)) {
	r.t.Helper()
	name, port := parseEndpoint(vip)
	key := serviceKey{Addr: toAddress(r.f.addr(name)), Port: port, Proto: proto}
	var svc service
	r.lookup("services", key, &svc)
	change(&svc)
	r.put("services", key, svc)
}

// affinityKey is a client's entry for a service.
func (r *rig) affinityOf(client string, svc uint32) affinityKey {
	return affinityKey{Client: toAddress(r.f.addr(client)), Service: svc}
}

// TestAffinity: a client's new flows go where its last one went, until the timeout, or until the backend
// takes no new flows.
func TestAffinity(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(protoName(proto), func(t *testing.T) { r.runFixtures(t, affinities(proto)) })
			}
		})
	}
}

func affinities(proto uint8) []fixture {
	flow := func(client, backend string, port int) step {
		p := packet(proto, fmt.Sprintf("%s:%d", client, port), "V:80")
		return at(client+">", p).redirects(p.as(p.src, backend+":7000").to(backend))
	}
	onlyB, onlyC := do(func(r *rig) { r.service("V:80", proto, 1, 1) }), do(func(r *rig) { r.service("V:80", proto, 1, 6) })
	both := do(func(r *rig) { r.service("V:80", proto, 1, 6, 1) })
	timeout := affine("V:80", proto, 60)
	older := func(seconds uint64) step {
		return do(func(r *rig) {
			var a affinity
			key := r.affinityOf("A", number(1, proto))
			if r.lookup("affinity", key, &a); a.Seen < seconds*1e9 {
				r.t.Skipf("the machine has not been up for %d s", seconds)
			}
			a.Seen -= seconds * 1e9
			r.put("affinity", key, a)
		})
	}
	drainB := do(func(r *rig) { r.drainBackend(1, proto) })
	freeB := do(func(r *rig) { r.freeBackend(1, proto) })
	raiseB := do(func(r *rig) {
		var b backend
		r.lookup("backends", number(1, proto), &b)
		b.Epoch++
		r.put("backends", number(1, proto), b)
	})
	// B is what A has; C is all that a new choice would find.
	begin := []step{onlyB, timeout, flow("A", "B", 1), onlyC, timeout}
	with := func(s ...step) []step { return append(begin[:len(begin):len(begin)], s...) }
	return []fixture{{
		name:     "kept",
		steps:    with(flow("A", "B", 2), flow("A", "B", 3)),
		counters: counters{FlowsCreated: 3},
	}, {
		name: "each new flow renews it",
		steps: with(older(59), flow("A", "B", 2), older(59), flow("A", "B", 3), older(59),
			flow("A", "B", 4)),
		counters: counters{FlowsCreated: 4},
	}, {
		name:     "packets of a flow do not renew it",
		steps:    with(older(30), flow("A", "B", 1), older(31), flow("A", "C", 2)),
		counters: counters{FlowsCreated: 2},
	}, {
		name:     "timed out",
		steps:    with(older(61), flow("A", "C", 2), both, timeout, flow("A", "C", 3)),
		counters: counters{FlowsCreated: 3},
	}, {
		name:     "another client",
		steps:    with(at("B>", packet(proto, "B:2", "V:80")).redirects(packet(proto, "B:2", "C:7000").to("C")), flow("A", "B", 2)),
		counters: counters{FlowsCreated: 3},
	}, {
		name: "of this service only",
		steps: with(do(func(r *rig) { r.service("V:90", proto, 3, 7); r.backend(7, "C:7000", proto, 3) }),
			affine("V:90", proto, 60),
			at("A>", packet(proto, "A:2", "V:90")).redirects(packet(proto, "A:2", "C:7000").to("C"))),
		counters: counters{FlowsCreated: 2},
	}, {
		name:     "the backend drains",
		steps:    with(drainB, flow("A", "C", 2), flow("A", "B", 1)),
		counters: counters{FlowsCreated: 2},
	}, {
		name:     "the backend left",
		steps:    with(freeB, flow("A", "C", 2)),
		counters: counters{FlowsCreated: 2},
	}, {
		name:     "the backend is another's",
		steps:    with(do(func(r *rig) { r.backend(1, "B:7000", proto, 2) }), flow("A", "C", 2)),
		counters: counters{FlowsCreated: 2},
	}, {
		name:     "the backend's epoch was raised",
		steps:    with(raiseB, flow("A", "C", 2)),
		counters: counters{FlowsCreated: 2},
	}, {
		name:     "switched off",
		steps:    with(onlyC, flow("A", "C", 2)),
		counters: counters{FlowsCreated: 2},
	}, {
		name:     "none asked for",
		steps:    []step{onlyB, flow("A", "B", 1), onlyC, flow("A", "C", 2), do(func(r *rig) { r.noAffinity() })},
		counters: counters{FlowsCreated: 2},
	}, {
		name:     "no backend",
		steps:    []step{do(func(r *rig) { r.service("V:80", proto, 1) }), timeout, do(func(r *rig) { r.refused(proto); r.noAffinity() })},
		counters: counters{Refused: 1},
	}}
}

func (r *rig) noAffinity() {
	r.t.Helper()
	if n := r.count("affinity"); n != 0 {
		r.t.Errorf("affinity has %d entries", n)
	}
}

// refused sends a first packet to a VIP without backends.
func (r *rig) refused(proto uint8) {
	r.t.Helper()
	p := opening(packet(proto, "A:1", "V:80"))
	if v, out := r.run("A>", p.bytes(r.f)); v != redirect || len(out) == 0 {
		r.t.Errorf("verdict %v, want a refusal sent back", v)
	}
}

// TestAffinityChoice: a client without an entry is given a backend by its address alone, so that flows that
// begin together agree, clients spread evenly, and chance decides again after a timeout.
func TestAffinityChoice(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			r.reset()
			r.backend(1, "B:7000", protoTCP, 1)
			r.service("V:80", protoTCP, 1, 1, 6)
			affine("V:80", protoTCP, 60).do(r)
			key := r.affinityOf("A", number(1, protoTCP))
			choose := func(port int) (chosen affinity) {
				p := packet(protoTCP, fmt.Sprintf("A:%d", port), "V:80").bytes(f)
				if v, _ := r.run("A>", p); v != redirect {
					t.Fatalf("verdict %v", v)
				}
				r.lookup("affinity", key, &chosen)
				return chosen
			}
			first := choose(1)
			const rounds = 64
			for port := 2; port < rounds; port++ {
				r.remove("affinity", key) // as the map's LRU does
				if again := choose(port); again.Backend != first.Backend || again.Seen < first.Seen {
					t.Fatalf("evicted: %+v, before %+v", again, first)
				}
			}
			counts := map[uint32]int{}
			for i := range rounds {
				old := affinity{Backend: first.Backend, Epoch: first.Epoch, Seen: uint64(i)}
				r.put("affinity", key, old)
				affine("V:80", protoTCP, 1).do(r)
				counts[choose(1000+i).Backend]++
			}
			if n := counts[first.Backend]; math.Abs(float64(n-rounds/2)) > rounds/4 || len(counts) != 2 {
				t.Errorf("after the timeout, the backends were chosen %v times", counts)
			}
		})
	}
}
