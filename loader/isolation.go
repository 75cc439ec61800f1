package loader

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
	Rules(subject policy.ID, d registry.Direction) policy.Rules
	Explain(subject policy.ID, d registry.Direction, peer policy.ID, proto uint8, port uint16) []policy.Reason
}

// isolation keeps the maps of policies equal to what the compiler says. It knows what they hold, so that
// the work is proportional to what changed. It is not safe for concurrent use.
//
// A program that judges a flow reads the identities of both ends, and then of each end that is a
// container here its entry for the other, or what it says of everyone without an entry. The verdict on a
// pair of addresses is what the two sides say together. Whoever looks at any moment must find the verdict
// of before a change or that of after. So a change is made in this order:
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
// entries are removed. Of what could not be written completely, everything is closed (RULESET_CLOSED)
// until it could; its entries go, to make room for others.
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
	fixed     map[prefixKey]*identity // addresses that every node has
	// Held:
	prefixes map[prefixKey]*identity
	wired    map[netip.Addr]*wiredAddr // containers' addresses of this node

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
	reapErr   error
}

// identity is one identity of the compiler's, or one that a predecessor or an earlier state left.
type identity struct {
	id      policy.ID // 0: the compiler does not know it
	info    policy.Identity
	digest  numberKey
	fixed   uint32                  // number of an identity that always is
	num     *numbered               // of the others; nil: none could be had
	sides   [2]side                 // by enum direction
	addrs   map[netip.Addr]struct{} // of containers here that have it in the maps
	blocks  int                     // entries of prefixes that lead here
	holders map[*side]struct{}      // that have a cell for it
	since   time.Time               // when it began to leave
	// restored: a predecessor's rules stay as they are until the first snapshot.
	restored bool
}

// wiredAddr is an address of a container here.
type wiredAddr struct {
	name     string            // of the interface
	endpoint registry.Endpoint // as far as it is known
	inMaps   bool              // map endpoints has it
	held     tag               // as in map endpoints
	identity *identity         // that held leads to; nil: none
	net      *numbered         // that held leads to; nil: none
}

// side is what an identity may send or receive.
type side struct {
	owner     *identity
	direction uint32
	want      *policy.Verdicts // for peers without an entry; nil: everything is open
	cells     map[*identity]cell
	any       *ruleset // held; nil: unknown
	dirty     map[*identity]struct{}
	all       bool // every cell is dirty
}

// cell is what a side says of one peer.
type cell struct {
	want *policy.Verdicts // nil: no entry
	held *ruleset         // nil: no entry
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
		blocks:     map[prefixKey]*identity{}, fixed: map[prefixKey]*identity{},
		prefixes:   map[prefixKey]*identity{},
		wired:      map[netip.Addr]*wiredAddr{},
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
	for _, a := range []string{gatewayV4, gatewayV6, hairpinV6} {
		key := toPrefixKey(hostPrefix(netip.MustParseAddr(a)))
		i.fixed[key], i.dirtyPrefixes[key] = i.self, nil
	}
	i.dirtyPrefixes[everyIPv4()] = nil
	return i
}

// fixedIdentity returns one that always is. It has no rules.
func fixedIdentity(number uint32, id policy.ID) *identity {
	return &identity{
		id: id, info: policy.Identity{ID: id}, fixed: number,
		addrs: map[netip.Addr]struct{}{}, holders: map[*side]struct{}{},
	}
}

func (s *isolation) newIdentity(digest numberKey) *identity {
	i := fixedIdentity(0, policy.None)
	i.digest = digest
	for d := range i.sides {
		i.sides[d] = side{
			owner: i, direction: uint32(d),
			cells: map[*identity]cell{}, dirty: map[*identity]struct{}{},
		}
	}
	s.byDigest[digest] = i
	return i
}

// number returns what the maps call the identity; 0: it has no number.
func (i *identity) number() uint32 {
	if i.num != nil {
		return i.num.number
	}
	return i.fixed
}

// used says whether an address leads here.
func (i *identity) used() bool { return i.fixed != 0 || len(i.addrs)+i.blocks > 0 }

func (i *identity) leaves() bool { return !i.since.IsZero() }

// String names an identity for people.
func (i *identity) String() string {
	w := i.info.Workload
	if w == nil {
		if len(i.info.Blocks) > 0 {
			return fmt.Sprint(i.info.Blocks)
		}
		return fmt.Sprintf("identity %d", i.number())
	}
	labels := make([]string, 0, len(w.Labels))
	for k, v := range w.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	return w.Namespace + "{" + strings.Join(labels, ",") + "}"
}

func (s *side) String() string {
	return fmt.Sprintf("%s of %s", registry.Direction(s.direction), s.owner)
}

func compareSides(a, b *side) int {
	return cmp.Or(cmp.Compare(a.owner.number(), b.owner.number()), cmp.Compare(a.direction, b.direction))
}

// held returns the ruleset by which the maps judge a peer.
func (s *side) held(peer *identity) *ruleset {
	if s.any == nil || s.any.special() {
		return s.any
	}
	if c := s.cells[peer]; c.held != nil {
		return c.held
	}
	return s.any
}

// update merges changes and brings the maps there. On error the rest is done all the same; what is left
// is tried again by retry, or when something else makes room.
func (s *isolation) update(changes []registry.Change, snapshot bool) error {
	if len(changes) == 0 && !snapshot {
		return s.incomplete()
	}
	s.notePolicies(changes, snapshot)
	s.noteEndpoints(changes)
	deltas := s.engine.Apply(changes, snapshot)
	if snapshot && !s.synced {
		// What a predecessor left is compared with all of it at once.
		s.merge(deltas...)
		s.adopt()
		s.reconcile()
		return s.run()
	}
	return s.run(append(deltas, s.release(changes)...)...)
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

// noteEndpoints remembers what the registry says of the containers here.
func (s *isolation) noteEndpoints(changes []registry.Change) {
	for _, c := range changes {
		if c.Endpoint == nil || c.Deleted {
			continue
		}
		for _, a := range c.Endpoint.Addresses {
			if w := s.wired[a.Unmap()]; w != nil && w.endpoint.Network != c.Endpoint.Network {
				s.dirtyAddrs[a.Unmap()] = s.dirtyAddrs[a.Unmap()]
			}
			if w := s.wired[a.Unmap()]; w != nil {
				w.endpoint = *c.Endpoint
			}
		}
	}
}

// notePolicies keeps the numbers of policies that there are, also while no entry leads to them: their
// counts are not to begin anew.
func (s *isolation) notePolicies(changes []registry.Change, snapshot bool) {
	pool := s.rulesets
	number := func(id registry.PolicyID) *numbered {
		return pool.policies.byDigest[digestOf(numberPolicy, id.String())]
	}
	if snapshot {
		clear(s.policies)
		for id := range pool.policies.byNumber {
			pool.idle[id] = struct{}{}
		}
	}
	for _, c := range changes {
		switch {
		case c.Policy == nil:
		case c.Deleted:
			delete(s.policies, c.Policy.PolicyID)
			if n := number(c.Policy.PolicyID); n != nil {
				pool.idle[n.number] = struct{}{}
			}
		default:
			s.policies[c.Policy.PolicyID] = struct{}{}
			if n := number(c.Policy.PolicyID); n != nil {
				pool.names[n.number] = c.Policy.PolicyID
			}
		}
	}
}

// merge takes Deltas into what is desired.
func (s *isolation) merge(deltas ...policy.Delta) {
	for _, d := range deltas {
		for _, info := range d.New {
			s.welcome(info)
		}
		gone := map[policy.ID]bool{}
		for _, id := range d.Gone {
			gone[id] = true
		}
		for _, r := range d.Rules {
			s.mergeRules(r, gone)
		}
		for _, c := range d.Addresses {
			s.mergeAddress(c)
		}
		for _, c := range d.Blocks {
			key := toPrefixKey(c.Block)
			if c.Identity == policy.None {
				delete(s.blocks, key)
			} else {
				s.blocks[key] = s.find(c.Identity)
			}
			s.touchPrefix(key)
		}
		for _, id := range d.Gone {
			if i := s.byID[id]; i != nil {
				delete(s.byID, id)
				s.leave(i)
			}
		}
	}
}

// find returns an identity that the compiler named. Should it never have told of it, it is closed.
func (s *isolation) find(id policy.ID) *identity {
	if i := s.byID[id]; i != nil {
		return i
	}
	return s.closed
}

// welcome makes an identity known. One that was on its way out, or that a predecessor left, keeps its
// number, and those of its entries that are right.
func (s *isolation) welcome(info policy.Identity) {
	digest := digestOf(numberIdentity, info.Key)
	i := s.byDigest[digest]
	if i == nil {
		i = s.newIdentity(digest)
		s.unnumbered[i] = nil
	}
	if i.leaves() {
		s.leaving = slices.DeleteFunc(s.leaving, func(o *identity) bool { return o == i })
		i.since = time.Time{}
		if i.num == nil {
			s.unnumbered[i] = nil
		}
	}
	i.id, i.info = info.ID, info
	s.byID[info.ID] = i
	for holder := range i.holders {
		holder.set(i, cell{held: holder.cells[i].held})
		holder.dirty[i] = struct{}{}
		s.touchSide(holder)
	}
	for d := range i.sides {
		side := &i.sides[d]
		side.want, side.all = nil, true
		for peer, c := range side.cells {
			side.set(peer, cell{held: c.held})
		}
		s.touchSide(side)
	}
}

// set changes a cell, and forgets it when there is nothing in it.
func (s *side) set(peer *identity, c cell) {
	if c == (cell{}) {
		delete(s.cells, peer)
		delete(peer.holders, s)
		return
	}
	s.cells[peer] = c
	peer.holders[s] = struct{}{}
}

func (s *isolation) touchSide(side *side) { s.dirtySides[side] = struct{}{} }

func (s *isolation) touchPrefix(key prefixKey) {
	s.dirtyPrefixes[key] = s.dirtyPrefixes[key]
}

func (s *isolation) mergeRules(r policy.Rules, gone map[policy.ID]bool) {
	owner := s.find(r.Subject)
	if owner.fixed != 0 {
		return // these have no rules
	}
	side := &owner.sides[r.Direction]
	s.touchSide(side)
	change := func(id policy.ID, want *policy.Verdicts) {
		peer := s.find(id)
		c := side.cells[peer]
		c.want = want
		side.set(peer, c)
		side.dirty[peer] = struct{}{}
	}
	if r.DefaultChanged {
		side.want = r.Default
		if r.Default == nil {
			for peer, c := range side.cells {
				side.set(peer, cell{held: c.held})
				side.dirty[peer] = struct{}{}
			}
		}
	}
	for id, want := range r.Set {
		change(id, want)
	}
	for _, id := range r.Removed {
		if !gone[id] { // these entries go with the identity
			change(id, nil)
		}
	}
}

func (s *isolation) mergeAddress(c policy.AddressChange) {
	a := c.Addr.Unmap()
	if c.Identity == policy.None {
		delete(s.addresses, a)
	} else {
		s.addresses[a] = s.find(c.Identity)
	}
	if s.wired[a] != nil {
		s.dirtyAddrs[a] = s.dirtyAddrs[a]
	}
	s.touchPrefix(toPrefixKey(hostPrefix(a)))
}

// leave lets an identity go when nothing leads there any more.
func (s *isolation) leave(i *identity) {
	i.id, i.since = 0, s.now()
	delete(s.unnumbered, i)
	s.leaving = append(s.leaving, i)
}

// incomplete returns an error that names what is closed, or otherwise not as it should be; or nil.
func (s *isolation) incomplete() error {
	closed, why := s.closedIdentities()
	var errs []error
	if closed > 0 {
		errs = append(errs, fmt.Errorf("isolation: %d identities are closed: %w", closed, why))
	}
	for key, err := range s.dirtyPrefixes {
		if err != nil {
			errs = append(errs, fmt.Errorf("isolation: identity of %s: %w", fromPrefixKey(key), err))
			break
		}
	}
	for a, err := range s.dirtyAddrs {
		if err != nil {
			errs = append(errs, fmt.Errorf("isolation: identity of %s: %w", a, err))
			break
		}
	}
	if s.reapErr != nil {
		errs = append(errs, fmt.Errorf("isolation: remove an identity: %w", s.reapErr))
	}
	return errors.Join(errs...)
}

// closedIdentities counts the identities that are closed, in one direction at least, because something
// could not be written, and tells why for the first.
func (s *isolation) closedIdentities() (n int, why error) {
	closed := map[*identity]error{}
	for side, err := range s.failedSides {
		if closed[side.owner] == nil || side.direction == directionIngress {
			closed[side.owner] = fmt.Errorf("%s: %w", side, err)
		}
	}
	for i, err := range s.unnumbered {
		if err != nil {
			closed[i] = fmt.Errorf("%s: %w", i, err)
		}
	}
	var first *identity
	for i := range closed {
		if first == nil || cmp.Or(cmp.Compare(i.number(), first.number()), strings.Compare(i.String(), first.String())) < 0 {
			first = i
		}
	}
	return len(closed), closed[first]
}

// eachError visits why what failed did.
func (s *isolation) eachError(visit func(error)) {
	for _, err := range s.failedSides {
		visit(err)
	}
	for _, err := range s.unnumbered {
		visit(err)
	}
	for _, err := range s.dirtyAddrs {
		visit(err)
	}
	for _, err := range s.dirtyPrefixes {
		visit(err)
	}
}

// troubles counts what failed.
func (s *isolation) troubles() (n int) {
	s.eachError(func(err error) {
		if err != nil {
			n++
		}
	})
	return n
}

// isFull says whether something found no room.
func (s *isolation) isFull() (full bool) {
	s.eachError(func(err error) { full = full || errors.Is(err, ErrFull) })
	return full
}
