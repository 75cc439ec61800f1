package loader

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// isolationDump is what a predecessor left in the maps.
type isolationDump struct {
	numbers  map[numberKey]numberEntry
	policy   map[policyKey]policyEntry
	prefixes map[prefixKey]prefixEntry
	tags     map[netip.Addr]tag    // of wired addresses
	names    map[netip.Addr]string // of their interfaces
	memory   *isolationMemory
}

// restore takes over what a predecessor left. Nothing of it changes before the first snapshot, except that
// what is unsound is closed. It returns what it found wrong, for the log.
//
// The caller has waited until every program that was running when the predecessor died is over.
func (s *isolation) restore(d isolationDump) (wrong []error) {
	s.tables.setSubject(identityClosed, directionIngress, rulesetClosed)
	s.tables.setSubject(identityClosed, directionEgress, rulesetClosed)
	s.raiseAll = true
	found := func(err error) {
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	byNumber := s.restoreNumbers(d.numbers, found)
	c := contentReader{pool: s.rulesets, memory: d.memory, policies: s.rulesets.policies}
	for n, i := range byNumber {
		v := d.memory.subject(n)
		s.restoreAny(&c, &i.sides[directionIngress], v.Ingress, found)
		s.restoreAny(&c, &i.sides[directionEgress], v.Egress, found)
	}
	byNumber[identityWorld], byNumber[identityNode], byNumber[identityClosed] = s.world, s.self, s.closed
	for key, v := range d.policy {
		s.restoreCell(&c, byNumber, key, v.Ruleset, found)
	}
	for key, v := range d.prefixes {
		i := byNumber[v.Identity]
		if i == nil {
			found(fmt.Errorf("prefix %s has identity %d, which is none", fromPrefixKey(key), v.Identity))
			if err := s.tables.putPrefix(key, prefixEntry{Identity: identityClosed}); err != nil {
				found(err)
			}
			i = s.closed
		}
		s.holdPrefix(key, i)
	}
	for a, t := range d.tags {
		s.wire(a, d.names[a])
		found(s.restoreTag(byNumber, a, t))
	}
	for id, n := range s.rulesets.policies.byNumber {
		if n.refs == 0 {
			s.rulesets.idle[id] = struct{}{}
		}
	}
	return wrong
}

// restoreNumbers takes over the numbers, and returns the identities among them.
func (s *isolation) restoreNumbers(numbers map[numberKey]numberEntry, found func(error)) map[uint32]*identity {
	byNumber := map[uint32]*identity{}
	for digest, v := range numbers {
		n := map[uint32]*numberer{
			numberIdentity: s.identities, numberNetwork: s.networks, numberPolicy: s.rulesets.policies,
		}[v.Kind]
		err := fmt.Errorf("number %x is of kind %d, which is none", digest.Digest, v.Kind)
		if n != nil {
			err = n.restore(digest, v.Number)
		}
		if err != nil {
			found(err)
			// Whoever has the name gets another number.
			if err := s.tables.deleteNumber(digest); err != nil {
				found(err)
			}
			continue
		}
		if v.Kind == numberIdentity {
			i := s.newIdentity(digest)
			i.num, i.restored = n.byDigest[digest], true
			byNumber[v.Number] = i
		}
	}
	return byNumber
}

func (s *isolation) restoreAny(c *contentReader, side *side, id uint32, found func(error)) {
	r, err := c.ruleset(id)
	if err != nil {
		found(fmt.Errorf("%s: %w", side, err))
		r = s.rulesets.closed
		s.tables.setSubject(side.owner.number(), side.direction, rulesetClosed)
	}
	s.holdAny(side, r)
}

// restoreCell takes over an entry of policy. One that leads nowhere goes, and its side is closed until it
// is as desired.
func (s *isolation) restoreCell(c *contentReader, byNumber map[uint32]*identity, key policyKey, id uint32, found func(error)) {
	owner, peer := byNumber[key.Subject], byNumber[key.Peer]
	var r *ruleset
	err := fmt.Errorf("no such identities or direction")
	known := owner != nil && owner.fixed == 0 && peer != nil && key.Direction <= directionEgress
	if known {
		if r, err = c.ruleset(id); err == nil && r.special() {
			err = fmt.Errorf("ruleset %d is no entry", id)
		}
	}
	if err == nil {
		s.hold(&owner.sides[key.Direction], peer, r)
		return
	}
	found(fmt.Errorf("policy of identity %d for %d, direction %d: %w", key.Subject, key.Peer, key.Direction, err))
	if known {
		side := &owner.sides[key.Direction]
		s.tables.setSubject(key.Subject, key.Direction, rulesetClosed)
		s.holdAny(side, s.rulesets.closed)
	}
	if _, err := s.tables.deletePolicies([]policyKey{key}); err != nil {
		found(err)
	}
}

// restoreTag takes over the identity of a wired address. Endpoints that were written before there were
// identities have none: they stay open until the first snapshot.
func (s *isolation) restoreTag(byNumber map[uint32]*identity, a netip.Addr, t tag) error {
	i, net := byNumber[t.identity], s.networks.byNumber[t.network]
	if i != nil && (net != nil || t.network == 0) || t == (tag{}) {
		s.setTag(a, t, i, net)
		return nil
	}
	err := fmt.Errorf("endpoint %s has identity %d of network %d, which are none", a, t.identity, t.network)
	t = tag{identity: identityClosed}
	if failed := s.tables.putTag(a, t); failed != nil {
		return fmt.Errorf("%w; %w", err, failed)
	}
	s.setTag(a, t, s.closed, nil)
	return err
}

// adopt gives containers that only a predecessor knew of an identity: that of a container that nothing is
// known of, until someone tells. Had the predecessor known more than that, so that other rules may have
// held for it, it is closed until then.
func (s *isolation) adopt() {
	byName := map[string][]netip.Addr{}
	for a, w := range s.wired {
		if s.addresses[a] == nil {
			byName[w.name] = append(byName[w.name], a)
		}
	}
	for name, addrs := range byName {
		slices.SortFunc(addrs, netip.Addr.Compare)
		e := Interface{Name: name, Addrs: addrs}.toRegistry(s.node)
		s.holds[name] = e.EndpointID
		s.merge(s.engine.Attach(e))
		for _, a := range addrs {
			w := s.wired[a]
			s.strangers[a] = name
			w.lost = w.held != (tag{}) && (w.net != nil || w.identity != s.addresses[a])
		}
	}
}

// release lets the compiler forget what adopt told it of containers that the registry tells of now.
func (s *isolation) release(changes []registry.Change) {
	if len(s.strangers) == 0 {
		return
	}
	for _, c := range changes {
		if c.Endpoint == nil || c.Deleted {
			continue
		}
		for _, a := range c.Endpoint.Addresses {
			name, strange := s.strangers[a.Unmap()]
			if !strange {
				continue
			}
			s.merge(s.engine.Detach(s.holds[name]))
			delete(s.holds, name)
			for a, other := range s.strangers {
				if other == name {
					s.know(a)
				}
			}
		}
	}
}

// know notes that somebody tells of an address.
func (s *isolation) know(a netip.Addr) {
	delete(s.strangers, a)
	if w := s.wired[a]; w != nil && w.lost {
		w.lost = false
		due(s.dirtyAddrs, a)
	}
}

// reconcile makes everything due that a predecessor left: the first snapshot has told what should be.
func (s *isolation) reconcile() {
	s.synced, s.inherited, s.raiseAll = true, true, true
	for _, i := range s.byDigest {
		i.restored = false
		if i.id == policy.None && !i.leaves() {
			s.leave(i)
			continue
		}
		for d := range i.sides {
			i.sides[d].all = true
			s.touchSide(&i.sides[d])
		}
	}
	for a := range s.wired {
		due(s.dirtyAddrs, a)
	}
	for key := range s.prefixes {
		s.touchPrefix(key)
	}
	for _, n := range s.networks.byNumber {
		s.dropNetwork(n)
	}
}

// contentReader finds out what the rulesets of a predecessor say.
type contentReader struct {
	pool     *rulesetPool
	memory   *isolationMemory
	policies *numberer
}

// ruleset takes over a ruleset that an entry leads to, with what it leads to itself.
func (c *contentReader) ruleset(id uint32) (*ruleset, error) {
	switch {
	case id == rulesetOpen:
		return c.pool.open, nil
	case id == rulesetClosed:
		return c.pool.closed, nil
	case c.pool.byID[id] != nil:
		return c.pool.byID[id], nil
	}
	out, e, err := c.read(id)
	if err != nil {
		return nil, err
	}
	if err := c.pool.ids.restore(id); err != nil {
		return nil, err
	}
	for _, ref := range refsOf(e) {
		c.take(ref)
	}
	return c.pool.add(id, e, out), nil
}

// read returns what a ruleset says, and its entry. Nothing is taken.
func (c *contentReader) read(id uint32) (*content, rulesetEntry, error) {
	if id >= c.memory.rulesets.entries {
		return nil, rulesetEntry{}, fmt.Errorf("ruleset %d is beyond the map's %d", id, c.memory.rulesets.entries)
	}
	e := *(*rulesetEntry)(c.memory.rulesets.at(id, 0))
	out := &content{}
	for p, ref := range refsOf(e) {
		err := c.check(ref, 0)
		if err == nil && p == 3 && ref&leaf == 0 {
			err = fmt.Errorf("its protocols without ports lead to node %d", ref)
		}
		if err != nil {
			return nil, e, fmt.Errorf("ruleset %d: %w", id, err)
		}
		if p == 3 {
			out.other = c.outcome(ref)
			continue
		}
		for port := 0; port < 65536; {
			o, next := c.at(ref, port)
			out.ports[p] = appendSpan(out.ports[p], uint16(next-1), o)
			port = next
		}
	}
	return out, e, nil
}

// check says what is unsound about a reference. Nothing is taken.
func (c *contentReader) check(ref uint32, depth int) error {
	if ref&leaf != 0 {
		id := ref &^ leaf
		if id == 0 || id >= c.memory.outcomes.entries {
			return fmt.Errorf("outcome %d is none", id)
		}
		o := c.outcome(ref)
		if o.Policy != 0 && c.policies.byNumber[o.Policy] == nil {
			return fmt.Errorf("outcome %d is of policy %d, which is none", id, o.Policy)
		}
		return nil
	}
	if ref == 0 || ref >= c.memory.nodes.entries || depth > 1 {
		return fmt.Errorf("port node %d is none", ref)
	}
	for child := range distinct(c.refs(ref)) {
		if err := c.check(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (c *contentReader) outcome(ref uint32) outcome {
	return *(*outcome)(c.memory.outcomes.at(ref&^leaf, 0))
}

func (c *contentReader) refs(node uint32) [256]uint32 {
	return (*portNode)(c.memory.nodes.at(node, 0)).Refs
}

// take restores what a sound reference leads to, unless it was already.
func (c *contentReader) take(ref uint32) {
	if ref&leaf != 0 {
		if id := ref &^ leaf; c.pool.outcomes.byID[id] == nil && c.pool.outcomes.ids.restore(id) == nil {
			c.pool.addOutcome(id, c.outcome(ref))
		}
		return
	}
	if c.pool.nodes.byID[ref] != nil {
		return
	}
	refs := c.refs(ref)
	for child := range distinct(refs) {
		c.take(child)
	}
	if c.pool.nodes.ids.restore(ref) == nil {
		c.pool.addNode(ref, refs)
	}
}

// at returns the outcome for a port, and the first port that it may not hold for.
func (c *contentReader) at(ref uint32, port int) (outcome, int) {
	if ref&leaf != 0 {
		return c.outcome(ref), 65536
	}
	if ref = c.refs(ref)[port>>8]; ref&leaf != 0 {
		return c.outcome(ref), port | 255 + 1
	}
	return c.outcome(c.refs(ref)[port&255]), port + 1
}
