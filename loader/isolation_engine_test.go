package loader

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// engineWorld is what the registry has, and isolation on fake tables with the real compiler of it.
type engineWorld struct {
	*fakeIsolation
	s         *isolation
	endpoints map[netip.Addr]registry.Endpoint
	policies  map[string]*registry.Policy
	probes    []probe
}

// engineSizes are small: there are many such worlds.
func engineSizes() Sizes {
	s := isolationSizes()
	s.Rulesets, s.PortNodes = 2048, 512
	return s
}

// engineAddrs are of containers here, which are on the networks blue and red by turns.
var engineAddrs = addrs("10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.4")

func newEngineWorld(t *testing.T) *engineWorld {
	w := &engineWorld{
		fakeIsolation: newFakeIsolation(t, engineSizes()),
		endpoints:     map[netip.Addr]registry.Endpoint{}, policies: map[string]*registry.Policy{},
	}
	all := append(addrs("192.0.2.7", "198.51.100.1"), engineAddrs...)
	for x, src := range all {
		for y, dst := range all {
			if x != y && (x > 1 || y > 1) {
				w.probes = append(w.probes, probe{src, dst, 6, 80}, probe{src, dst, 6, 81})
			}
		}
	}
	for i, a := range engineAddrs {
		w.label(a, []string{"a", "b", "c"}[i%3])
	}
	return w
}

// label makes a container of an address one of an app.
func (w *engineWorld) label(a netip.Addr, app string) registry.Change {
	e := registry.Endpoint{
		EndpointID: registry.EndpointID{Node: "n", ContainerID: a.String(), Interface: "eth0"},
		Name:       registry.Name{Namespace: "default", Name: a.String()},
		Network:    []string{"red", "blue"}[a.As16()[15]%2],
		Labels:     map[string]string{"app": app}, Addresses: []netip.Addr{a},
	}
	w.endpoints[a] = e
	return registry.Change{Endpoint: &e}
}

// apply makes a policy one of the registry's.
func (w *engineWorld) apply(p *registry.Policy) registry.Change {
	w.policies[p.String()] = p
	return registry.Change{Policy: p}
}

// snapshot is all that the registry has.
func (w *engineWorld) snapshot() (changes []registry.Change) {
	for _, e := range w.endpoints {
		changes = append(changes, registry.Change{Endpoint: &e})
	}
	for _, p := range w.policies {
		changes = append(changes, registry.Change{Policy: p})
	}
	return changes
}

// restart starts an agent over what another left in the maps.
func (w *engineWorld) restart() {
	w.s = newIsolation(w.fakeIsolation, policy.New("n"), "n", engineSizes(), w.grace, w.clock.now)
	w.s.restore(w.dump())
}

// start brings an agent up, and its containers.
func (w *engineWorld) start() {
	w.t.Helper()
	w.restart()
	if err := w.s.update(w.snapshot(), true); err != nil {
		w.t.Fatal(err)
	}
	for a := range w.endpoints {
		i := w.iface(a)
		w.s.attach(i)
		w.tags[a] = w.s.tagOf(a)
		w.s.attached(i)
	}
	w.clock.t = w.clock.t.Add(2 * w.grace)
}

func (w *engineWorld) iface(a netip.Addr) Interface {
	return Interface{Name: hostOf(a), Addrs: []netip.Addr{a}, Endpoint: w.endpoints[a]}
}

// verdicts judges every probe.
func (w *engineWorld) verdicts() map[probe]bool {
	out := map[probe]bool{}
	for _, p := range w.probes {
		out[p] = w.judge(p)
	}
	return out
}

// expect makes every store look for verdicts that are neither those of now nor those that an agent gives
// that starts with what the registry has.
func (w *engineWorld) expect() {
	other := &engineWorld{
		fakeIsolation: newFakeIsolation(w.t, engineSizes()), endpoints: w.endpoints,
		policies: w.policies, probes: w.probes,
	}
	other.start()
	w.lookFor(w.verdicts(), other.verdicts())
	w.closed, w.stores = false, 0
	clear(w.raised)
}

// verify checks that the maps are as they are to be, and that flows of which the verdict changed are
// decided anew.
func (w *engineWorld) verify() {
	w.t.Helper()
	w.look = false
	for p, is := range w.verdicts() {
		if is != w.after[p] {
			w.t.Fatalf("%+v is %t in the end", p, is)
		}
		if w.before[p] != is && w.raised[p.src] == 0 && w.raised[p.dst] == 0 {
			w.t.Fatalf("the epoch of neither end of %+v rose", p)
		}
	}
	var d differences
	w.s.check(&d, w.dump())
	for _, wrong := range d {
		w.t.Fatal(wrong)
	}
}

// update tells isolation of changes and looks over its shoulder.
func (w *engineWorld) update(changes ...registry.Change) {
	w.t.Helper()
	w.expect()
	if err := w.s.update(changes, false); err != nil {
		w.t.Fatal(err)
	}
	w.verify()
}

// takeOver starts another agent, with all that the registry has now, and looks over its shoulder.
func (w *engineWorld) takeOver() {
	w.t.Helper()
	w.expect()
	w.restart()
	if err := w.s.update(w.snapshot(), true); err != nil {
		w.t.Fatal(err)
	}
	w.verify()
}

// podsOf selects an app's pods of all networks.
func podsOf(app string) registry.PodSelector {
	return registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{"app": app}}}
}

// denies is an AdminNetworkPolicy by which one app may not send to another.
func denies(from, to string) *registry.Policy {
	peer := podsOf(to)
	return &registry.Policy{
		PolicyID: registry.PolicyID{Tier: registry.TierAdmin, Name: registry.Name{Name: from + to}},
		Subject:  podsOf(from),
		Egress:   []registry.Rule{{Action: registry.Deny, Peers: []registry.Peer{{Pods: &peer}}}},
	}
}

// namesBlock is a policy that selects nobody here, but gives everyone in a block another identity.
func namesBlock(block string) *registry.Policy {
	peer := registry.Peer{Block: &registry.IPBlock{CIDR: netip.MustParsePrefix(block)}}
	return &registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: "other", Name: "block"}},
		Isolates: []registry.Direction{registry.Ingress},
		Ingress:  []registry.Rule{{Action: registry.Allow, Peers: []registry.Peer{peer}}},
	}
}

// enginePolicies makes up policies.
type enginePolicies struct{ *rand.Rand }

func (r enginePolicies) pods() registry.PodSelector {
	s := registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{}}}
	if r.IntN(4) > 0 {
		s.Pods.MatchLabels["app"] = r.app()
	}
	if r.IntN(2) == 0 {
		s.Pods.MatchLabels[registry.NetworkLabel] = []string{"blue", "red"}[r.IntN(2)]
	}
	return s
}

func (r enginePolicies) app() string { return []string{"a", "b", "c"}[r.IntN(3)] }

func (r enginePolicies) peer(tier registry.Tier) registry.Peer {
	blocks := []string{"10.0.0.0/8", "10.244.1.0/24", "10.244.1.2/31", "192.0.2.0/24", "0.0.0.0/0"}
	if tier != registry.TierNamespaced || r.IntN(2) == 0 {
		pods := r.pods()
		return registry.Peer{Pods: &pods}
	}
	b := &registry.IPBlock{CIDR: netip.MustParsePrefix(blocks[r.IntN(len(blocks))])}
	if b.CIDR.Bits() == 8 && r.IntN(2) == 0 {
		b.Except = []netip.Prefix{netip.MustParsePrefix(blocks[1+r.IntN(2)])}
	}
	return registry.Peer{Block: b}
}

func (r enginePolicies) rules(tier registry.Tier) (rules []registry.Rule) {
	for range r.IntN(3) {
		rule := registry.Rule{Action: registry.Allow}
		if tier != registry.TierNamespaced && r.IntN(2) == 0 {
			rule.Action = registry.Deny
		}
		for range 1 + r.IntN(2) {
			rule.Peers = append(rule.Peers, r.peer(tier))
		}
		if r.IntN(3) == 0 {
			rule.Ports = []registry.PolicyPort{{Protocol: 6, Port: 80, EndPort: 80}}
		}
		rules = append(rules, rule)
	}
	return rules
}

// policy makes up the n-th: two of namespace default, and two of administrators.
func (r enginePolicies) policy(n int) *registry.Policy {
	p := &registry.Policy{Subject: r.pods()}
	p.Name = registry.Name{Namespace: "default", Name: fmt.Sprint("p", n)}
	if n > 1 {
		p.PolicyID = registry.PolicyID{Tier: registry.TierAdmin, Name: registry.Name{Name: fmt.Sprint("p", n)}}
		p.Priority = int32(n)
	} else {
		for d := range registry.Egress + 1 {
			if r.IntN(2) == 0 {
				p.Isolates = append(p.Isolates, d)
			}
		}
	}
	p.Ingress, p.Egress = r.rules(p.Tier), r.rules(p.Tier)
	return p
}

// change makes up what is committed at once: other labels of one container, or one or two policies.
func (r enginePolicies) change(w *engineWorld) (changes []registry.Change) {
	if r.IntN(5) == 0 {
		return []registry.Change{w.label(engineAddrs[r.IntN(len(engineAddrs))], r.app())}
	}
	for range 1 + r.IntN(2) {
		p := r.policy(r.IntN(4))
		if old := w.policies[p.String()]; old != nil && r.IntN(3) == 0 {
			delete(w.policies, p.String())
			changes = append(changes, registry.Change{Policy: old, Deleted: true})
			continue
		}
		changes = append(changes, w.apply(p))
	}
	return changes
}

// What the real compiler says of random changes opens and closes nothing in between, also when they come
// so fast that identities return before they are forgotten.
func TestIsolationOfRandomPolicies(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w, r := newEngineWorld(t), enginePolicies{rand.New(rand.NewPCG(seed, 1))}
			for range r.IntN(4) {
				w.apply(r.policy(r.IntN(4)))
			}
			w.start()
			for range 8 {
				if changes := r.change(w); seed%2 == 0 && r.IntN(4) == 0 {
					w.takeOver()
				} else {
					w.update(changes...)
				}
				w.clock.t = w.clock.t.Add(time.Duration(r.IntN(4)) * time.Second)
			}
		})
	}
}

// An agent may die between the commit of a policy and its way into the maps. What its successor finds there
// is of identities of which the compiler knows nothing.
func TestIsolationFirstSnapshotGivesOtherIdentities(t *testing.T) {
	w := newEngineWorld(t)
	w.apply(denies("a", "b"))
	w.start()
	w.apply(namesBlock("10.0.0.0/8"))
	w.takeOver()
	w.clock.t = w.clock.t.Add(2 * w.grace)
	delete(w.policies, namesBlock("10.0.0.0/8").String())
	w.takeOver()
}

// An agent of before there were identities left everyone without. Who may talk before and after the first
// snapshot also may in between.
func TestIsolationFirstSnapshotGivesIdentities(t *testing.T) {
	w := newEngineWorld(t)
	w.apply(denies("a", "b"))
	w.apply(&registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: "default", Name: "same"}},
		Isolates: []registry.Direction{registry.Ingress, registry.Egress},
		Ingress:  []registry.Rule{{Action: registry.Allow, Peers: []registry.Peer{{Pods: &registry.PodSelector{}}}}},
		Egress:   []registry.Rule{{Action: registry.Allow, Peers: []registry.Peer{{Pods: &registry.PodSelector{}}}}},
	})
	for a := range w.endpoints {
		w.tags[a] = tag{}
	}
	w.takeOver()
}

// Containers of which the registry tells no more keep being closed to each other, and to whoever else they
// were, until it tells again.
func TestIsolationFirstSnapshotWithoutContainers(t *testing.T) {
	w := newEngineWorld(t)
	w.apply(denies("a", "b"))
	w.start()
	kept := w.endpoints
	was := w.verdicts()
	w.endpoints = map[netip.Addr]registry.Endpoint{}
	w.restart()
	w.lookFor(was, was)
	w.closed = true
	if err := w.s.update(w.snapshot(), true); err == nil {
		t.Error("closed containers are no error")
	}
	for p := range was {
		if w.judge(p) {
			t.Errorf("%+v passes", p)
		}
	}
	var changes []registry.Change
	for _, a := range engineAddrs {
		w.endpoints[a] = kept[a]
		changes = append(changes, registry.Change{Endpoint: new(kept[a])})
	}
	w.look = false
	w.update(changes...)
	for p, is := range was {
		if w.judge(p) != is {
			t.Errorf("%+v is %t in the end", p, !is)
		}
	}
}

// A container that nothing is known of is none that something was known of: it is open as before.
func TestIsolationFirstSnapshotWithStranger(t *testing.T) {
	w := newEngineWorld(t)
	w.endpoints = map[netip.Addr]registry.Endpoint{}
	w.restart()
	if err := w.s.update(nil, true); err != nil {
		t.Fatal(err)
	}
	a := engineAddrs[0]
	i := Interface{Name: hostOf(a), Addrs: []netip.Addr{a}}
	w.s.attach(i)
	w.tags[a] = w.s.tagOf(a)
	w.s.attached(i)
	was := w.verdicts()
	w.restart()
	w.lookFor(was, was)
	if err := w.s.update(nil, true); err != nil {
		t.Fatal(err)
	}
}

// The undo of an Attach after a restart leaves what the registry says, not a container that nothing is
// known of.
func TestIsolationReattachKeepsTheRegistrys(t *testing.T) {
	w := newEngineWorld(t)
	w.apply(denies("a", "b"))
	w.start()
	w.restart()
	if err := w.s.update(w.snapshot(), true); err != nil {
		t.Fatal(err)
	}
	w.expect()
	a := engineAddrs[0]
	i := w.iface(a)
	known := Interface{Name: i.Name, Addrs: i.Addrs} // as the maps say it
	tagged, was := w.tags[a], w.s.attachment(i.Name)
	w.s.attach(i)
	w.s.reattach(known, i, was)
	w.verify()
	if w.tags[a] != tagged {
		t.Errorf("%s has %+v, had %+v", a, w.tags[a], tagged)
	}
	if _, held := w.s.holds[i.Name]; held {
		t.Error("the compiler still holds the undone interface")
	}
}

// An identity that could not be written while an interface was attached again stays due.
func TestIsolationAttachAgainRetries(t *testing.T) {
	w := newEngineWorld(t)
	w.apply(denies("a", "b"))
	w.start()
	a := engineAddrs[0]
	was := w.tags[a]
	w.failTags = true
	if err := w.s.update([]registry.Change{w.label(a, "c")}, false); err == nil {
		t.Error("a failed write is no error")
	}
	w.s.attach(w.iface(a))
	w.s.attached(w.iface(a))
	if w.tags[a] != was || w.s.incomplete() == nil {
		t.Fatalf("tag %+v, had %+v: %v", w.tags[a], was, w.s.incomplete())
	}
	w.failTags = false
	if err := w.s.retry(); err != nil {
		t.Fatal(err)
	}
	w.expect()
	w.verify()
}

// An identity rests from when its last address moved, which may be long after it was to go; then its
// number leads to nothing open.
func TestIsolationRestsFromTheLastMove(t *testing.T) {
	w := newEngineWorld(t)
	w.apply(denies("a", "b"))
	w.start()
	a := engineAddrs[0]
	old := w.s.wired[a].identity
	number := old.number()
	w.failTags = true
	if err := w.s.update([]registry.Change{w.label(a, "c")}, false); err == nil {
		t.Error("a failed write is no error")
	}
	w.clock.t = w.clock.t.Add(2 * w.grace)
	w.failTags = false
	if err := w.s.retry(); err != nil {
		t.Fatal(err)
	}
	if old.used() || w.s.byNumber(number) != old {
		t.Fatalf("identity %d is in use: %t, is known: %t", number, old.used(), w.s.byNumber(number) == old)
	}
	w.clock.t = w.clock.t.Add(2 * w.grace)
	if err := w.s.retry(); err != nil {
		t.Fatal(err)
	}
	if w.s.byNumber(number) != nil {
		t.Errorf("identity %d is known for ever", number)
	}
	if v := w.subject(number); v.Ingress != rulesetClosed || v.Egress != rulesetClosed {
		t.Errorf("nobody's number %d has %+v", number, v)
	}
}

// A predecessor may have died between a write and the epochs that make flows follow it: they rise at once,
// and with the first snapshot again.
func TestIsolationRaisesAfterRestart(t *testing.T) {
	w := newEngineWorld(t)
	w.start()
	w.restart()
	for _, when := range []string{"restart", "first snapshot"} {
		clear(w.raised)
		if when == "first snapshot" {
			if err := w.s.update(w.snapshot(), true); err != nil {
				t.Fatal(err)
			}
		} else if err := w.s.run(); err != nil {
			t.Fatal(err)
		}
		for _, a := range engineAddrs {
			if w.raised[a] == 0 {
				t.Errorf("%s: the epoch of %s did not rise", when, a)
			}
		}
	}
}

// What is denied at one end of flows and what is allowed at the other have generations of their own. Nothing
// waits for programs.
func TestIsolationTurnsOverWithoutWaiting(t *testing.T) {
	w := newEngineWorld(t)
	isolates := func(d registry.Direction) *registry.Policy {
		return &registry.Policy{
			PolicyID: registry.PolicyID{Name: registry.Name{Namespace: "default", Name: "turns"}},
			Isolates: []registry.Direction{d},
		}
	}
	w.start()
	w.update(w.apply(isolates(registry.Ingress)))
	w.waits, w.generations = nil, 0
	w.update(w.apply(isolates(registry.Egress)))
	if w.generations < 2 || len(w.waits) != 0 {
		t.Errorf("%d generations, waits after stores %v", w.generations, w.waits)
	}
}
