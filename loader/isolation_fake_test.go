package loader

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// fakeIsolation are tables in memory that look over isolation's shoulder: after each single store they
// judge every probe as a program would, and as one would that read one side now and the other at any
// moment since the generation was raised. They fail when told to.
type fakeIsolation struct {
	isolationMemory
	t     *testing.T
	clock *clock
	grace time.Duration

	numbers  map[numberKey]numberEntry
	policy   map[policyKey]policyEntry
	prefixes map[prefixKey]prefixEntry
	tags     map[netip.Addr]tag
	lengths  [129]int // of prefixes
	limits   struct{ numbers, policy, prefixes int }

	before, after map[probe]bool // verdicts that may be met
	closed        bool           // a probe may also be denied: something failed
	look          bool
	seen          map[sighting]*[2]sights // since the generation was raised
	generations   int
	raised        map[netip.Addr]int
	stores        int // how many there were
	failAt        int // the store that fails, counted from 1; 0: none
	dieAt         int // the store that ends the agent
	failTags      bool
	waits         []int // after how many stores
}

// probe is a packet of a new flow.
type probe struct {
	src, dst netip.Addr
	proto    uint8
	port     uint16
}

// sighting is a probe and what its addresses were when it was judged: a program reads that once.
type sighting struct {
	probe
	src, dst tag
}

// sights are the outcomes that a side had, as one bit for each combination of flags.
type sights uint8

func (s sights) all() iter.Seq[outcome] {
	return func(yield func(outcome) bool) {
		for flags := range uint8(8) {
			if s>>flags&1 != 0 && !yield(outcome{Flags: flags}) {
				return
			}
		}
	}
}

func newFakeIsolation(t *testing.T, s Sizes) *fakeIsolation {
	f := &fakeIsolation{
		t: t, clock: &clock{time.Unix(1, 0)}, grace: 3 * time.Second,
		isolationMemory: isolationMemory{
			subjects: heapMemory(s.Identities, 8), rulesets: heapMemory(s.Rulesets, 16),
			nodes: heapMemory(s.PortNodes, 1024), outcomes: heapMemory(s.Outcomes, 8),
			settings: heapMemory(1, 16),
		},
		numbers: map[numberKey]numberEntry{}, policy: map[policyKey]policyEntry{},
		prefixes: map[prefixKey]prefixEntry{}, tags: map[netip.Addr]tag{},
		raised: map[netip.Addr]int{}, seen: map[sighting]*[2]sights{},
	}
	f.limits.numbers, f.limits.policy, f.limits.prefixes = int(s.numbers()), int(s.PolicyEntries), int(s.Prefixes)
	return f
}

// store counts one store and says whether it is to fail.
func (f *fakeIsolation) store() error {
	f.stores++
	if f.stores == f.dieAt {
		panic(errInjected)
	}
	if f.stores == f.failAt {
		f.closed = true
		return errInjected
	}
	return nil
}

// identityOf returns the identity of an address as programs find it.
func (f *fakeIsolation) identityOf(a netip.Addr) uint32 {
	if t, local := f.tags[a]; local {
		return t.identity
	}
	key := toPrefixKey(hostPrefix(a))
	for length := 128; length >= 0; length-- {
		if f.lengths[length] == 0 {
			continue
		}
		if v, there := f.prefixes[truncate(key, uint32(length))]; there {
			return v.Identity
		}
	}
	return identityWorld
}

// side judges one side of a flow as programs do.
func (f *fakeIsolation) side(subject, peer, direction uint32, p probe) outcome {
	if peer == identityNode {
		return outcome{Flags: outcomeAllow}
	}
	id := f.subject(subject).Ingress
	if direction == directionEgress {
		id = f.subject(subject).Egress
	}
	switch id {
	case rulesetOpen:
		return outcome{Flags: outcomeAllow}
	case rulesetClosed:
		return outcome{}
	}
	if e, there := f.policy[policyKey{Subject: subject, Peer: peer, Direction: direction}]; there {
		id = e.Ruleset
	}
	r := *(*rulesetEntry)(f.rulesets.at(id, 0))
	ref := r.Other
	switch p.proto {
	case 6:
		ref = r.Tcp
	case 17:
		ref = r.Udp
	case 132:
		ref = r.Sctp
	}
	for shift := 8; ref&leaf == 0; shift -= 8 {
		if shift < 0 {
			f.t.Fatalf("ruleset %d: a tree of three levels", id)
		}
		ref = (*portNode)(f.nodes.at(ref, 0)).Refs[p.port>>shift&255]
	}
	return *(*outcome)(f.outcomes.at(ref&^leaf, 0))
}

// sides returns what the two sides of a flow say. What is not here says yes.
func (f *fakeIsolation) sides(p probe) (egress, ingress outcome) {
	egress.Flags, ingress.Flags = outcomeAllow, outcomeAllow
	if src, from := f.tags[p.src]; from {
		egress = f.side(src.identity, f.identityOf(p.dst), directionEgress, p)
	}
	if dst, to := f.tags[p.dst]; to {
		ingress = f.side(dst.identity, f.identityOf(p.src), directionIngress, p)
	}
	return egress, ingress
}

// together returns the verdict that the two sides make.
func (f *fakeIsolation) together(p probe, egress, ingress outcome) bool {
	if egress.Flags&ingress.Flags&outcomeAllow == 0 {
		return false
	}
	one, two := f.tags[p.src].network, f.tags[p.dst].network
	return one == 0 || two == 0 || one == two || (egress.Flags|ingress.Flags)&outcomeJoin != 0
}

// judge returns the verdict on a flow as programs give it.
func (f *fakeIsolation) judge(p probe) bool {
	egress, ingress := f.sides(p)
	return f.together(p, egress, ingress)
}

// lookFor has every store looked at from now on: these are the verdicts that may be met.
func (f *fakeIsolation) lookFor(before, after map[probe]bool) {
	f.before, f.after, f.look = before, after, true
	clear(f.seen)
}

// see judges every probe.
func (f *fakeIsolation) see(what string, args ...any) {
	f.t.Helper()
	if !f.look {
		return
	}
	for p, after := range f.after {
		egress, ingress := f.sides(p)
		before := f.before[p]
		wrong := func(egress, ingress outcome) bool {
			got := f.together(p, egress, ingress)
			return got != before && got != after && (got || !f.closed)
		}
		if wrong(egress, ingress) {
			f.t.Fatalf("after %s: %+v is %t, was %t, is to be %t", fmt.Sprintf(what, args...), p, !before, before, after)
		}
		key := sighting{p, f.tags[p.src], f.tags[p.dst]}
		seen := f.seen[key]
		if seen == nil {
			seen = &[2]sights{}
			f.seen[key] = seen
		}
		for earlier := range seen[directionEgress].all() {
			if wrong(earlier, ingress) {
				f.t.Fatalf("after %s: %+v is neither what it was, %t, nor what it is to be, %t, to who read egress earlier",
					fmt.Sprintf(what, args...), p, before, after)
			}
		}
		for earlier := range seen[directionIngress].all() {
			if wrong(egress, earlier) {
				f.t.Fatalf("after %s: %+v is neither what it was, %t, nor what it is to be, %t, to who read ingress earlier",
					fmt.Sprintf(what, args...), p, before, after)
			}
		}
		seen[directionEgress] |= 1 << egress.Flags
		seen[directionIngress] |= 1 << ingress.Flags
	}
}

func (f *fakeIsolation) raiseGeneration() {
	f.isolationMemory.raiseGeneration()
	f.generations++
	clear(f.seen)
	f.see("raised generation")
}

func (f *fakeIsolation) putNumber(k numberKey, v numberEntry) error {
	if err := f.store(); err != nil {
		return err
	}
	if len(f.numbers) == f.limits.numbers {
		f.closed = true
		return fmt.Errorf("numbers: %w", ErrFull)
	}
	f.numbers[k] = v
	return nil
}

func (f *fakeIsolation) deleteNumber(k numberKey) error {
	if err := f.store(); err != nil {
		return err
	}
	delete(f.numbers, k)
	return nil
}

func (f *fakeIsolation) putOutcome(id uint32, o outcome) error {
	if err := f.store(); err != nil {
		return err
	}
	err := f.isolationMemory.putOutcome(id, o)
	f.see("outcome %d", id)
	return err
}

func (f *fakeIsolation) putNode(id uint32, n *portNode) error {
	if err := f.store(); err != nil {
		return err
	}
	err := f.isolationMemory.putNode(id, n)
	f.see("port node %d", id)
	return err
}

func (f *fakeIsolation) putRuleset(id uint32, r rulesetEntry) error {
	if err := f.store(); err != nil {
		return err
	}
	err := f.isolationMemory.putRuleset(id, r)
	f.see("ruleset %d", id)
	return err
}

func (f *fakeIsolation) resetPolicyStats(uint32) error { return f.store() }

func (f *fakeIsolation) putPolicies(keys []policyKey, values []policyEntry) (int, error) {
	for i, k := range keys {
		if err := f.store(); err != nil {
			return i, err
		}
		if _, there := f.policy[k]; !there && len(f.policy) == f.limits.policy {
			f.closed = true
			return i, fmt.Errorf("policy: %w", ErrFull)
		}
		f.policy[k] = values[i]
		f.see("policy %+v", k)
	}
	return len(keys), nil
}

func (f *fakeIsolation) deletePolicies(keys []policyKey) (int, error) {
	for i, k := range keys {
		if err := f.store(); err != nil {
			return i, err
		}
		delete(f.policy, k)
		f.see("deletion of policy %+v", k)
	}
	return len(keys), nil
}

// numbered says whether an identity has a number.
func (f *fakeIsolation) numbered(identity uint32) bool {
	for _, v := range f.numbers {
		if v.Kind == numberIdentity && v.Number == identity {
			return true
		}
	}
	return false
}

func (f *fakeIsolation) setSubject(identity, direction, ruleset uint32) {
	f.stores++
	if f.stores == f.dieAt {
		panic(errInjected)
	}
	if ruleset == rulesetClosed && identity != identityClosed && f.failAt == 0 && f.numbered(identity) {
		f.closed = true // for want of room
	}
	f.isolationMemory.setSubject(identity, direction, ruleset)
	f.see("subject %d, direction %d: %d", identity, direction, ruleset)
}

func (f *fakeIsolation) putPrefix(k prefixKey, v prefixEntry) error {
	if err := f.store(); err != nil {
		return err
	}
	if _, there := f.prefixes[k]; !there && len(f.prefixes) == f.limits.prefixes {
		f.closed = true
		return fmt.Errorf("prefixes: %w", ErrFull)
	}
	if _, there := f.prefixes[k]; !there {
		f.lengths[k.Length]++
	}
	f.prefixes[k] = v
	f.see("prefix %s", fromPrefixKey(k))
	return nil
}

func (f *fakeIsolation) deletePrefix(k prefixKey) error {
	if err := f.store(); err != nil {
		return err
	}
	if _, there := f.prefixes[k]; there {
		f.lengths[k.Length]--
	}
	delete(f.prefixes, k)
	f.see("deletion of prefix %s", fromPrefixKey(k))
	return nil
}

func (f *fakeIsolation) putTag(a netip.Addr, t tag) error {
	if err := f.store(); err != nil {
		return err
	}
	if f.failTags {
		return errInjected
	}
	f.tags[a] = t
	f.see("tag of %s", a)
	return nil
}

func (f *fakeIsolation) raise(addrs []netip.Addr) {
	for _, a := range addrs {
		f.raised[a] = f.stores
	}
}

func (f *fakeIsolation) wait() error {
	f.waits = append(f.waits, f.stores)
	return f.store()
}

// dump returns what a successor reads back.
func (f *fakeIsolation) dump() isolationDump {
	d := isolationDump{
		numbers: maps.Clone(f.numbers), policy: maps.Clone(f.policy), prefixes: maps.Clone(f.prefixes),
		tags: maps.Clone(f.tags), names: map[netip.Addr]string{}, memory: &f.isolationMemory,
	}
	for a := range f.tags {
		d.names[a] = hostOf(a)
	}
	return d
}

// hostOf is the interface of a container that has one address.
func hostOf(a netip.Addr) string { return "h" + a.String() }

// cluster is what a fake compiler compiles: who has which identity, and what each may do.
type cluster struct {
	containers map[netip.Addr]string // name@network
	blocks     map[netip.Prefix]string
	rules      map[string]*[2]sideRules // by subject
}

// sideRules are one side's verdicts.
type sideRules struct {
	any   *policy.Verdicts
	peers map[string]*policy.Verdicts
}

func newCluster() *cluster {
	return &cluster{
		containers: map[netip.Addr]string{}, blocks: map[netip.Prefix]string{}, rules: map[string]*[2]sideRules{},
	}
}

func (c *cluster) clone() *cluster {
	d := &cluster{maps.Clone(c.containers), maps.Clone(c.blocks), map[string]*[2]sideRules{}}
	for subject, sides := range c.rules {
		d.rules[subject] = &[2]sideRules{
			{sides[0].any, maps.Clone(sides[0].peers)}, {sides[1].any, maps.Clone(sides[1].peers)},
		}
	}
	return d
}

// keys returns the identities that there are.
func (c *cluster) keys() map[string]bool {
	keys := map[string]bool{}
	for _, k := range c.containers {
		keys[k] = true
	}
	for _, k := range c.blocks {
		keys[k] = true
	}
	return keys
}

// of returns the identity of an address; "": the world.
func (c *cluster) of(a netip.Addr) string {
	if k, is := c.containers[a]; is {
		return k
	}
	best, bits := "", -1
	for p, k := range c.blocks {
		if p.Contains(a) && p.Bits() > bits {
			best, bits = k, p.Bits()
		}
	}
	return best
}

// networkOf returns the network of a container's identity.
func networkOf(key string) string {
	_, network, _ := strings.Cut(key, "@")
	return network
}

// judge returns the verdict on a flow by the slow, obvious way.
func (c *cluster) judge(p probe, local map[netip.Addr]bool) bool {
	side := func(subject, peer string, d registry.Direction) policy.Outcome {
		sides := c.rules[subject]
		if sides == nil || sides[d].any == nil {
			return policy.Outcome{Allow: true}
		}
		v := sides[d].peers[peer]
		if v == nil {
			v = sides[d].any
		}
		spans := map[uint8][]policy.Span{6: v.TCP, 17: v.UDP, 132: v.SCTP}[p.proto]
		for _, s := range spans {
			if p.port <= s.Last {
				return s.Outcome
			}
		}
		return v.Other
	}
	src, dst := c.of(p.src), c.of(p.dst)
	e, i := policy.Outcome{Allow: true}, policy.Outcome{Allow: true}
	if local[p.src] {
		e = side(src, dst, registry.Egress)
	}
	if local[p.dst] {
		i = side(dst, src, registry.Ingress)
	}
	if !e.Allow || !i.Allow {
		return false
	}
	a, b := networkOf(src), networkOf(dst)
	if local[p.src] && local[p.dst] && a != "" && b != "" && a != b {
		return e.Join || i.Join
	}
	return true
}

// fakeCompiler tells the difference between the cluster that it told last and the one it has now.
type fakeCompiler struct {
	now, told *cluster
	ids       map[string]policy.ID
	last      policy.ID
}

func newFakeCompiler() *fakeCompiler {
	return &fakeCompiler{newCluster(), newCluster(), map[string]policy.ID{"": policy.World}, policy.First}
}

func (c *fakeCompiler) Apply([]registry.Change, bool) []policy.Delta {
	return []policy.Delta{c.delta()}
}
func (c *fakeCompiler) Attach(registry.Endpoint) policy.Delta   { return c.delta() }
func (c *fakeCompiler) Detach(registry.EndpointID) policy.Delta { return c.delta() }
func (c *fakeCompiler) Lookup(a netip.Addr) policy.Identity {
	return policy.Identity{ID: c.ids[c.now.of(a)]}
}
func (c *fakeCompiler) Owner(netip.Addr) (registry.Endpoint, bool) { return registry.Endpoint{}, false }
func (c *fakeCompiler) Rules(subject policy.ID, d registry.Direction) policy.Rules {
	r := policy.Rules{Subject: subject, Direction: d, Set: map[policy.ID]*policy.Verdicts{}}
	for key, sides := range c.now.rules {
		if c.ids[key] != subject {
			continue
		}
		r.Default = sides[d].any
		for peer, v := range sides[d].peers {
			r.Set[c.ids[peer]] = v
		}
	}
	return r
}

func (c *fakeCompiler) Explain(policy.ID, registry.Direction, policy.ID, uint8, uint16) []policy.Reason {
	return nil
}

func (c *fakeCompiler) delta() (d policy.Delta) {
	is, was := c.now.keys(), c.told.keys()
	for k := range is {
		if !was[k] {
			c.last++
			c.ids[k] = c.last
			w := &policy.Workload{Namespace: k, Network: networkOf(k)}
			d.New = append(d.New, policy.Identity{ID: c.last, Key: k, Workload: w})
		}
	}
	gone := map[string]bool{}
	for k := range was {
		if !is[k] {
			gone[k] = true
			d.Gone = append(d.Gone, c.ids[k])
		}
	}
	for k := range is {
		for dir := range 2 {
			if r, changed := c.rules(k, dir, gone); changed {
				d.Rules = append(d.Rules, r)
			}
		}
	}
	for a, k := range c.now.containers {
		if c.told.containers[a] != k {
			d.Addresses = append(d.Addresses, policy.AddressChange{Addr: a, Identity: c.ids[k]})
		}
	}
	for a := range c.told.containers {
		if _, is := c.now.containers[a]; !is {
			d.Addresses = append(d.Addresses, policy.AddressChange{Addr: a})
		}
	}
	for p, k := range c.now.blocks {
		if c.told.blocks[p] != k {
			d.Blocks = append(d.Blocks, policy.BlockChange{Block: p, Identity: c.ids[k]})
		}
	}
	for p := range c.told.blocks {
		if _, is := c.now.blocks[p]; !is {
			d.Blocks = append(d.Blocks, policy.BlockChange{Block: p})
		}
	}
	c.told = c.now.clone()
	return d
}

func (c *fakeCompiler) rules(subject string, dir int, gone map[string]bool) (r policy.Rules, changed bool) {
	var now, told sideRules
	if s := c.now.rules[subject]; s != nil {
		now = s[dir]
	}
	if s := c.told.rules[subject]; s != nil {
		told = s[dir]
	}
	r = policy.Rules{
		Subject: c.ids[subject], Direction: registry.Direction(dir), Default: now.any,
		DefaultChanged: now.any != told.any, Set: map[policy.ID]*policy.Verdicts{},
	}
	for peer, v := range now.peers {
		if told.peers[peer] != v {
			r.Set[c.ids[peer]] = v
		}
	}
	for peer := range told.peers {
		if _, is := now.peers[peer]; !is {
			if gone[peer] {
				r.Gone = append(r.Gone, c.ids[peer])
			} else {
				r.Removed = append(r.Removed, c.ids[peer])
			}
		}
	}
	return r, r.DefaultChanged || len(r.Set)+len(r.Removed)+len(r.Gone) > 0
}
