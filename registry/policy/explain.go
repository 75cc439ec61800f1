package policy

import (
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// Reason is one policy's part in a verdict.
type Reason struct {
	Policy registry.PolicyID
	// Rule is the rule that matches, from 0; -1: the policy selects the subject and closes it.
	Rule   int
	Action registry.Action // what the rule says; Deny for Rule -1
	Audit  bool            // the policy is in audit mode
}

// Explain returns the policies that a verdict comes from, those that decide first: the rules that match
// and the policies that close the subject. proto may be any IP protocol.
//
// The first one that is not in audit mode and does not Pass is the verdict; without one it is allowed.
// Those that count only together with the policies in audit mode come last.
func (e *Engine) Explain(subject ID, d registry.Direction, peer ID, proto uint8, port uint16) []Reason {
	s := e.byID[subject]
	q := e.byID[peer]
	if s == nil || s.workload == nil || q == nil || int(d) > 1 {
		return nil
	}
	c := &e.calc
	c.start(e, s.workload, int(d))
	var ports []registry.EndpointPort
	if d == registry.Ingress {
		ports = s.workload.Ports
	} else if q.workload != nil {
		ports = q.workload.Ports
	}
	c.collect(c.classify(q), ports)
	covers := func(h *hit) bool { return h.covers(protocolIndex(registry.Protocol(proto)), port) }
	reasons := c.reasons(covers, enforced)
	for _, r := range c.reasons(covers, all) {
		if !slices.Contains(reasons, r) {
			reasons = append(reasons, r)
		}
	}
	return reasons
}

// reasons lists what one way to judge looks at, up to what decides.
func (c *calculation) reasons(covers func(*hit) bool, way int) []Reason {
	var list []Reason
	passed := false
	closed := c.hits.closers[way] != nil
	for i := range c.hits.rules {
		h := &c.hits.rules[i]
		if h.policy.Tier != registry.TierAdmin && closed {
			break
		}
		if h.policy.Audit && way == enforced || !covers(h) || passed && h.policy.Tier == registry.TierAdmin {
			continue
		}
		list = append(list, h.reason())
		if h.rule.Action != registry.Pass {
			return list
		}
		passed = true
	}
	for i := range c.hits.rules {
		h := &c.hits.rules[i]
		if h.policy.Tier == registry.TierNamespaced && (!h.policy.Audit || way == all) && covers(h) {
			list = append(list, h.reason())
		}
	}
	for _, p := range c.subject.sides[c.d].policies {
		if p.Tier == registry.TierNamespaced && (!p.Audit || way == all) {
			list = append(list, Reason{Policy: p.PolicyID, Rule: -1, Action: registry.Deny, Audit: p.Audit})
		}
	}
	return list
}

func (h *hit) reason() Reason {
	return Reason{Policy: h.policy.PolicyID, Rule: h.index, Action: h.rule.Action, Audit: h.policy.Audit}
}
