package loader

import (
	"errors"
	"net/netip"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// compiler tells what changes mean for isolation. policy.Engine is one.
type compiler interface {
	Apply(changes []registry.Change, snapshot bool) []policy.Delta
	Attach(registry.Endpoint) policy.Delta
	Detach(registry.EndpointID) policy.Delta
	Lookup(netip.Addr) policy.Identity
	Owner(netip.Addr) (registry.Endpoint, bool)
	Rules(subject policy.ID, d registry.Direction) policy.Rules
	Explain(subject policy.ID, d registry.Direction, peer policy.ID, proto uint8, port uint16) []policy.Reason
}

// isolation keeps the maps of policies equal to what the compiler says. It knows what they hold, so that
// the work is proportional to what changed. It is not safe for concurrent use.
//
// A program that judges a flow reads the identities of both ends, and then of each end that is a
// container here its entry for the other, or what it says of everyone without an entry. The verdict on a
// pair of addresses is what the two sides say together. Whoever looks at any moment must find the verdict
// of before a change or that of after; and so must who looks at one side earlier than at the other. So a
// change is made in this order:
//
//  1. identities, policies and networks get numbers, rulesets are written  (nothing leads there yet)
//  2. entries of and for identities that no address has yet
//  3. addresses move to these                                              (prefixes: the longest first)
//  4. entries between identities in use: see steps
//  5. addresses move to identities in use; prefixes go, the shortest first
//  6. epochs are raised: of whoever is judged by other rules or another identity now
//  7. identities without addresses go, after a rest: their entries, then their numbers
//
// A longer prefix comes before a shorter one around it, and goes after it: the other way round its
// addresses would for a moment be the shorter one's.
//
// Of each subject and direction, entries for peers are written, then what holds for everyone else, then
// entries are removed. Before each such step the generation is raised, by which a program finds out that
// one side it read is older than the step: within a step, no two moments of the two sides say together
// what they say neither before nor after. Of what could not be written completely, everything is closed
// (RULESET_CLOSED) until it could; its entries go, to make room for others.
type isolation struct {
	tables isolationTables
	engine compiler
	node   string // name of this node
	grace  time.Duration
	now    func() time.Time
	synced bool // a snapshot has arrived: what the compiler says is all there is

	identities, networks *numberer
	rulesets             *rulesetPool
	policies             map[registry.PolicyID]struct{} // that the registry has

	world, self, closed *identity // IDENTITY_WORLD, _NODE and _CLOSED
	byID                map[policy.ID]*identity
	byDigest            map[numberKey]*identity
	leaving             []*identity // without id; they go when nothing leads there any more
	locals              map[*identity]struct{}

	// Desired:
	addresses map[netip.Addr]*identity // of containers, here and elsewhere
	blocks    map[prefixKey]*identity
	nodeAddrs map[prefixKey]struct{} // that this node was seen to have
	// Held:
	prefixes map[prefixKey]*identity
	wired    map[netip.Addr]*wiredAddr // containers' addresses of this node
	wiredTo  map[string][]netip.Addr   // the same, by the name of the interface

	// What may differ between desired and held. With an error: it was tried.
	dirtySides    map[*side]struct{}
	failedSides   map[*side]error
	dirtyAddrs    map[netip.Addr]error
	dirtyPrefixes map[prefixKey]error
	unnumbered    map[*identity]error // identities that have no number, or should not be any more

	holds     map[string]registry.EndpointID // by interface, what the compiler was told to hold
	strangers map[netip.Addr]string          // interfaces that only a predecessor knew, by address
	lengths   [129]int                       // entries of prefixes, by length
	entries   int                            // of policy
	raiseAll  bool                           // a predecessor may have died before it raised epochs
	inherited bool                           // the maps are as a predecessor left them, and are to change now
	reapErr   error
}

// wiredAddr is an address of a container here.
type wiredAddr struct {
	name     string    // of the interface
	inMaps   bool      // map endpoints has it
	lost     bool      // it had an identity, of which nobody tells any more: it is closed
	held     tag       // as in map endpoints
	identity *identity // that held leads to; nil: none
	net      *numbered // that held leads to; nil: none
}

func newIsolation(t isolationTables, engine compiler, node string, s Sizes, grace time.Duration, now func() time.Time) *isolation {
	policies := newNumberer(numberPolicy, t, "policy_stats", s.Policies, grace, now)
	i := &isolation{
		tables: t, engine: engine, node: node, grace: grace, now: now,
		identities: newNumberer(numberIdentity, t, "subjects", s.Identities, grace, now),
		networks:   newNumberer(numberNetwork, t, "numbers", s.Endpoints+1, grace, now),
		rulesets:   newRulesetPool(t, policies, s, grace, now),
		policies:   map[registry.PolicyID]struct{}{},
		world:      fixedIdentity(identityWorld, policy.World),
		self:       fixedIdentity(identityNode, policy.Node),
		closed:     fixedIdentity(identityClosed, policy.None),
		byDigest:   map[numberKey]*identity{},
		locals:     map[*identity]struct{}{},
		addresses:  map[netip.Addr]*identity{},
		blocks:     map[prefixKey]*identity{}, nodeAddrs: map[prefixKey]struct{}{},
		prefixes:   map[prefixKey]*identity{},
		wired:      map[netip.Addr]*wiredAddr{},
		wiredTo:    map[string][]netip.Addr{},
		dirtySides: map[*side]struct{}{}, failedSides: map[*side]error{},
		dirtyAddrs: map[netip.Addr]error{}, dirtyPrefixes: map[prefixKey]error{},
		unnumbered: map[*identity]error{},
		holds:      map[string]registry.EndpointID{}, strangers: map[netip.Addr]string{},
	}
	i.byID = map[policy.ID]*identity{policy.World: i.world, policy.Node: i.self}
	for _, fixed := range []*identity{i.world, i.self, i.closed} {
		// Their numbers are nobody else's; a new allocator has them.
		if err := i.identities.ids.restore(fixed.fixed); err != nil {
			panic(err)
		}
	}
	i.dirtyPrefixes[everyIPv4()] = nil
	return i
}

// update merges changes and brings the maps there. On error the rest is done all the same; what is left
// is tried again by retry, or when something else makes room.
func (s *isolation) update(changes []registry.Change, snapshot bool) error {
	if len(changes) == 0 && !snapshot {
		return s.incomplete()
	}
	s.notePolicies(changes, snapshot)
	s.release(changes)
	deltas := s.engine.Apply(changes, snapshot)
	if snapshot && !s.synced {
		// What a predecessor left is compared with all of it at once.
		s.merge(deltas...)
		s.adopt()
		s.reconcile()
		return s.run()
	}
	return s.run(deltas...)
}

// run carries out Deltas one after the other, and what is due besides.
func (s *isolation) run(deltas ...policy.Delta) error {
	for i, d := range deltas {
		s.merge(d)
		if i < len(deltas)-1 {
			s.runPass(false)
		}
	}
	if freed := s.runPass(false); freed && s.pending() || s.crowded() {
		return s.retry()
	}
	return s.incomplete()
}

// retry works off what earlier changes left.
func (s *isolation) retry() error {
	for s.pending() && s.runPass(true) {
		// Something made room. Each round removes entries or opens what was closed, so this ends.
	}
	if s.crowded() {
		if err := s.endRest(); err != nil {
			return errors.Join(err, s.incomplete())
		}
		s.runPass(true)
	} else {
		s.reap(false)
	}
	return s.incomplete()
}

// pending says whether something is to be tried again.
func (s *isolation) pending() bool {
	return len(s.failedSides)+len(s.unnumbered)+len(s.dirtyAddrs)+len(s.dirtyPrefixes) > 0
}
