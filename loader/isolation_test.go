package loader

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// isolationWorld is isolation on fake tables with a fake compiler, and random changes of a small cluster.
type isolationWorld struct {
	*fakeIsolation
	s        *isolation
	compiler *fakeCompiler
	rnd      *rand.Rand
	sizes    Sizes
	local    map[netip.Addr]bool
	probes   []probe
	serial   int // of names that were never there before
	verdicts []*policy.Verdicts
}

func isolationSizes() Sizes {
	return Sizes{
		Endpoints: 64, Identities: 256, Policies: 64, PolicyEntries: 4096, Rulesets: 16384,
		PortNodes: 8192, Outcomes: 1024, Prefixes: 256,
	}
}

var (
	localAddrs  = addrs("10.244.1.1", "10.244.1.2", "10.244.1.3", "fd00:10:244:1::4")
	remoteAddrs = addrs("10.244.2.1", "fd00:10:244:2::2")
	worldAddrs  = addrs("192.0.2.1", "192.0.2.200", "198.51.100.7", "2001:db8::1", "2001:db8:1::1", "::1:2:3", "::ffff:0:0:1")
	someBlocks  = []string{"0.0.0.0/0", "192.0.2.0/24", "192.0.2.128/25", "192.0.2.200/32", "::/0", "::/1", "::/64", "2001:db8::/32", "2001:db8::/48", "198.51.100.0/24"}
	someKeys    = []string{"red", "green", "blue", "grey"}
)

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func newIsolationWorld(t *testing.T, seed uint64, sizes Sizes) *isolationWorld {
	w := &isolationWorld{
		fakeIsolation: newFakeIsolation(t, sizes), compiler: newFakeCompiler(),
		rnd: rand.New(rand.NewPCG(seed, 9)), sizes: sizes, local: map[netip.Addr]bool{},
	}
	w.start()
	for _, a := range localAddrs {
		w.local[a] = true
	}
	for _, src := range slices.Concat(localAddrs, remoteAddrs, worldAddrs) {
		for _, dst := range slices.Concat(localAddrs, remoteAddrs, worldAddrs) {
			if src == dst || !w.local[src] && !w.local[dst] {
				continue
			}
			for _, port := range []uint16{80, 81, 8080} {
				w.probes = append(w.probes, probe{src, dst, 6, port})
			}
			w.probes = append(w.probes, probe{src, dst, 17, 53}, probe{src, dst, 1, 0})
		}
	}
	for range 8 {
		w.verdicts = append(w.verdicts, w.someVerdicts())
	}
	return w
}

func (w *isolationWorld) start() {
	w.s = newIsolation(w.fakeIsolation, w.compiler, "n", w.sizes, w.grace, w.clock.now)
}

func (w *isolationWorld) someOutcome() policy.Outcome {
	id := registry.PolicyID{Name: registry.Name{Namespace: "x", Name: fmt.Sprint("p", w.rnd.IntN(6))}}
	switch w.rnd.IntN(5) {
	case 0, 1:
		return policy.Outcome{Policy: id}
	case 2:
		return policy.Outcome{Allow: true, Join: true, Policy: id}
	case 3:
		return policy.Outcome{Allow: true, Audit: true, Policy: id}
	}
	return policy.Outcome{Allow: true, Policy: id}
}

func (w *isolationWorld) someSpans() (spans []policy.Span) {
	for _, last := range []uint16{79, 80, 81, 8079, 8191} {
		o := w.someOutcome()
		if w.rnd.IntN(3) == 0 && (len(spans) == 0 || spans[len(spans)-1].Outcome != o) {
			spans = append(spans, policy.Span{Last: last, Outcome: o})
		}
	}
	o := w.someOutcome()
	if n := len(spans); n > 0 && spans[n-1].Outcome == o {
		spans[n-1].Last = 65535
		return spans
	}
	return append(spans, policy.Span{Last: 65535, Outcome: o})
}

func (w *isolationWorld) someVerdicts() *policy.Verdicts {
	return &policy.Verdicts{TCP: w.someSpans(), UDP: w.someSpans(), SCTP: w.someSpans(), Other: w.someOutcome()}
}

// pickVerdicts returns some of few, so that changes meet equal ones; now and then new ones.
func (w *isolationWorld) pickVerdicts() *policy.Verdicts {
	if i := w.rnd.IntN(len(w.verdicts)); w.rnd.IntN(4) > 0 {
		return w.verdicts[i]
	} else {
		w.verdicts[i] = w.someVerdicts()
		return w.verdicts[i]
	}
}

func (w *isolationWorld) fresh(kind string) string {
	w.serial++
	return fmt.Sprint(kind, w.serial)
}

// someSide makes up what a side says of the identities that there are.
func (w *isolationWorld) someSide(c *cluster) (s sideRules) {
	if w.rnd.IntN(3) == 0 {
		return s
	}
	s.any, s.peers = w.pickVerdicts(), map[string]*policy.Verdicts{}
	for _, k := range append(slices.Sorted(maps.Keys(c.keys())), "") {
		if w.rnd.IntN(3) == 0 {
			s.peers[k] = w.pickVerdicts()
		}
	}
	return s
}

// ruleNew gives identities that have just appeared rules, as subjects and as peers.
func (w *isolationWorld) ruleNew(c *cluster, was map[string]bool) {
	for _, k := range slices.Sorted(maps.Keys(c.keys())) {
		if was[k] {
			continue
		}
		c.rules[k] = &[2]sideRules{w.someSide(c), w.someSide(c)}
		for _, subject := range slices.Sorted(maps.Keys(c.rules)) {
			for d := range 2 {
				if s := &c.rules[subject][d]; s.any != nil && w.rnd.IntN(2) == 0 {
					s.peers[k] = w.pickVerdicts()
				}
			}
		}
	}
}

// prune takes away what the cluster says of identities that are gone.
func prune(c *cluster) {
	keys := c.keys()
	keys[""] = true
	for subject, sides := range c.rules {
		if !keys[subject] {
			delete(c.rules, subject)
			continue
		}
		for d := range sides {
			maps.DeleteFunc(sides[d].peers, func(k string, _ *policy.Verdicts) bool { return !keys[k] })
		}
	}
}

// change makes up one change of the kind that a compiler tells in one Delta.
func (w *isolationWorld) change(c *cluster) {
	was := c.keys()
	switch w.rnd.IntN(5) {
	case 0, 1: // policies alone, also many
		w.changeRules(c)
	case 2: // blocks, each of which is another identity, and policies with them
		for range 1 + w.rnd.IntN(3) {
			p := netip.MustParsePrefix(someBlocks[w.rnd.IntN(len(someBlocks))])
			if w.rnd.IntN(3) == 0 {
				delete(c.blocks, p)
			} else {
				c.blocks[p] = w.fresh("block")
			}
		}
		if w.rnd.IntN(2) == 0 {
			w.changeRules(c)
		}
		w.ruleNew(c, was)
	default: // one container gets other labels, comes or goes
		w.changeContainer(c)
		w.ruleNew(c, was)
	}
	prune(c)
}

func (w *isolationWorld) changeRules(c *cluster) {
	for _, k := range slices.Sorted(maps.Keys(c.keys())) {
		if w.rnd.IntN(2) > 0 {
			continue
		}
		if c.rules[k] == nil {
			c.rules[k] = &[2]sideRules{}
		}
		for d := range 2 {
			if w.rnd.IntN(2) == 0 {
				c.rules[k][d] = w.someSide(c)
			}
		}
	}
}

func (w *isolationWorld) changeContainer(c *cluster) {
	all := slices.Concat(localAddrs, remoteAddrs)
	a := all[w.rnd.IntN(len(all))]
	if !w.local[a] && w.rnd.IntN(4) == 0 {
		delete(c.containers, a)
		return
	}
	network := "@" + networkOf(c.containers[a]) // which one was attached with stays
	c.containers[a] = someKeys[w.rnd.IntN(len(someKeys))] + network
	if w.rnd.IntN(3) == 0 {
		c.containers[a] = w.fresh("pod") + network
	}
}

// wire attaches the local containers, as a Loader does.
func (w *isolationWorld) wire() {
	for n, a := range localAddrs {
		c := w.compiler.now
		c.containers[a] = someKeys[n%len(someKeys)] + []string{"@", "@one", "@two", "@one"}[n]
		i := Interface{Name: hostOf(a), Addrs: []netip.Addr{a}}
		w.s.attach(i)
		w.tags[a] = w.s.tagOf(a)
		w.s.attached(i)
	}
}

// changes returns one that says nothing: the fake compiler knows what there is.
func (w *isolationWorld) changes() []registry.Change { return make([]registry.Change, 1) }

// expect notes what probes met before a change and will meet after it, and begins to look.
func (w *isolationWorld) expect() {
	before, after := map[probe]bool{}, map[probe]bool{}
	for _, p := range w.probes {
		before[p] = w.fakeIsolation.judge(p)
		after[p] = w.compiler.now.judge(p, w.local)
	}
	w.lookFor(before, after)
	w.closed = false
	clear(w.raised)
	w.stores = 0
}

// mustHold fails the test unless every probe meets what is desired, and nothing is leaked.
func (w *isolationWorld) mustHold() {
	w.t.Helper()
	w.mustBeWired()
	for _, p := range w.probes {
		if got, want := w.fakeIsolation.judge(p), w.compiler.now.judge(p, w.local); got != want {
			w.t.Fatalf("%v is %t, want %t", p, got, want)
		}
	}
	var d differences
	w.s.check(&d, w.dump())
	for _, diff := range d {
		w.t.Fatalf("check: %s", diff)
	}
}

// mustBeWired compares the two ways to know which interface has an address.
func (w *isolationWorld) mustBeWired() {
	w.t.Helper()
	n := 0
	for name, addrs := range w.s.wiredTo {
		for _, a := range addrs {
			if n++; w.s.wired[a] == nil || w.s.wired[a].name != name {
				w.t.Fatalf("%s is said to be wired to %s: %+v", a, name, w.s.wired[a])
			}
		}
	}
	if n != len(w.s.wired) {
		w.t.Fatalf("%d of %d wired addresses have an interface", n, len(w.s.wired))
	}
}

// mustBeSafe fails the test if a probe passes that must not.
func (w *isolationWorld) mustBeSafe() {
	w.t.Helper()
	for _, p := range w.probes {
		if w.fakeIsolation.judge(p) && !w.compiler.now.judge(p, w.local) {
			w.t.Fatalf("%v passes, and must not", p)
		}
	}
}

// mustHaveRaised fails the test unless the flows of changed verdicts were told, after everything else.
func (w *isolationWorld) mustHaveRaised() {
	w.t.Helper()
	for _, p := range w.probes {
		if w.before[p] == w.after[p] {
			continue
		}
		if w.raised[p.src] == 0 && w.raised[p.dst] == 0 {
			w.t.Fatalf("%v became %t, and no epoch was raised", p, w.after[p])
		}
	}
}

// mustBeTidy fails the test unless the maps hold no more than is needed, when everything has rested.
func (w *isolationWorld) mustBeTidy() {
	w.t.Helper()
	w.clock.t = w.clock.t.Add(time.Minute)
	if err := w.s.retry(); err != nil {
		w.t.Fatal(err)
	}
	c := w.compiler.now
	entries := 0
	for k, sides := range c.rules {
		if c.keys()[k] {
			entries += len(sides[0].peers) + len(sides[1].peers)
		}
	}
	if len(w.policy) != entries || w.s.entries != entries {
		w.t.Fatalf("%d entries of policy, %d counted, want %d", len(w.policy), w.s.entries, entries)
	}
	if got, want := w.s.identities.ids.live(), uint32(len(c.keys())+3); got != want {
		w.t.Fatalf("%d identities, want %d", got, want)
	}
	rulesets := map[uint32]bool{}
	for _, e := range w.policy {
		rulesets[e.Ruleset] = true
	}
	for i := range w.subjects.entries {
		v := w.subject(i)
		rulesets[v.Ingress], rulesets[v.Egress] = true, true
	}
	delete(rulesets, rulesetOpen)
	delete(rulesets, rulesetClosed)
	if got := w.s.rulesets.ids.live(); got != uint32(len(rulesets)+1) {
		w.t.Fatalf("%d rulesets taken, want %d", got, len(rulesets)+1)
	}
	if len(w.s.rulesets.byID) != len(rulesets) {
		w.t.Fatalf("%d rulesets known, want %d", len(w.s.rulesets.byID), len(rulesets))
	}
	used := contentUsed(w.rulesets, w.nodes, slices.Collect(maps.Keys(rulesets)))
	if len(rulesets) == 0 && len(w.s.rulesets.outcomes.byID) > 0 || used["outcomes"] > 0 && len(w.s.rulesets.outcomes.byID) == 0 {
		w.t.Fatalf("%d outcomes", len(w.s.rulesets.outcomes.byID))
	}
	if got := len(w.numbers); got != len(w.s.identities.byNumber)+len(w.s.networks.byNumber)+len(w.s.rulesets.policies.byNumber) {
		w.t.Fatalf("%d numbers", got)
	}
}

func (w *isolationWorld) update() error { return w.s.update(w.changes(), false) }

func wiredWorld(t *testing.T, seed uint64, sizes Sizes) *isolationWorld {
	w := newIsolationWorld(t, seed, sizes)
	w.s.restore(w.dump())
	w.wire()
	if err := w.s.update(w.changes(), true); err != nil {
		t.Fatal(err)
	}
	w.mustHold()
	return w
}

// TestIsolationAgainstModel: between any two stores of any change, each verdict is that of before or that
// of after.
func TestIsolationAgainstModel(t *testing.T) {
	for seed := range uint64(4) {
		w := wiredWorld(t, seed, isolationSizes())
		for range 60 {
			w.clock.t = w.clock.t.Add(time.Duration(w.rnd.IntN(2000)) * time.Millisecond)
			w.change(w.compiler.now)
			w.expect()
			if err := w.update(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if w.closed {
				t.Fatalf("seed %d: closed without need", seed)
			}
			w.mustHold()
			w.mustHaveRaised()
		}
		w.mustBeTidy()
	}
}

// TestIsolationFailsAnywhere lets each store of a change fail in turn: nothing passes that must not, and a
// retry gets there.
func TestIsolationFailsAnywhere(t *testing.T) {
	for seed := range uint64(4) {
		w := wiredWorld(t, seed, isolationSizes())
		for range 60 {
			w.clock.t = w.clock.t.Add(time.Second)
			w.change(w.compiler.now)
			w.expect()
			w.failAt = 1 + w.rnd.IntN(30)
			err := w.update()
			if w.stores < w.failAt && err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			w.mustBeSafe()
			w.failAt = 0
			w.closed = true
			if err := w.s.retry(); err != nil {
				t.Fatalf("seed %d: retry: %v", seed, err)
			}
			w.mustHold()
			w.mustHaveRaised()
		}
		w.mustBeTidy()
	}
}

// TestIsolationKilledAnywhere ends the agent after each store of a change in turn. Its successor reads back
// what there is, keeps it until the snapshot, and gets there; identities keep their numbers.
func TestIsolationKilledAnywhere(t *testing.T) {
	for seed := range uint64(4) {
		w := wiredWorld(t, seed, isolationSizes())
		for range 25 {
			w.clock.t = w.clock.t.Add(time.Second)
			numbers := maps.Clone(w.numbers)
			w.change(w.compiler.now)
			w.expect()
			w.dieAt = 1 + w.rnd.IntN(30)
			w.untilDeath(func() {
				if err := w.update(); err != nil {
					t.Fatal(err)
				}
			})
			w.dieAt = 0
			w.restart()
			for digest, v := range w.numbers {
				if old, was := numbers[digest]; was && old != v {
					t.Fatalf("seed %d: number %d became %d", seed, old.Number, v.Number)
				}
			}
			w.mustHold()
		}
		w.mustBeTidy()
	}
}

// untilDeath calls f until it dies of a store.
func (w *isolationWorld) untilDeath(f func()) {
	defer func() {
		if r := recover(); r != nil && r != errInjected {
			panic(r)
		}
	}()
	f()
}

// restart is what a new agent does with what the old one left.
func (w *isolationWorld) restart() {
	w.t.Helper()
	told := newFakeCompiler()
	told.now = w.compiler.now
	w.compiler = told
	w.start()
	for _, wrong := range w.s.restore(w.dump()) {
		w.t.Fatalf("restore: %v", wrong)
	}
	if err := w.s.update(w.changes(), true); err != nil {
		w.t.Fatal(err)
	}
}

// TestIsolationFull: what finds no room is closed and named, the rest is done, and everything opens again
// when there is room.
func TestIsolationFull(t *testing.T) {
	for name, shrink := range map[string]func(*Sizes){
		"subjects":     func(s *Sizes) { s.Identities = 9 },
		"policy_stats": func(s *Sizes) { s.Policies = 4 },
		"policy":       func(s *Sizes) { s.PolicyEntries = 12 },
		"rulesets":     func(s *Sizes) { s.Rulesets = 8 },
		"port_nodes":   func(s *Sizes) { s.PortNodes = 12 },
		"outcomes":     func(s *Sizes) { s.Outcomes = 8 },
		"prefixes":     func(s *Sizes) { s.Prefixes = 3 },
		"numbers":      func(s *Sizes) { s.Identities = 256 },
	} {
		t.Run(name, func(t *testing.T) {
			sizes := isolationSizes()
			shrink(&sizes)
			for seed := range uint64(2) {
				w := newIsolationWorld(t, seed, sizes)
				if name == "numbers" {
					w.limits.numbers = 10
				}
				w.s.restore(w.dump())
				w.wire()
				full := w.s.update(w.changes(), true) != nil
				for range 25 {
					w.clock.t = w.clock.t.Add(time.Second)
					w.change(w.compiler.now)
					w.expect()
					w.closed = true
					for _, p := range w.probes { // what was closed may open to what it should have been
						w.before[p] = w.before[p] || w.compiler.told.judge(p, w.local)
					}
					err := w.update()
					if err != nil && !errors.Is(err, ErrFull) {
						t.Fatal(err)
					}
					full = full || err != nil
					w.mustBeSafe()
					if err == nil {
						w.mustHold()
					}
				}
				if !full {
					t.Fatalf("seed %d: never full", seed)
				}
				w.makeRoom()
				w.look = false // too much at once
				if err := w.update(); err != nil {
					t.Fatalf("seed %d: with room: %v", seed, err)
				}
				w.mustHold()
				w.mustBeTidy()
			}
		})
	}
}

// makeRoom takes most of the cluster away.
func (w *isolationWorld) makeRoom() {
	c := w.compiler.now
	clear(c.blocks)
	clear(c.rules)
	for _, a := range remoteAddrs {
		delete(c.containers, a)
	}
	one := policy.Outcome{Policy: registry.PolicyID{Name: registry.Name{Namespace: "x", Name: "deny"}}}
	all := []policy.Span{{Last: 65535, Outcome: one}}
	for _, a := range localAddrs {
		c.containers[a] = "red"
	}
	c.rules["red"] = &[2]sideRules{{any: &policy.Verdicts{TCP: all, UDP: all, SCTP: all, Other: one}}}
}
