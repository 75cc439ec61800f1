package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// history changes a cluster at random, and an engine with it.
type history struct {
	*world
	engine   *Engine
	known    map[registry.EndpointID]registry.Endpoint // by the registry
	attached map[registry.EndpointID]registry.Endpoint
	node     []netip.Addr
	settled  bool // containers keep their addresses
}

func newHistory(seed uint64) *history {
	return &history{
		world: newWorld(seed), engine: New(thisNode),
		known: map[registry.EndpointID]registry.Endpoint{}, attached: map[registry.EndpointID]registry.Endpoint{},
	}
}

// everything names all that the registry knows.
func (h *history) everything() []registry.Change {
	c := h.cluster
	c.endpoints = slices.Collect(maps.Values(h.known))
	return append(c.changes()[1:], registry.Change{Node: &registry.Node{Name: thisNode, Addresses: h.node}})
}

// freshEngine has not seen how things came to be so.
func (h *history) freshEngine(t *testing.T) *mirror {
	m, e := newMirror(t), New(thisNode)
	for _, ep := range h.attached {
		m.apply(e.Attach(ep))
	}
	for _, d := range e.Apply(h.everything(), true) {
		m.apply(d)
	}
	m.agree(e)
	return m
}

// step changes one thing, or with a snapshot many, and returns what the engine makes of it.
func (h *history) step() (what string, deltas []Delta) {
	switch h.IntN(10) {
	case 0:
		return h.attach()
	case 1:
		ids := slices.SortedFunc(maps.Keys(h.attached), registry.EndpointID.Compare)
		if len(ids) == 0 {
			return "nothing", nil
		}
		id := pick(h.world, ids)
		delete(h.attached, id)
		return "detach", []Delta{h.engine.Detach(id)}
	case 2:
		return h.snapshot()
	}
	what, changes := h.change()
	return what, h.engine.Apply(changes, false)
}

func (h *history) attach() (string, []Delta) {
	ep := h.endpoint(1 + h.IntN(12))
	ep.Node = thisNode
	if old, ok := h.known[ep.EndpointID]; ok && h.oneIn(2) {
		ep = old
	}
	if h.oneIn(3) {
		ep.Addresses = []netip.Addr{v4(1 + h.IntN(12))} // of another one, perhaps
	}
	h.attached[ep.EndpointID] = ep
	return "attach", []Delta{h.engine.Attach(ep)}
}

// snapshot changes several things behind the engine's back.
func (h *history) snapshot() (string, []Delta) {
	for range h.IntN(4) {
		h.change()
	}
	return "snapshot", h.engine.Apply(h.everything(), true)
}

// change makes a change of one object.
func (h *history) change() (what string, changes []registry.Change) {
	switch h.IntN(6) {
	case 0:
		ns := &registry.Namespace{Name: pick(h.world, someNamespaces), Labels: h.labels()}
		if h.oneIn(3) {
			delete(h.namespaces, ns.Name)
			return "delete namespace", []registry.Change{{Namespace: ns, Deleted: true}}
		}
		h.namespaces[ns.Name] = ns.Labels
		return "namespace", []registry.Change{{Namespace: ns}}
	case 1, 2:
		ep := h.endpoint(1 + h.IntN(12))
		if !h.settled && h.oneIn(3) {
			ep.Addresses = []netip.Addr{v4(1 + h.IntN(16)), v6(1 + h.IntN(16))}
		}
		if h.oneIn(3) {
			delete(h.known, ep.EndpointID)
			return "delete endpoint", []registry.Change{{Endpoint: &ep, Deleted: true}}
		}
		h.known[ep.EndpointID] = ep
		return "endpoint", []registry.Change{{Endpoint: &ep}}
	case 3:
		h.node = nodeAddresses[:h.IntN(3)]
		return "node", []registry.Change{{Node: &registry.Node{Name: thisNode, Addresses: h.node}}}
	}
	return h.changePolicy()
}

func (h *history) changePolicy() (what string, changes []registry.Change) {
	if n := len(h.policies); n > 0 && h.oneIn(3) {
		i := h.IntN(n)
		p := h.policies[i]
		h.policies = slices.Delete(h.policies, i, i+1)
		return "delete policy", []registry.Change{{Policy: p, Deleted: true}}
	}
	p := h.policy(h.IntN(6))
	for i, old := range h.policies {
		if old.PolicyID != p.PolicyID {
			continue
		}
		if h.oneIn(2) { // a small change of the same policy
			kept := *old
			switch h.IntN(4) {
			case 0:
				kept.Audit = !kept.Audit
			case 1:
				kept.Ingress = p.Ingress
			case 2:
				kept.Egress = p.Egress
			case 3:
				kept.Subject = p.Subject
			}
			p = &kept
		}
		h.policies[i] = p
		return "change policy", []registry.Change{{Policy: p}}
	}
	h.policies = append(h.policies, p)
	return "policy", []registry.Change{{Policy: p}}
}

// TestIncremental makes many changes, after each of which the sum of all Deltas must be what an engine
// says that has only ever seen the result.
func TestIncremental(t *testing.T) {
	histories, steps := 300, 40
	if testing.Short() {
		histories /= 10
	}
	for seed := range uint64(histories) {
		h, m := newHistory(seed), newMirror(t)
		for n := range steps {
			what, deltas := h.step()
			for _, d := range deltas {
				m.apply(d)
			}
			m.agree(h.engine)
			got, want := m.portrait(), h.freshEngine(t).portrait()
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, step %d, %s:\nafter changes: %+v\nfrom scratch:  %+v", seed, n, what, got, want)
			}
		}
		h.checkEmpty(t, m)
	}
}

// checkEmpty takes everything away again: nothing may be left of it.
func (h *history) checkEmpty(t *testing.T, m *mirror) {
	t.Helper()
	for id := range h.attached {
		m.apply(h.engine.Detach(id))
	}
	for _, d := range h.engine.Apply(nil, true) {
		m.apply(d)
	}
	m.agree(h.engine)
	e := h.engine
	left := fmt.Sprint(len(e.endpoints), len(e.namespaces), len(e.objects), len(e.policies), len(e.workloads), len(e.selectors),
		len(e.index.workloads), len(e.index.selectors), len(e.identities), e.sites[0].root, e.sites[1].root)
	if left != "0 0 0 0 0 0 0 0 0 <nil> <nil>" || len(m.identities) != 2 || len(m.addresses)+len(m.blocks)+len(m.rules) > 0 {
		t.Fatalf("something is left: %s; %+v", left, m.portrait())
	}
}

// TestNoMoment looks at the dataplane after every single write of a change of one object: each packet must
// find what was before, or what will be.
func TestNoMoment(t *testing.T) {
	histories, steps, probes := 200, 30, 60
	if testing.Short() {
		histories /= 10
	}
	moments, phased := 0, 0
	for seed := range uint64(histories) {
		h, m := newHistory(seed), newMirror(t)
		h.settled = true
		for range 6 { // some containers to begin with
			ep := h.endpoint(h.IntN(12) + 1)
			h.known[ep.EndpointID] = ep
		}
		for _, d := range h.engine.Apply(h.everything(), true) {
			m.apply(d)
		}
		for n := range steps {
			h.endpoints = slices.SortedFunc(maps.Values(h.known), func(a, b registry.Endpoint) int { return a.Compare(b.EndpointID) })
			if len(h.endpoints) == 0 {
				break
			}
			packets := make([]probe, probes)
			before := make([]bool, probes)
			for i := range packets {
				packets[i] = h.probe()
				before[i] = m.passes(packets[i])
			}
			what, changes := h.change()
			deltas := h.engine.Apply(changes, false)
			after := make([]bool, probes)
			for i, p := range packets {
				after[i] = h.engine.passes(p.ends())
			}
			m.look = func() {
				moments++
				for i, p := range packets {
					if got := m.passes(p); before[i] == after[i] && got != before[i] {
						t.Fatalf("seed %d, step %d, %s: %+v passes before: %v, and after: %v, but not meanwhile", seed, n, what, p, before[i], after[i])
					}
				}
			}
			if len(deltas) > 1 {
				phased++
			}
			for _, d := range deltas {
				m.shuffle(h.Rand, &d)
				m.apply(d)
			}
			m.look = nil
		}
	}
	t.Logf("%d moments looked at, %d changes in more than one Delta", moments, phased)
}

// ends returns the packet as Engine.passes takes it.
func (p probe) ends() (src, dst netip.Addr, proto uint8, port uint16) {
	if p.direction == registry.Ingress {
		p = p.reverse()
	}
	return p.subject, p.peer, p.proto, p.port
}

// shuffle puts what a Delta leaves in no order in any order.
func (m *mirror) shuffle(r *rand.Rand, d *Delta) {
	shuffle(r, d.Rules)
	shuffle(r, d.Addresses)
	shuffle(r, d.Blocks)
}

func shuffle[T any](r *rand.Rand, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}
