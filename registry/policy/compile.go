package policy

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// policy is a registry.Policy with its selectors found.
type policy struct {
	*registry.Policy
	subject *selector
	sides   [2]policySide  // by direction
	blocks  []netip.Prefix // that it names
}

// policySide is what a policy says in one direction.
type policySide struct {
	concerns bool // it closes its subjects, or has rules
	rules    []rule
	peers    []*selector // of all rules
}

// rule is a registry.Rule with its selectors found.
type rule struct {
	registry.Rule
	everyone bool // it has no peers: it matches whoever it is
	peers    []peer
	ports    portSet
	// receivers choose those to whom a port's name means something, of an egress rule about everyone.
	receivers []*selector
}

// peer is one of the peers of a rule. It joins networks when it requires a value of
// NetworkLabel.
type peer struct {
	*selector
	joins bool
}

// blocksOf returns the blocks that a policy names in the directions that it concerns.
func blocksOf(p *registry.Policy) []netip.Prefix {
	var list []netip.Prefix
	for _, d := range []registry.Direction{registry.Ingress, registry.Egress} {
		if !p.Concerns(d) {
			continue
		}
		rules := p.Rules(d)
		for i := range rules {
			for _, peer := range rules[i].Peers {
				if peer.Block == nil {
					continue
				}
				if _, ok := normal(peer.Block.CIDR); ok {
					list = append(append(list, peer.Block.CIDR), peer.Block.Except...)
				}
			}
		}
	}
	return normalAll(list)
}

// compile finds the selectors of a policy, whose blocks are held already.
func (e *Engine) compile(source *registry.Policy) *policy {
	p := &policy{Policy: source, blocks: blocksOf(source)}
	subject := registry.PodSelector{Namespaces: source.Subject.Namespaces, Pods: source.Subject.Pods}
	if source.Tier == registry.TierNamespaced {
		subject.Namespaces = nil
	}
	p.subject = e.intern(labelSelector(source, &subject))
	p.subject.subjectOf[p] = struct{}{}
	for d := range p.sides {
		dir := registry.Direction(d)
		side := &p.sides[d]
		if side.concerns = source.Concerns(dir); !side.concerns {
			continue
		}
		for _, r := range source.Rules(dir) {
			side.rules = append(side.rules, e.compileRule(p, dir, r))
		}
	}
	return p
}

func (e *Engine) compileRule(p *policy, d registry.Direction, source registry.Rule) rule {
	r := rule{Rule: source, ports: newPortSet(source.Ports)}
	if p.Tier == registry.TierNamespaced {
		r.Action, r.everyone = registry.Allow, len(source.Peers) == 0
	}
	use := func(x *selector) *selector {
		x = e.intern(x)
		if in := x.peerOf[p]; !in.has(d) {
			x.peerOf[p] = in | 1<<d
			p.sides[d].peers = append(p.sides[d].peers, x)
		}
		return x
	}
	for _, from := range source.Peers {
		if from.Pods != nil {
			joins := from.Pods.Pods.Requires(registry.NetworkLabel)
			r.peers = append(r.peers, peer{use(labelSelector(p.Policy, from.Pods)), joins})
		} else if from.Block != nil {
			if x := e.blockSelector(from.Block); x != nil {
				r.peers = append(r.peers, peer{use(x), false})
			}
		}
	}
	if r.everyone && d == registry.Egress {
		for _, port := range r.ports.named {
			r.receivers = append(r.receivers, use(portSelector(port)))
		}
	}
	return r
}

// order compares policies by when they are asked: by tier, then priority, then name.
func (p *policy) order(o *policy) int {
	return cmp.Or(cmp.Compare(rank(p.Tier), rank(o.Tier)), cmp.Compare(p.Priority, o.Priority),
		registry.CompareNames(p.Name, o.Name))
}

func rank(t registry.Tier) int {
	switch t {
	case registry.TierAdmin:
		return 0
	case registry.TierNamespaced:
		return 1
	}
	return 2
}

// setPolicy puts a policy in the place of the one of that id; either may be nil.
func (e *Engine) setPolicy(id registry.PolicyID, source *registry.Policy) {
	old := e.policies[id]
	var now *policy
	if source != nil {
		now = e.compile(source)
		e.policies[id] = now
	} else {
		delete(e.policies, id)
	}
	if old != nil {
		for w := range old.subject.workloads {
			if now != nil && now.subject == old.subject {
				e.replaceSubject(old, now, w)
			} else {
				e.removeSubject(old, w)
			}
		}
	}
	if now != nil && (old == nil || old.subject != now.subject) {
		for w := range now.subject.workloads {
			e.addSubject(now, w)
		}
	}
	if old != nil {
		e.unuse(old)
	}
}

// unuse gives back the selectors of a policy.
func (e *Engine) unuse(p *policy) {
	delete(p.subject.subjectOf, p)
	e.release(p.subject)
	for d := range p.sides {
		for _, x := range p.sides[d].peers {
			delete(x.peerOf, p)
		}
	}
	for d := range p.sides {
		for _, x := range p.sides[d].peers {
			e.release(x)
		}
	}
}

// addSubject makes a policy count for a workload, removeSubject no longer, replaceSubject in place of
// another one with the same subjects.
func (e *Engine) addSubject(p *policy, w *workload) {
	for d := range p.sides {
		if p.sides[d].concerns {
			w.sides[d].add(p)
			e.policyChanged(w, d, p, p.sides[d].hasEveryone())
		}
	}
}

func (e *Engine) removeSubject(p *policy, w *workload) {
	for d := range p.sides {
		if p.sides[d].concerns {
			w.sides[d].remove(p)
			e.policyChanged(w, d, p, p.sides[d].hasEveryone())
		}
	}
}

func (e *Engine) replaceSubject(old, now *policy, w *workload) {
	for d := range now.sides {
		from, to := &old.sides[d], &now.sides[d]
		everyone := (from.hasEveryone() || to.hasEveryone()) &&
			(old.Audit != now.Audit || !reflect.DeepEqual(from.everyoneRules(), to.everyoneRules()))
		if from.concerns {
			w.sides[d].remove(old)
			e.policyChanged(w, d, old, everyone)
		}
		if to.concerns {
			w.sides[d].add(now)
			e.policyChanged(w, d, now, everyone)
		}
	}
}

// policyChanged makes the verdicts be worked out again to which a policy of a subject matters: those of
// its peers, or all of them when it has rules about everyone.
func (e *Engine) policyChanged(w *workload, d int, p *policy, everyone bool) {
	side := e.dirtySide(w, d)
	side.policies = true
	side.full = side.full || everyone
	for _, x := range p.sides[d].peers {
		put(&side.selectors, x)
	}
}

func (s *policySide) hasEveryone() bool {
	return slices.ContainsFunc(s.rules, func(r rule) bool { return r.everyone })
}

func (s *policySide) everyoneRules() []registry.Rule {
	var list []registry.Rule
	for i := range s.rules {
		if s.rules[i].everyone {
			list = append(list, s.rules[i].Rule)
		}
	}
	return list
}
