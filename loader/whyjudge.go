package loader

import (
	"cmp"
	"fmt"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// sideVerdict is what one side says: why not, if anything, and what was asked.
type sideVerdict struct {
	reason string // the counter's name without "drop_"; "": it may pass
	outcome
}

// closedSide is a side that denies all: what is asked of the node did not fit into its maps.
func closedSide() sideVerdict { return sideVerdict{reason: "closed"} }

// judge fills in a target's verdict: both ends' policies, then whether their networks are joined. Unlike the
// programs it also asks the receiver when the sender may not send: its answer is of use, too.
func (t *tracer) judge(target *registry.TraceTarget, src, dst *end, proto uint8) error {
	target.Verdict = registry.VerdictAllowed
	switch {
	case src.local() && src.endpoint.Id == dst.endpoint.Id:
		target.Reason = "a container always reaches itself"
		return nil
	case src.Kind == registry.PartyNode, dst.Kind == registry.PartyNode:
		target.Reason = "node and containers always reach each other"
		return nil
	case !src.local() && !dst.local():
		target.Reason = "neither end is a container of this node: no policy is asked here"
		return nil
	}
	var egress, ingress sideVerdict
	var err error
	if src.local() {
		if egress, err = t.side(target, registry.Egress, src, dst, proto); err != nil {
			return err
		}
	}
	if dst.local() {
		if ingress, err = t.side(target, registry.Ingress, dst, src, proto); err != nil {
			return err
		}
	}
	return t.conclude(target, src, dst, &egress, &ingress)
}

// conclude puts together what the sides say, in the order in which the programs do.
func (t *tracer) conclude(target *registry.TraceTarget, src, dst *end, egress, ingress *sideVerdict) error {
	network := ""
	one, two := src.endpoint.Network, dst.endpoint.Network
	if one != 0 && two != 0 && one != two && (egress.Flags|ingress.Flags)&outcomeJoin == 0 {
		network = "network"
	}
	if target.Reason = cmp.Or(egress.reason, ingress.reason, network); target.Reason != "" {
		var set settings
		if _, err := t.find(sockMapSettings, uint32(0), &set); err != nil {
			return err
		}
		if set.Audit == 0 {
			target.Verdict = registry.VerdictDenied
			return nil
		}
		note(&target.Steps, sockMapSettings, 0, "audit mode for the whole node")
	}
	if egress.reason != "" || ingress.reason != "" {
		network = "" // not asked any more
	}
	target.Reason = cmp.Or(egress.audited(registry.Egress), ingress.audited(registry.Ingress), network)
	if target.Reason != "" {
		target.Verdict = registry.VerdictAudit
	}
	return nil
}

// audited says what would have dropped the flow but for audit mode.
func (v *sideVerdict) audited(d registry.Direction) string {
	if v.reason == "" && v.Flags&outcomeAudit != 0 {
		return d.String()
	}
	return v.reason
}

// side asks what the policies of one end say, and compares it with what the compiler says.
func (t *tracer) side(target *registry.TraceTarget, d registry.Direction, subject, peer *end, proto uint8) (v sideVerdict, err error) {
	s := registry.TraceSide{
		Direction: d, Subject: subject.String(), Peer: peer.String(),
		Verdict: registry.VerdictAllowed, Steps: []registry.TraceStep{},
	}
	if v, err = t.verdict(&s, subject.Identity, peer.Identity, proto, target.Port); err != nil {
		return v, err
	}
	switch {
	case v.reason != "":
		s.Verdict = registry.VerdictDenied
	case v.Flags&outcomeAudit != 0:
		s.Verdict = registry.VerdictAudit
	}
	s.Joins = v.Flags&outcomeJoin != 0
	if id, known := t.PolicyName(v.Policy); known && v.Policy != 0 {
		s.Policy = &id
	}
	reasons := t.Explain(subject.Identity, d, peer.Identity, proto, target.Port)
	for _, r := range reasons {
		s.Reasons = append(s.Reasons, registry.TraceReason(r))
	}
	_, knowsSubject := t.IdentityName(subject.Identity)
	_, knowsPeer := t.IdentityName(peer.Identity)
	if want := meant(reasons); knowsSubject && knowsPeer && v.reason != closedSide().reason && want != s.Verdict {
		s.Disagreement = fmt.Sprintf("by the maps it is %s, by the policies %s: a change is on its way to the maps, or this is a bug",
			word(s.Verdict), word(want))
	}
	target.Sides = append(target.Sides, s)
	return v, nil
}

// word says a side's verdict.
func word(v registry.Verdict) string {
	if v == registry.VerdictAudit {
		return "allowed in audit mode"
	}
	return string(v)
}

// meant returns the verdict that reasons amount to: the first that does not pass the question on decides.
func meant(reasons []policy.Reason) registry.Verdict {
	first := func(audit bool) registry.Verdict {
		for _, r := range reasons {
			switch {
			case r.Audit && !audit, r.Action == registry.Pass:
			case r.Action == registry.Deny:
				return registry.VerdictDenied
			default:
				return registry.VerdictAllowed
			}
		}
		return registry.VerdictAllowed
	}
	if verdict := first(false); verdict == registry.VerdictDenied || first(true) == registry.VerdictAllowed {
		return verdict
	}
	return registry.VerdictAudit
}

// verdict follows subjects, policy and rulesets as the programs do. What leads nowhere is closed.
func (t *tracer) verdict(s *registry.TraceSide, subject, peer uint32, proto uint8, port uint16) (v sideVerdict, err error) {
	if subject == identityNone { // written by a version that knew no policies
		return v, nil
	}
	ruleset, err := t.ruleset(s, subject, peer)
	if err != nil || ruleset == rulesetOpen {
		return v, err
	}
	if ruleset == rulesetClosed {
		return closedSide(), nil
	}
	found := false
	if v.outcome, found, err = t.outcome(s, ruleset, proto, port); err != nil {
		return v, err
	}
	switch {
	case !found:
		return closedSide(), nil
	case v.Flags&outcomeAllow == 0:
		v.reason = s.Direction.String()
	}
	return v, nil
}

// ruleset finds the one for a peer. An element of the hash is used again at once: whoever reads the same twice
// has read right.
func (t *tracer) ruleset(s *registry.TraceSide, own, peer uint32) (uint32, error) {
	key := policyKey{Subject: own, Peer: peer, Direction: uint32(s.Direction)}
	read := func() (any, special uint32, found bool, err error) {
		var all subject
		there, err := t.find(sockMapSubjects, own, &all)
		if err != nil || !there {
			return rulesetClosed, 0, false, err
		}
		any = all.Ingress
		if s.Direction == registry.Egress {
			any = all.Egress
		}
		if any == rulesetOpen || any == rulesetClosed {
			return any, 0, false, nil
		}
		var p policyEntry
		found, err = t.find(sockMapPolicy, key, &p)
		return any, p.Ruleset, found, err
	}
	for range 3 {
		any, special, found, err := read()
		if err != nil {
			return 0, err
		}
		again, once, more, err := read()
		if err != nil {
			return 0, err
		}
		if any != again || special != once || found != more {
			continue
		}
		note(&s.Steps, sockMapSubjects, t.identity(own), "%s: %s", s.Direction, rulesetText(any))
		if any == rulesetOpen || any == rulesetClosed {
			return any, nil
		}
		keyText := fmt.Sprintf("%s of identity %d, peer %s", s.Direction, own, t.identity(peer))
		if !found {
			note(&s.Steps, sockMapPolicy, keyText, "-")
			return any, nil
		}
		note(&s.Steps, sockMapPolicy, keyText, "%s", rulesetText(special))
		return max(special, rulesetClosed), nil // open is for subjects only
	}
	return rulesetClosed, nil
}

func rulesetText(n uint32) string {
	switch n {
	case rulesetOpen:
		return "open"
	case rulesetClosed:
		return "closed: what is asked of the node did not fit into its maps"
	}
	return fmt.Sprintf("ruleset %d", n)
}

// outcome finds what a ruleset says of a protocol and port. It returns false when that leads nowhere.
func (t *tracer) outcome(s *registry.TraceSide, ruleset uint32, proto uint8, port uint16) (o outcome, found bool, err error) {
	var r rulesetEntry
	if found, err = t.find(sockMapRulesets, ruleset, &r); !found || err != nil {
		return o, false, err
	}
	ref, name, levels := r.Other, "other", 0
	if hasPorts(proto) {
		levels = 2
	}
	switch registry.Protocol(proto) {
	case registry.TCP:
		ref, name = r.Tcp, "tcp"
	case registry.UDP:
		ref, name = r.Udp, "udp"
	case registry.SCTP:
		ref, name = r.Sctp, "sctp"
	}
	note(&s.Steps, sockMapRulesets, ruleset, "%s: %s", name, refText(ref))
	for level := 0; ref&leaf == 0; level++ {
		if level == levels {
			return o, false, nil
		}
		index, first, last := port>>8, port&^255, port|255
		if level == 1 {
			index, first, last = port&255, port, port
		}
		var n portNode
		node := ref
		if found, err = t.find(sockMapPortNodes, node, &n); !found || err != nil {
			return o, false, err
		}
		ref = n.Refs[index]
		note(&s.Steps, sockMapPortNodes, fmt.Sprintf("%d, port %d to %d", node, first, last), "%s", refText(ref))
	}
	if found, err = t.find(sockMapOutcomes, ref&^uint32(leaf), &o); !found || err != nil {
		return o, false, err
	}
	note(&s.Steps, sockMapOutcomes, ref&^uint32(leaf), "%s", t.outcomeText(o))
	return o, true, nil
}

func refText(ref uint32) string {
	if ref&leaf != 0 {
		return fmt.Sprintf("outcome %d", ref&^uint32(leaf))
	}
	return fmt.Sprintf("port node %d", ref)
}

func (t *tracer) outcomeText(o outcome) string {
	text := "deny"
	if o.Flags&outcomeAllow != 0 {
		text = "allow"
	}
	if o.Flags&outcomeAudit != 0 {
		text += ", only in audit mode"
	}
	if o.Flags&outcomeJoin != 0 {
		text += ", joins networks"
	}
	if id, known := t.PolicyName(o.Policy); known && o.Policy != 0 {
		text += ", by " + id.String()
	}
	return text
}
