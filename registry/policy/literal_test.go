package policy

import (
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluice-net/sluice/registry"
)

// cluster is what the specification speaks of. Its addresses belong to one endpoint each.
type cluster struct {
	namespaces map[string]map[string]string // those with an object: their labels
	endpoints  []registry.Endpoint
	policies   []*registry.Policy
}

// decision is the literal reading's answer for one side of a flow.
type decision struct {
	allow, join bool
	by          registry.PolicyID
}

// probe is a packet, with the side that is judged.
type probe struct {
	subject, peer netip.Addr
	direction     registry.Direction
	proto         uint8
	port          uint16
}

// reverse returns the other side of the same packet.
func (p probe) reverse() probe {
	p.subject, p.peer, p.direction = p.peer, p.subject, 1-p.direction
	return p
}

// allowed reports whether a packet passes, straight from the specification.
func (c *cluster) allowed(src, dst netip.Addr, proto uint8, port uint16) bool {
	from, to := c.at(src), c.at(dst)
	out := c.decide(probe{src, dst, registry.Egress, proto, port}, false)
	in := c.decide(probe{dst, src, registry.Ingress, proto, port}, false)
	if from != nil && to != nil && from.Network != to.Network && !out.join && !in.join {
		return false
	}
	return out.allow && in.allow
}

// outcome is decide in the words of the package under test.
func (c *cluster) outcome(p probe) Outcome {
	without, with := c.decide(p, false), c.decide(p, true)
	switch {
	case !without.allow:
		return Outcome{Policy: without.by}
	case !with.allow:
		return Outcome{Allow: true, Audit: true, Join: without.join, Policy: with.by}
	}
	return Outcome{Allow: true, Join: without.join, Policy: without.by}
}

// concerned reports whether any policy says anything of a container in a direction.
func (c *cluster) concerned(subject *registry.Endpoint, d registry.Direction) bool {
	return slices.ContainsFunc(c.policies, func(p *registry.Policy) bool {
		says := slices.Contains(p.Isolates, d)
		if p.Tier != registry.TierNamespaced {
			says = len(rulesOf(p, d)) > 0
		}
		return says && c.selects(p, subject)
	})
}

// decide judges one side of a packet: with the policies in audit mode, or without them.
func (c *cluster) decide(pr probe, withAudit bool) decision {
	subject := c.at(pr.subject)
	if subject == nil {
		return decision{allow: true}
	}
	tier := map[registry.Tier][]*registry.Policy{}
	for _, p := range c.policies {
		if c.selects(p, subject) && (withAudit || !p.Audit) {
			tier[p.Tier] = append(tier[p.Tier], p)
		}
	}
	for _, list := range tier {
		slices.SortFunc(list, func(a, b *registry.Policy) int {
			if a.Priority != b.Priority {
				return int(a.Priority - b.Priority)
			}
			return registry.CompareNames(a.Name, b.Name)
		})
	}
	action, d := c.first(tier[registry.TierAdmin], pr)
	if action == registry.Allow || action == registry.Deny {
		return d
	}
	if d, isolated := c.union(tier[registry.TierNamespaced], pr); isolated {
		return d
	}
	if action, d = c.first(tier[registry.TierBaseline], pr); action != "" {
		return d
	}
	return decision{allow: true}
}

// first asks ordered policies: the first rule that matches counts.
func (c *cluster) first(policies []*registry.Policy, pr probe) (registry.Action, decision) {
	for _, p := range policies {
		for _, r := range rulesOf(p, pr.direction) {
			matches, join := c.matches(p, r, pr)
			if matches {
				allow := r.Action == registry.Allow
				return r.Action, decision{allow: allow, join: allow && join, by: p.PolicyID}
			}
		}
	}
	return "", decision{}
}

// union asks NetworkPolicies: none isolates the pod, or some rule of those that do allows it, or none.
func (c *cluster) union(policies []*registry.Policy, pr probe) (d decision, isolated bool) {
	var closer registry.PolicyID
	for _, p := range policies {
		if !slices.Contains(p.Isolates, pr.direction) {
			continue
		}
		if !isolated {
			isolated, closer = true, p.PolicyID
		}
		for _, r := range rulesOf(p, pr.direction) {
			if matches, join := c.matches(p, r, pr); matches {
				if !d.allow {
					d.allow, d.by = true, p.PolicyID
				}
				d.join = d.join || join
			}
		}
	}
	if isolated && !d.allow {
		d.by = closer
	}
	return d, isolated
}

func rulesOf(p *registry.Policy, d registry.Direction) []registry.Rule {
	if d == registry.Ingress {
		return p.Ingress
	}
	return p.Egress
}

func (c *cluster) at(a netip.Addr) *registry.Endpoint {
	for i := range c.endpoints {
		if slices.Contains(c.endpoints[i].Addresses, a) {
			return &c.endpoints[i]
		}
	}
	return nil
}

// namespaceLabels are the object's, if there is one, and metadata.name.
func (c *cluster) namespaceLabels(name string) labels.Set {
	set := labels.Set{}
	for k, v := range c.namespaces[name] {
		set[k] = v
	}
	set["kubernetes.io/metadata.name"] = name
	return set
}

func podLabels(e *registry.Endpoint) labels.Set {
	set := labels.Set{}
	for k, v := range e.Labels {
		set[k] = v
	}
	set["sluice.net/network"] = e.Network
	return set
}

// chosen asks apimachinery whether a selector takes labels.
func chosen(s registry.Selector, set labels.Set) bool {
	upstream := metav1.LabelSelector{MatchLabels: s.MatchLabels}
	for _, r := range s.Expressions {
		upstream.MatchExpressions = append(upstream.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: r.Key, Operator: metav1.LabelSelectorOperator(r.Operator), Values: r.Values,
		})
	}
	x, err := metav1.LabelSelectorAsSelector(&upstream)
	if err != nil {
		panic(err)
	}
	return x.Matches(set)
}

func (c *cluster) selects(p *registry.Policy, e *registry.Endpoint) bool {
	if p.Tier == registry.TierNamespaced && e.Name.Namespace != p.Namespace {
		return false
	}
	if n := p.Subject.Namespaces; n != nil && !chosen(*n, c.namespaceLabels(e.Name.Namespace)) {
		return false
	}
	return chosen(p.Subject.Pods, podLabels(e))
}

// matches reports whether a rule is about a packet, and whether a peer of it that is joins networks.
func (c *cluster) matches(p *registry.Policy, r registry.Rule, pr probe) (is, join bool) {
	if !c.portMatches(r.Ports, pr) {
		return false, false
	}
	if len(r.Peers) == 0 {
		return p.Tier == registry.TierNamespaced, false
	}
	for _, peer := range r.Peers {
		if peer.Block != nil {
			is = is || inBlock(*peer.Block, pr.peer)
			continue
		}
		if e := c.at(pr.peer); e != nil && c.peerMatches(p, peer.Pods, c.at(pr.subject), e) {
			is = true
			for _, x := range peer.Pods.Pods.Expressions {
				join = join || x.Key == "sluice.net/network" && x.Operator == "In"
			}
			if _, named := peer.Pods.Pods.MatchLabels["sluice.net/network"]; named {
				join = true
			}
		}
	}
	return is, join
}

func inBlock(b registry.IPBlock, a netip.Addr) bool {
	return b.CIDR.Contains(a) && !slices.ContainsFunc(b.Except, func(x netip.Prefix) bool { return x.Contains(a) })
}

// peerMatches reads PodSelector as a peer; the same-labels are AdminNetworkPolicy's NamespacedPeer.
func (c *cluster) peerMatches(p *registry.Policy, s *registry.PodSelector, subject, peer *registry.Endpoint) bool {
	theirs, mine := c.namespaceLabels(peer.Name.Namespace), c.namespaceLabels(subject.Name.Namespace)
	if s.Namespaces != nil {
		if !chosen(*s.Namespaces, theirs) {
			return false
		}
	} else if p.Tier == registry.TierNamespaced && peer.Name.Namespace != p.Namespace {
		return false
	}
	// "To be selected a Namespace must have all of the labels defined in SameLabels, AND they must all
	// have the same value as the subject of this policy."
	for _, k := range s.SameLabels {
		if !theirs.Has(k) || !mine.Has(k) || theirs.Get(k) != mine.Get(k) {
			return false
		}
	}
	// "To be selected a Namespace must have all of the labels defined in NotSameLabels, AND at least one
	// of them must have different values than the subject of this policy."
	if len(s.NotSameLabels) > 0 {
		differs := false
		for _, k := range s.NotSameLabels {
			if !theirs.Has(k) {
				return false
			}
			differs = differs || !mine.Has(k) || theirs.Get(k) != mine.Get(k)
		}
		if !differs {
			return false
		}
	}
	return chosen(s.Pods, podLabels(peer))
}

// portMatches: without ports a rule is about everything; a name is resolved by who receives the packet.
func (c *cluster) portMatches(ports []registry.PolicyPort, pr probe) bool {
	if len(ports) == 0 {
		return true
	}
	proto := registry.Protocol(pr.proto)
	if proto != registry.TCP && proto != registry.UDP && proto != registry.SCTP {
		return false
	}
	receiver := c.at(pr.peer)
	if pr.direction == registry.Ingress {
		receiver = c.at(pr.subject)
	}
	for _, p := range ports {
		if p.Name == "" {
			if p.Protocol == proto && p.Port <= pr.port && pr.port <= p.EndPort {
				return true
			}
			continue
		}
		if receiver == nil || p.Protocol != 0 && p.Protocol != proto {
			continue
		}
		for _, have := range receiver.Ports {
			if have.Name == p.Name && have.Protocol == proto && have.Port == pr.port {
				return true
			}
		}
	}
	return false
}
