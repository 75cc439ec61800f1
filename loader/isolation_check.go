package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// isolationCheck compares the maps of isolation with what the compiler says.
type isolationCheck struct {
	*differences
	*isolation
	maps   isolationDump
	reader contentReader
}

func (l *Loader) checkIsolation(d *differences) error {
	maps, err := l.dumpIsolation(nil)
	if err != nil {
		return err
	}
	l.isolation.check(d, maps)
	return nil
}

// check compares what was read from the maps with what should be there.
func (s *isolation) check(d *differences, maps isolationDump) {
	c := isolationCheck{d, s, maps, contentReader{s.rulesets, maps.memory, s.rulesets.policies}}
	c.checkNumbers()
	c.checkSides()
	c.checkPrefixes()
	for a, w := range s.wired {
		t, i, _, err := s.tagFor(a)
		switch {
		case err != nil:
			d.add("endpoint "+a.String(), "is closed: %s", err)
		case i.id != s.engine.Lookup(a).ID:
			d.add("endpoint "+a.String(), "is taken for %s instead of %s", i, s.find(s.engine.Lookup(a).ID))
		case t != w.held:
			d.add("endpoint "+a.String(), "has identity %d of network %d, and should have %d of %d",
				w.held.identity, w.held.network, t.identity, t.network)
		}
	}
}

// checkNumbers compares map numbers with the numbers in use.
func (c *isolationCheck) checkNumbers() {
	known := 0
	for _, n := range []*numberer{c.identities, c.networks, c.rulesets.policies} {
		for digest, v := range n.byDigest {
			known++
			if got := c.maps.numbers[digest]; got.Number != v.number || got.Kind != n.kind {
				c.add(fmt.Sprintf("number %d", v.number), "is number %d of kind %d in map numbers, and should be of kind %d",
					got.Number, got.Kind, n.kind)
			}
		}
	}
	if len(c.maps.numbers) != known {
		c.add("map numbers", "has %d entries instead of %d", len(c.maps.numbers), known)
	}
	if got := c.maps.memory.subject(identityClosed); got != (subject{Ingress: rulesetClosed, Egress: rulesetClosed}) {
		c.add("identity 3", "is not closed in map subjects")
	}
}

// checkSides compares maps subjects and policy, and the rulesets that they lead to.
func (c *isolationCheck) checkSides() {
	entries := map[policyKey]bool{} // that should be there
	for _, i := range c.byDigest {
		if i.leaves() || i.num == nil {
			continue // found no number: whoever has it is closed
		}
		for d := range i.sides {
			c.checkSide(&i.sides[d], entries)
		}
	}
	for key := range c.maps.policy {
		owner, peer := c.byNumber(key.Subject), c.byNumber(key.Peer)
		if entries[key] || owner != nil && owner.leaves() || peer != nil && peer.leaves() {
			continue
		}
		c.add(fmt.Sprintf("policy of identity %d for %d", key.Subject, key.Peer), "is in map policy, but should not be")
	}
}

func (c *isolationCheck) checkSide(s *side, entries map[policyKey]bool) {
	if err := c.failedSides[s]; err != nil {
		c.add(s.String(), "is closed: %s", err)
		return
	}
	want := c.engine.Rules(s.owner.id, registry.Direction(s.direction))
	v := c.maps.memory.subject(s.owner.number())
	got := v.Ingress
	if s.direction == directionEgress {
		got = v.Egress
	}
	c.compare(s.String(), "everyone else", got, want.Default)
	if want.Default == nil {
		return
	}
	for id, verdicts := range want.Set {
		peer := c.find(id)
		key := policyKey{Subject: s.owner.number(), Peer: peer.number(), Direction: s.direction}
		entries[key] = true
		e, there := c.maps.policy[key]
		if !there {
			c.add(s.String(), "has no entry in map policy for %s", peer)
			continue
		}
		c.compare(s.String(), peer.String(), e.Ruleset, verdicts)
	}
}

// compare compares a ruleset in the maps with verdicts.
func (c *isolationCheck) compare(side, peer string, id uint32, want *policy.Verdicts) {
	if id < rulesetFirst || want == nil {
		if id != rulesetOpen || want != nil {
			c.add(side, "has ruleset %d for %s, and should be open: %t", id, peer, want == nil)
		}
		return
	}
	expected, err := contentOf(want, func(o policy.Outcome) (uint32, error) {
		if o.Policy == (registry.PolicyID{}) {
			return 0, nil
		}
		if n := c.rulesets.policies.byDigest[digestOf(numberPolicy, o.Policy.String())]; n != nil {
			return n.number, nil
		}
		return 0, fmt.Errorf("policy %s has no number", o.Policy)
	})
	if err != nil {
		c.add(side, "for %s: %s", peer, err)
		return
	}
	got, _, err := c.reader.read(id)
	if err != nil {
		c.add(side, "for %s: %s", peer, err)
		return
	}
	if !got.equal(expected) {
		c.add(side, "does not say of %s what the policies say", peer)
	}
}

// checkPrefixes compares map prefixes.
func (c *isolationCheck) checkPrefixes() {
	wanted := map[prefixKey]bool{}
	look := func(key prefixKey) {
		want := c.wantPrefix(key)
		if want == nil || wanted[key] {
			return
		}
		wanted[key] = true
		name := fromPrefixKey(key).String()
		// Of a container here, who it is stands in endpoints, and a block of just its address beside it.
		_, own := c.nodeAddrs[key]
		if p := fromPrefixKey(key); p.IsSingleIP() && !own && c.wired[p.Addr()] == nil {
			if id := c.engine.Lookup(p.Addr()).ID; id != want.id {
				c.add("prefix "+name, "is taken for %s instead of %s", want, c.find(id))
			}
		}
		number := want.number()
		if number == 0 {
			number = identityClosed
		}
		if got, there := c.maps.prefixes[key]; !there || got.Identity != number {
			c.add("prefix "+name, "has identity %d in map prefixes instead of %d", got.Identity, number)
		}
		if err := c.dirtyPrefixes[key]; err != nil {
			c.add("prefix "+name, "could not be written: %s", err)
		}
	}
	for key := range c.blocks {
		look(key)
	}
	for key := range c.nodeAddrs {
		look(key)
	}
	look(everyIPv4())
	for a := range c.addresses {
		look(toPrefixKey(hostPrefix(a)))
	}
	for key := range c.maps.prefixes {
		if !wanted[key] {
			c.add("prefix "+fromPrefixKey(key).String(), "is in map prefixes, but should not be")
		}
	}
}

// dumpIsolation reads the maps of isolation.
func (l *Loader) dumpIsolation(tags map[netip.Addr]tag) (isolationDump, error) {
	d := isolationDump{
		numbers: map[numberKey]numberEntry{}, policy: map[policyKey]policyEntry{},
		prefixes: map[prefixKey]prefixEntry{}, tags: tags, names: l.endpoints.owner,
		memory: &l.policy.isolationMemory,
	}
	return d, errors.Join(
		readInto(d.numbers, l.maps.get(sockMapNumbers)),
		readInto(d.policy, l.maps.get(sockMapPolicy)),
		readInto(d.prefixes, l.maps.get(sockMapPrefixes)),
	)
}
