package loader

import (
	"fmt"
	"slices"
	"testing"
)

// TestThreeWays: two VIPs of one backend and the backend itself, in every order, from one source port:
// what B sees are three, and each answer comes from the address that was asked. With affinity and with a
// Maglev table it is the same.
func TestThreeWays(t *testing.T) {
	ways := []string{"V:80", "W:81", "B:7000"}
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				for _, kind := range []string{"random", "affinity", "maglev"} {
					for _, order := range orders {
						t.Run(fmt.Sprintf("%s/%s/%v", protoName(proto), kind, order), func(t *testing.T) {
							outer := r.t
							r.t = t
							defer func() { r.t = outer }()
							r.enter()
							r.reset()
							r.make(kind, proto)
							var to []string
							for _, i := range order {
								to = append(to, ways[i])
							}
							r.threeWays(proto, to)
						})
					}
				}
			}
		})
	}
}

// make turns the services V:80 and W:81 into ones of a kind.
func (r *rig) make(kind string, proto uint8) {
	r.t.Helper()
	for id, vip := range map[uint32]string{1: "V:80", 2: "W:81"} {
		switch kind {
		case "affinity":
			affine(vip, proto, 60).do(r)
		case "maglev":
			r.service(vip, proto, id, slices.Repeat([]uint32{id}, 13)...)
			r.changeService(vip, proto, func(s *service) { s.Algorithm = algorithmMaglev })
		}
	}
}

func (r *rig) threeWays(proto uint8, to []string) {
	r.t.Helper()
	seen := map[string]bool{}
	at := 34 // of the source port
	if r.f.v6 {
		at = 54
	}
	var talks []talk
	for _, to := range to {
		first := opening(packet(proto, "A:1234", to))
		v, out := r.run("A>", first.bytes(r.f))
		if v != redirect {
			r.t.Fatalf("to %s: verdict %v", to, v)
		}
		port := int(out[at])<<8 | int(out[at+1])
		t := talk{there: packet(proto, "A:1234", to).with(flagACK)}
		t.here = t.there.as(fmt.Sprintf("A:%d", port), "B:7000").to("B")
		t.back = t.there.as("B:7000", t.here.src).by("B")
		t.home = t.back.as(to, "A:1234").to("A")
		if seen[t.here.src] {
			r.t.Fatalf("to %s: %s is another's", to, t.here.src)
		}
		seen[t.here.src] = true
		talks = append(talks, t)
	}
	// The first came with its own port.
	if !seen["A:1234"] {
		r.t.Errorf("B sees %v", seen)
	}
	for range 2 {
		for _, t := range slices.Backward(talks) {
			r.goOn(t)
		}
		r.raise(2) // decided anew, it is the same
	}
	if c := r.counters().minus(r.before); c.FlowsCreated != 3 || c.PortsRewritten != 2 {
		r.t.Errorf("counters are %s", show(c))
	}
}

// TestHairpinKinds: a container that is its own backend is another client to itself, whatever way it asks.
func TestHairpinKinds(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				first := opening(packet(proto, "A:1234", "V:100"))
				direct := opening(packet(proto, "A:1234", "A:7000"))
				answer := packet(proto, "A:7000", "H:1234").with(flagSYN | flagACK)
				var all []fixture
				for kind, change := range map[string]func(*service){
					"affinity": func(s *service) { s.AffinityTimeout = 60 },
					"maglev":   func(s *service) { s.Algorithm = algorithmMaglev },
				} {
					all = append(all, fixture{
						name: protoName(proto) + " " + kind, counters: counters{FlowsCreated: 2, PortsRewritten: 1},
						steps: []step{
							do(func(r *rig) { r.changeService("V:100", proto, change) }),
							at("A>", first).redirects(first.as("H:1234", "A:7000").to("A")),
							at("A>", answer).redirects(answer.as("V:100", "A:1234").to("A")),
							// And its own address, from the same port, at the same time.
							at("A>", direct).redirects(direct.as("H:P", "A:7000").to("A")),
							at("A>", answer.as("A:7000", "H:P")).redirects(answer.as("A:7000", "A:1234").to("A")),
							at("A>", answer).redirects(answer.as("V:100", "A:1234").to("A")),
						},
					})
				}
				r.runFixtures(t, all)
			}
		})
	}
}

// TestSharedFrontend: of an address that a service shares (an external one, a node's own), ports that are
// no service's belong to whoever has the address.
func TestSharedFrontend(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				share := do(func(r *rig) { r.service("N:30080", proto, 1, 1) })
				service, other := packet(proto, "A:1234", "N:30080"), packet(proto, "A:1234", "N:53")
				r.runFixtures(t, []fixture{{
					name: protoName(proto), counters: counters{FlowsCreated: 2},
					steps: []step{share,
						at("A>", service).redirects(service.as("A:1234", "B:7000").to("B")),
						at("A>", other).passes(),
						at("A>", service.with(flagACK)).redirects(service.with(flagACK).as("A:1234", "B:7000").to("B"))},
					flows: lines(proto,
						"A:1234>N:30080 = A:1234>B:7000 A->B dst svc1 be1 [A B]",
						"B:7000>A:1234 = N:30080>A:1234 B->A src reply svc1 be1 [B A]",
						"A:1234>N:53 = A:1234>N:53 A->- [A -]",
						"N:53>A:1234 = N:53>A:1234 -->A reply [- A]"),
				}, {
					name: protoName(proto) + ", a ping", counters: counters{FlowsCreated: 1},
					steps: []step{share, at("A>", ping(f, "A", "N")).passes()},
				}})
			}
		})
	}
}
