package loader

import (
	"fmt"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// ruleset is one entry of map rulesets. Equal content is there once.
type ruleset struct {
	id      uint32
	entry   rulesetEntry
	content *content
	refs    int // entries of policy and subjects, and plans, that lead to it
}

// special says whether it is RULESET_OPEN or RULESET_CLOSED, which are no entries.
func (r *ruleset) special() bool { return r.id < rulesetFirst }

// pooled is one entry of port_nodes or outcomes.
type pooled[K comparable] struct {
	id   uint32
	key  K
	refs int
}

// pool is one of these maps, by content.
type pool[K comparable] struct {
	ids   *idAllocator
	byKey map[K]*pooled[K]
	byID  map[uint32]*pooled[K]
}

func newPool[K comparable](name string, limit uint32, grace time.Duration, now func() time.Time) pool[K] {
	return pool[K]{newIDAllocator(name, limit, grace, now), map[K]*pooled[K]{}, map[uint32]*pooled[K]{}}
}

// rulesetPool keeps the maps rulesets, port_nodes and outcomes. Each entry is written when it is first
// needed, before anything leads to it, and is never changed while something does.
type rulesetPool struct {
	tables   isolationTables
	policies *numberer
	names    map[uint32]registry.PolicyID // by number, of those that are known
	idle     map[uint32]struct{}          // numbers that no outcome leads to any more

	open, closed *ruleset // RULESET_OPEN, RULESET_CLOSED

	outcomes pool[outcome]
	nodes    pool[[256]uint32]
	ids      *idAllocator
	byEntry  map[rulesetEntry]*ruleset
	byID     map[uint32]*ruleset
}

func newRulesetPool(t isolationTables, policies *numberer, s Sizes, grace time.Duration, now func() time.Time) *rulesetPool {
	p := &rulesetPool{
		tables: t, policies: policies, names: map[uint32]registry.PolicyID{}, idle: map[uint32]struct{}{},
		open:     &ruleset{id: rulesetOpen, content: everything(outcome{Flags: outcomeAllow})},
		closed:   &ruleset{id: rulesetClosed, content: everything(outcome{})},
		outcomes: newPool[outcome]("outcomes", s.Outcomes, grace, now),
		nodes:    newPool[[256]uint32]("port_nodes", s.PortNodes, grace, now),
		ids:      newIDAllocator("rulesets", s.Rulesets, grace, now),
		byEntry:  map[rulesetEntry]*ruleset{}, byID: map[uint32]*ruleset{},
	}
	// RULESET_OPEN and RULESET_CLOSED are no entries.
	if err := p.ids.restore(rulesetClosed); err != nil {
		panic(err)
	}
	return p
}

// refsOf returns the references of an entry in the order of content.ports, other last.
func refsOf(e rulesetEntry) [4]uint32 { return [4]uint32{e.Tcp, e.Udp, e.Sctp, e.Other} }

// number returns the number of the policy that an outcome names; 0: it names none.
func (p *rulesetPool) number(o policy.Outcome) (uint32, error) {
	if o.Policy == (registry.PolicyID{}) {
		return 0, nil
	}
	n, err := p.policies.get(o.Policy.String(), p.tables.resetPolicyStats)
	if err != nil {
		return 0, err
	}
	p.names[n.number] = o.Policy
	if n.refs == 0 {
		p.idle[n.number] = struct{}{}
	}
	return n.number, nil
}

// internVerdicts returns the ruleset that says what the verdicts say, and takes a reference to it.
func (p *rulesetPool) internVerdicts(v *policy.Verdicts) (*ruleset, error) {
	c, err := contentOf(v, p.number)
	if err != nil {
		return nil, err
	}
	return p.intern(c)
}

// intern returns the ruleset of a content, and takes a reference to it.
func (p *rulesetPool) intern(c *content) (_ *ruleset, err error) {
	var held []uint32 // until the ruleset has references of its own
	defer func() {
		for _, ref := range held {
			p.releaseRef(ref)
		}
	}()
	hold := func(ref uint32, err error) (uint32, error) {
		if err == nil {
			held = append(held, ref)
		}
		return ref, err
	}
	var e rulesetEntry
	for i, field := range []*uint32{&e.Tcp, &e.Udp, &e.Sctp} {
		if *field, err = p.portsRef(c.ports[i], hold); err != nil {
			return nil, err
		}
	}
	if e.Other, err = hold(p.outcomeRef(c.other)); err != nil {
		return nil, err
	}
	r := p.byEntry[e]
	if r == nil {
		id, err := p.ids.alloc()
		if err != nil {
			return nil, err
		}
		if err := p.tables.putRuleset(id, e); err != nil {
			p.ids.cancel(id)
			return nil, err
		}
		r = p.add(id, e, c)
	}
	r.refs++
	return r, nil
}

// add keeps a ruleset that is in the map, without a reference to it.
func (p *rulesetPool) add(id uint32, e rulesetEntry, c *content) *ruleset {
	r := &ruleset{id: id, entry: e, content: c}
	p.byID[id] = r
	if p.byEntry[e] == nil {
		p.byEntry[e] = r
	}
	for _, ref := range refsOf(e) {
		p.retainRef(ref)
	}
	return r
}

// release gives back a reference to a ruleset.
func (p *rulesetPool) release(r *ruleset) {
	if r == nil || r.special() {
		return
	}
	if r.refs--; r.refs > 0 {
		return
	}
	if p.byEntry[r.entry] == r {
		delete(p.byEntry, r.entry)
	}
	delete(p.byID, r.id)
	p.ids.free(r.id)
	for _, ref := range refsOf(r.entry) {
		p.releaseRef(ref)
	}
}

// portsRef returns the reference for the ports of one protocol, as the kernel finds them: a leaf where
// all agree.
func (p *rulesetPool) portsRef(spans []span, hold func(uint32, error) (uint32, error)) (uint32, error) {
	if len(spans) == 1 {
		return hold(p.outcomeRef(spans[0].outcome))
	}
	var high, low [256]uint32
	i := 0
	ref, err := hold(p.outcomeRef(spans[0].outcome))
	at := func(port int) uint32 {
		for err == nil && port > int(spans[i].last) {
			i++
			ref, err = hold(p.outcomeRef(spans[i].outcome))
		}
		return ref
	}
	for h := range 256 {
		high[h] = at(h << 8)
		if int(spans[i].last) >= h<<8|255 {
			continue
		}
		for l := range 256 {
			low[l] = at(h<<8 | l)
		}
		if err == nil {
			high[h], err = hold(p.nodeRef(low))
		}
	}
	if err != nil {
		return 0, err
	}
	return hold(p.nodeRef(high))
}

// outcomeRef returns the reference to an outcome, and takes it.
func (p *rulesetPool) outcomeRef(o outcome) (uint32, error) {
	e := p.outcomes.byKey[o]
	if e == nil {
		id, err := p.outcomes.ids.alloc()
		if err != nil {
			return 0, err
		}
		if err := p.tables.putOutcome(id, o); err != nil {
			p.outcomes.ids.cancel(id)
			return 0, err
		}
		e = p.addOutcome(id, o)
	}
	e.refs++
	return e.id | leaf, nil
}

func (p *rulesetPool) addOutcome(id uint32, o outcome) *pooled[outcome] {
	e := &pooled[outcome]{id: id, key: o}
	p.outcomes.byID[id] = e
	if p.outcomes.byKey[o] == nil {
		p.outcomes.byKey[o] = e
	}
	if n := p.policies.byNumber[o.Policy]; n != nil {
		n.refs++
		delete(p.idle, n.number)
	}
	return e
}

// nodeRef returns the reference to a node, and takes it.
func (p *rulesetPool) nodeRef(refs [256]uint32) (uint32, error) {
	e := p.nodes.byKey[refs]
	if e == nil {
		id, err := p.nodes.ids.alloc()
		if err != nil {
			return 0, err
		}
		if err := p.tables.putNode(id, &portNode{Refs: refs}); err != nil {
			p.nodes.ids.cancel(id)
			return 0, err
		}
		e = p.addNode(id, refs)
	}
	e.refs++
	return e.id, nil
}

func (p *rulesetPool) addNode(id uint32, refs [256]uint32) *pooled[[256]uint32] {
	e := &pooled[[256]uint32]{id: id, key: refs}
	p.nodes.byID[id] = e
	if p.nodes.byKey[refs] == nil {
		p.nodes.byKey[refs] = e
	}
	for ref := range distinct(refs) {
		p.retainRef(ref)
	}
	return e
}

// distinct returns the different references of a node.
func distinct(refs [256]uint32) map[uint32]struct{} {
	d := map[uint32]struct{}{}
	for _, ref := range refs {
		d[ref] = struct{}{}
	}
	return d
}

// retainRef takes a reference to what is there.
func (p *rulesetPool) retainRef(ref uint32) {
	if ref&leaf != 0 {
		p.outcomes.byID[ref&^leaf].refs++
		return
	}
	p.nodes.byID[ref].refs++
}

func (p *rulesetPool) releaseRef(ref uint32) {
	if ref&leaf != 0 {
		e := p.outcomes.byID[ref&^leaf]
		if e.refs--; e.refs > 0 {
			return
		}
		if p.outcomes.byKey[e.key] == e {
			delete(p.outcomes.byKey, e.key)
		}
		delete(p.outcomes.byID, e.id)
		p.outcomes.ids.free(e.id)
		if n := p.policies.byNumber[e.key.Policy]; n != nil {
			if n.refs--; n.refs == 0 {
				p.idle[n.number] = struct{}{}
			}
		}
		return
	}
	e := p.nodes.byID[ref]
	if e.refs--; e.refs > 0 {
		return
	}
	if p.nodes.byKey[e.key] == e {
		delete(p.nodes.byKey, e.key)
	}
	delete(p.nodes.byID, e.id)
	p.nodes.ids.free(e.id)
	for child := range distinct(e.key) {
		p.releaseRef(child)
	}
}

// dropIdle takes the numbers of policies back that nothing leads to, but for those that are to be kept.
func (p *rulesetPool) dropIdle(keep map[registry.PolicyID]struct{}) error {
	for id := range p.idle {
		n := p.policies.byNumber[id]
		if n == nil || n.refs > 0 {
			delete(p.idle, id)
			continue
		}
		if _, kept := keep[p.names[id]]; kept {
			delete(p.idle, id) // until its policy goes
			continue
		}
		if err := p.policies.drop(n); err != nil {
			return fmt.Errorf("free the number of policy %s: %w", p.names[id], err)
		}
		delete(p.idle, id)
		delete(p.names, id)
	}
	return nil
}

// endRest ends the rest of all entries: no program that could still read them is running.
func (p *rulesetPool) endRest() {
	p.ids.rest.end()
	p.nodes.ids.rest.end()
	p.outcomes.ids.rest.end()
	p.policies.ids.rest.end()
}

// resting is how many entries are at rest.
func (p *rulesetPool) resting() int {
	return len(p.ids.rest.queue) + len(p.nodes.ids.rest.queue) + len(p.outcomes.ids.rest.queue) +
		len(p.policies.ids.rest.queue)
}
