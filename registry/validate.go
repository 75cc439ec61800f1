package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// MaxPriority is the highest Policy.Priority.
const MaxPriority = 1000

// Validate returns why nobody can act on the policy, or nil. It is for what was stored, by whomever: a
// policy that registry/kube has read always passes.
func (p *Policy) Validate() error {
	if err := p.validHead(); err != nil {
		return err
	}
	if err := p.validSubject(); err != nil {
		return fmt.Errorf("subject: %w", err)
	}
	for _, d := range []Direction{Ingress, Egress} {
		for i := range p.Rules(d) {
			if err := p.validRule(&p.Rules(d)[i]); err != nil {
				return fmt.Errorf("%s rule %d: %w", d, i, err)
			}
		}
	}
	return nil
}

func (p *Policy) validHead() error {
	_, known := tierKinds[p.Tier]
	namespaced := p.Tier == TierNamespaced
	switch {
	case !known:
		return fmt.Errorf("%s is unknown", p.Tier)
	case p.Name.Name == "":
		return errors.New("no name")
	case namespaced != (p.Namespace != ""):
		return fmt.Errorf("namespace %q of a %s", p.Namespace, p.Tier)
	case p.Priority < 0 || p.Priority > MaxPriority || p.Tier != TierAdmin && p.Priority != 0:
		return fmt.Errorf("priority %d of a %s", p.Priority, p.Tier)
	case namespaced != (len(p.Isolates) > 0):
		return fmt.Errorf("%d isolated directions of a %s", len(p.Isolates), p.Tier)
	case len(p.Isolates) > 2 || len(p.Isolates) == 2 && p.Isolates[0] == p.Isolates[1]:
		return errors.New("a direction is isolated twice")
	case slices.ContainsFunc(p.Isolates, func(d Direction) bool { return d > Egress }):
		return errors.New("an isolated direction is unknown")
	}
	return nil
}

func (p *Policy) validSubject() error {
	s := &p.Subject
	if p.Tier == TierNamespaced && s.Namespaces != nil {
		return errors.New("a NetworkPolicy chooses no namespaces")
	}
	if len(s.SameLabels)+len(s.NotSameLabels) > 0 {
		return errors.New("compared with itself")
	}
	return s.validate()
}

func (p *Policy) validRule(r *Rule) error {
	switch {
	case r.Action == Allow:
	case r.Action == Deny && p.Tier != TierNamespaced:
	case r.Action == Pass && p.Tier == TierAdmin:
	default:
		return fmt.Errorf("action %q of a %s", r.Action, p.Tier)
	}
	if p.Tier != TierNamespaced && len(r.Peers) == 0 {
		return errors.New("no peer")
	}
	for i := range r.Peers {
		if err := p.validPeer(&r.Peers[i]); err != nil {
			return fmt.Errorf("peer %d: %w", i, err)
		}
	}
	for i, port := range r.Ports {
		if err := p.validPort(port); err != nil {
			return fmt.Errorf("port %d: %w", i, err)
		}
	}
	return nil
}

func (p *Policy) validPeer(peer *Peer) error {
	switch {
	case (peer.Pods == nil) == (peer.Block == nil):
		return errors.New("want either pods or block")
	case peer.Block != nil && p.Tier != TierNamespaced:
		return fmt.Errorf("block of a %s", p.Tier)
	case peer.Block != nil:
		return peer.Block.validate()
	case p.Tier == TierNamespaced && len(peer.Pods.SameLabels)+len(peer.Pods.NotSameLabels) > 0:
		return errors.New("a NetworkPolicy compares no namespaces")
	}
	return peer.Pods.validate()
}

func (p *Policy) validPort(port PolicyPort) error {
	switch any := port.Protocol == 0; {
	case any && (port.Name == "" || p.Tier == TierNamespaced):
		return errors.New("no protocol")
	case !any && port.Protocol != TCP && port.Protocol != UDP && port.Protocol != SCTP:
		return fmt.Errorf("%s is unknown", port.Protocol)
	case port.Name != "" && (port.Port != 0 || port.EndPort != 0):
		return fmt.Errorf("name %q and number %d", port.Name, port.Port)
	case port.Port > port.EndPort:
		return fmt.Errorf("%d to %d", port.Port, port.EndPort)
	case port.Name == "" && port.Port == 0 && port.EndPort != 65535:
		return fmt.Errorf("0 to %d", port.EndPort)
	}
	return nil
}

func (s *PodSelector) validate() error {
	if s.Namespaces != nil {
		if err := s.Namespaces.validate(); err != nil {
			return fmt.Errorf("namespaces: %w", err)
		}
	}
	for _, key := range slices.Concat(s.SameLabels, s.NotSameLabels) {
		if key == "" {
			return errors.New("label without a key is compared")
		}
	}
	return s.Pods.validate()
}

func (s *Selector) validate() error {
	for _, r := range s.Expressions {
		switch {
		case r.Key == "":
			return errors.New("requirement without a key")
		case r.Operator == In || r.Operator == NotIn:
			if len(r.Values) == 0 {
				return fmt.Errorf("%s %s without values", r.Key, r.Operator)
			}
		case r.Operator == Exists || r.Operator == DoesNotExist:
			if len(r.Values) > 0 {
				return fmt.Errorf("%s %s with values", r.Key, r.Operator)
			}
		default:
			return fmt.Errorf("%s: operator %q", r.Key, r.Operator)
		}
	}
	return nil
}

func (b *IPBlock) validate() error {
	if !plain(b.CIDR) {
		return fmt.Errorf("cidr %s", b.CIDR)
	}
	for _, e := range b.Except {
		if !plain(e) || e.Bits() <= b.CIDR.Bits() || !b.CIDR.Contains(e.Addr()) {
			return fmt.Errorf("except %s is no part of %s", e, b.CIDR)
		}
	}
	return nil
}

// plain reports whether a prefix is valid, of one family, and without bits behind its length.
func plain(p netip.Prefix) bool { return p.IsValid() && !p.Addr().Is4In6() && p == p.Masked() }
