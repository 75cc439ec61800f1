package policy

import (
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// calculation works out the verdicts of one side. Peers that the same rules match are alike: they are
// found in one walk over what the rules choose, and judged once. Its storage is used again.
type calculation struct {
	subject  *workload
	d        int
	rules    []hit // of all policies, the named ports not resolved yet
	everyone []int // those of rules that are about everyone
	named    bool  // a rule names ports
	hits     hits
	steps    []step
	next     map[step]int
	done     map[class]*Verdicts
	met      []*identity
	mark     uint64 // of identities that are in met
	table    *verdictTable
}

// step leads to the set of rules that match a peer: one rule more than its parent. The first one
// is the empty set.
type step struct {
	parent, rule int
	joins        bool
}

// class is what peers are alike in: the rules that match them, and the ports that they name.
type class struct {
	step  int
	ports string
}

func (c *calculation) start(e *Engine, w *workload, d int) {
	c.subject, c.d, c.table = w, d, &e.verdicts
	c.rules, c.everyone = c.rules[:0], c.everyone[:0]
	c.steps, c.met = append(c.steps[:0], step{rule: -1}), c.met[:0]
	if len(c.next) > 1024 {
		c.next = map[step]int{} // to clear a large one takes long even when it is empty again
	}
	clear(c.next)
	clear(c.done)
	c.mark++
	c.named = false
	c.hits.closers, c.hits.audited = [2]*policy{}, false
	for _, p := range w.sides[d].policies {
		c.addPolicy(p)
	}
}

func (c *calculation) addPolicy(p *policy) {
	if p.Tier == registry.TierNamespaced {
		if c.hits.closers[all] == nil {
			c.hits.closers[all] = p
		}
		if c.hits.closers[enforced] == nil && !p.Audit {
			c.hits.closers[enforced] = p
		}
	}
	c.hits.audited = c.hits.audited || p.Audit
	for i := range p.sides[c.d].rules {
		r := &p.sides[c.d].rules[i]
		h := hit{policy: p, rule: r, index: i}
		if !r.ports.all {
			h.ports = &r.ports.numbers
			c.named = c.named || len(r.ports.named) > 0
		}
		if r.everyone {
			c.everyone = append(c.everyone, len(c.rules))
		}
		c.rules = append(c.rules, h)
	}
}

// common works out what all peers have in common: the Default, nil without policies, and who closes
// the subject.
func (c *calculation) common() (def *Verdicts, closers [2]registry.PolicyID) {
	for i, p := range c.hits.closers {
		if p != nil {
			closers[i] = p.PolicyID
		}
	}
	if len(c.subject.sides[c.d].policies) > 0 {
		def = c.verdicts(0, nil)
	}
	return def, closers
}

// meet puts a peer on the list, as one that no rule matches, unless it is there.
func (c *calculation) meet(q *identity) {
	if q.mark != c.mark {
		q.mark, q.step = c.mark, 0
		c.met = append(c.met, q)
	}
}

// enumerate classifies all peers that may have verdicts of their own, as far as they are met: meet is
// called for each before.
func (c *calculation) enumerate(meet func(*identity)) {
	for i := range c.rules {
		r := c.rules[i].rule
		for _, p := range r.peers {
			p.each(func(q *identity) {
				meet(q)
				if q.mark == c.mark && p.holds(c.subject, q) {
					c.advance(q, i, p.joins)
				}
			})
		}
		for _, x := range r.receivers {
			x.each(meet)
		}
	}
}

// classifyMet classifies the peers that are met: by what they are to each rule, or what each rule is to
// all peers, whichever is less.
func (c *calculation) classifyMet() {
	choices := 0
	for i := range c.rules {
		for _, p := range c.rules[i].rule.peers {
			choices += len(p.workloads) + len(p.identities)
		}
	}
	if choices < len(c.met)*len(c.rules) {
		c.enumerate(func(*identity) {})
		return
	}
	for _, q := range c.met {
		q.step = c.classify(q)
	}
}

// advance notes that a rule matches a peer, by another of the rule's peers perhaps than one before.
func (c *calculation) advance(q *identity, rule int, joins bool) {
	at := c.steps[q.step]
	if at.rule != rule {
		q.step = c.child(step{q.step, rule, joins})
	} else if joins && !at.joins {
		q.step = c.child(step{at.parent, rule, true})
	}
}

func (c *calculation) child(n step) int {
	if last := len(c.steps) - 1; c.steps[last] == n {
		return last
	}
	i, ok := c.next[n]
	if !ok {
		i = len(c.steps)
		c.steps = append(c.steps, n)
		c.next[n] = i
	}
	return i
}

// classify returns the step to the rules that match a peer.
func (c *calculation) classify(q *identity) int {
	at := 0
	for i := range c.rules {
		is, joins := false, false
		for _, p := range c.rules[i].rule.peers {
			if p.chooses(q) && p.holds(c.subject, q) {
				is, joins = true, joins || p.joins
			}
		}
		if is {
			at = c.child(step{at, i, joins})
		}
	}
	return at
}

// verdicts judges a peer, nil for whoever no rule chooses, that the rules of a node match.
func (c *calculation) verdicts(at int, q *identity) *Verdicts {
	k := class{step: at}
	var ports []registry.EndpointPort
	if c.d == int(registry.Ingress) {
		ports = c.subject.Ports
	} else if c.named && q != nil && q.workload != nil {
		k.ports, ports = q.workload.portsKey, q.workload.Ports
	}
	if v := c.done[k]; v != nil {
		return v
	}
	c.collect(at, ports)
	v := c.table.intern(c.hits.verdicts())
	c.done[k] = v
	return v
}

// collect lists the rules of a step, and those about everyone, in the order in which they are asked.
// ports are those of who receives.
func (c *calculation) collect(at int, ports []registry.EndpointPort) {
	c.hits.rules = c.hits.rules[:0]
	take := func(rule int, joins bool) {
		h := c.rules[rule]
		h.joins = joins
		if h.ports != nil {
			h.ports = h.rule.ports.resolve(ports)
		}
		c.hits.rules = append(c.hits.rules, h)
	}
	everyone := len(c.everyone)
	for ; at != 0; at = c.steps[at].parent { // the last rule comes first
		for ; everyone > 0 && c.everyone[everyone-1] > c.steps[at].rule; everyone-- {
			take(c.everyone[everyone-1], false)
		}
		take(c.steps[at].rule, c.steps[at].joins)
	}
	for ; everyone > 0; everyone-- {
		take(c.everyone[everyone-1], false)
	}
	slices.Reverse(c.hits.rules)
}
