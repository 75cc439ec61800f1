package registry

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Namespace gives a namespace labels, for policies that select by them. Every namespace, also one
// without an object, has the label NamespaceLabel besides.
type Namespace struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// NamespaceLabel is carried by every namespace; its value is the namespace's name (KEP-2161).
const NamespaceLabel = "kubernetes.io/metadata.name"

// NetworkLabel is carried by every endpoint; its value is the name of its CNI network. A policy's peer
// whose pod selector requires a value of it (Selector.Requires) reaches into other networks, which are
// closed otherwise.
const NetworkLabel = "sluice.net/network"

// AuditAnnotation on a policy, with the value "true", makes it report what it would drop and drop
// nothing. Nor does it allow, pass or join anything.
const AuditAnnotation = "sluice.net/audit"

// Tier is a layer of policies. They are asked in the order Admin, Namespaced, Baseline.
type Tier uint8

// The tiers, by the Kubernetes kinds that stand in them.
const (
	// TierNamespaced holds NetworkPolicy: what selects a container closes it, but for what is allowed.
	TierNamespaced Tier = iota
	// TierAdmin holds AdminNetworkPolicy: ordered rules that Allow, Deny or Pass before the others.
	TierAdmin
	// TierBaseline holds BaselineAdminNetworkPolicy: for what no NetworkPolicy selects.
	TierBaseline
)

var tierKinds = map[Tier]string{
	TierNamespaced: "NetworkPolicy", TierAdmin: "AdminNetworkPolicy", TierBaseline: "BaselineAdminNetworkPolicy",
}

// String returns the kind of the tier's policies in Kubernetes.
func (t Tier) String() string {
	if kind, ok := tierKinds[t]; ok {
		return kind
	}
	return fmt.Sprintf("tier %d", uint8(t))
}

// MarshalText makes a tier the name of its kind in JSON.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (t *Tier) UnmarshalText(b []byte) error {
	for tier, kind := range tierKinds {
		if kind == string(b) {
			*t = tier
			return nil
		}
	}
	return fmt.Errorf("policy kind %q: want NetworkPolicy, AdminNetworkPolicy or BaselineAdminNetworkPolicy", b)
}

// PolicyID identifies a policy. Those of the cluster-wide tiers have no namespace.
type PolicyID struct {
	Tier Tier `json:"kind"`
	Name
}

// String returns KIND NAMESPACE/NAME, or KIND NAME for a cluster-wide policy.
func (id PolicyID) String() string { return id.Tier.String() + " " + id.Name.String() }

// Policy says what containers may send and receive.
type Policy struct {
	PolicyID
	// Priority orders TierAdmin: 0 to 1000, the lowest first. Policies of one priority are ordered by
	// name, which the upstream API leaves open.
	Priority int32 `json:"priority,omitempty"`
	// Subject chooses the containers that the policy is about. Of a NetworkPolicy they are always
	// of its own namespace, and Subject.Namespaces is nil.
	Subject PodSelector `json:"subject"`
	// Isolates holds the directions in which a NetworkPolicy closes its subjects (policyTypes, with the
	// default worked out). It is empty for the other tiers.
	Isolates []Direction `json:"isolates,omitempty"`
	// Ingress and Egress are the rules. Of a NetworkPolicy those of a direction that is not in Isolates mean
	// nothing, and are kept as they were given.
	Ingress []Rule `json:"ingress,omitempty"`
	Egress  []Rule `json:"egress,omitempty"`
	// Audit is set when the policy only reports what it would drop.
	Audit bool `json:"audit,omitempty"`
	// Labels are the object's own, for whoever reads it.
	Labels map[string]string `json:"labels,omitempty"`
}

// Direction is a flow's, as its subject sees it.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

// String returns "ingress" or "egress".
func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// MarshalText makes a direction a word in JSON.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Direction) UnmarshalText(b []byte) error {
	switch string(b) {
	case "ingress":
		*d = Ingress
	case "egress":
		*d = Egress
	default:
		return fmt.Errorf("direction %q: want ingress or egress", b)
	}
	return nil
}

// Action is what a rule says of the traffic that it matches.
type Action string

// The actions. A NetworkPolicy's rules all allow; only TierAdmin may Pass: leave it to the next tier.
const (
	Allow Action = "Allow"
	Deny  Action = "Deny"
	Pass  Action = "Pass"
)

// Rules returns the rules of one direction.
func (p *Policy) Rules(d Direction) []Rule {
	if d == Egress {
		return p.Egress
	}
	return p.Ingress
}

// Closes reports whether the policy closes its subjects in a direction but for what is allowed.
func (p *Policy) Closes(d Direction) bool { return slices.Contains(p.Isolates, d) }

// Concerns reports whether the policy has a say in a direction.
func (p *Policy) Concerns(d Direction) bool {
	if p.Tier == TierNamespaced {
		return p.Closes(d)
	}
	return len(p.Rules(d)) > 0
}

// Selects reports whether the policy is about an endpoint. namespaceLabels are those that NamespaceLabels
// gives the endpoint's namespace.
func (p *Policy) Selects(e *Endpoint, namespaceLabels map[string]string) bool {
	return p.inScope(e.Name.Namespace, namespaceLabels) && p.Subject.Pods.Matches(PolicyLabels(e))
}

// inScope reports whether the policy may be about containers of a namespace.
func (p *Policy) inScope(namespace string, labels map[string]string) bool {
	switch {
	case p.Tier == TierNamespaced:
		return p.Namespace == namespace
	case p.Subject.Namespaces != nil:
		return p.Subject.Namespaces.Matches(labels)
	}
	return true
}

// PolicyLabels returns an endpoint's labels as policies see them, NetworkLabel among them. Its own label
// of that key, if someone gave it one, does not count.
func PolicyLabels(e *Endpoint) map[string]string { return with(e.Labels, NetworkLabel, e.Network) }

// NamespaceLabels returns a namespace's labels as policies see them, NamespaceLabel among them. For a
// namespace without an object it is enough to fill in the name.
func NamespaceLabels(n *Namespace) map[string]string { return with(n.Labels, NamespaceLabel, n.Name) }

func with(labels map[string]string, key, value string) map[string]string {
	all := make(map[string]string, len(labels)+1)
	maps.Copy(all, labels)
	all[key] = value
	return all
}

// Rule matches traffic with any of its peers on any of its ports.
type Rule struct {
	Name   string `json:"name,omitempty"`
	Action Action `json:"action"`
	// Peers; nil is everyone: containers, the world, whoever (of a NetworkPolicy only).
	Peers []Peer `json:"peers,omitempty"`
	// Ports; nil is every protocol, also those without ports.
	Ports []PolicyPort `json:"ports,omitempty"`
}

// Peer is a set of containers or of addresses: exactly one field is set.
type Peer struct {
	Pods  *PodSelector `json:"pods,omitempty"`
	Block *IPBlock     `json:"block,omitempty"`
}

// PodSelector chooses containers by their own labels and those of their namespaces.
type PodSelector struct {
	// Namespaces chooses among all namespaces; nil is the policy's own, of the cluster-wide tiers every
	// one.
	Namespaces *Selector `json:"namespaces,omitempty"`
	// Pods chooses among the containers of those namespaces by label; the empty one takes them all.
	Pods Selector `json:"pods"`
	// SameLabels and NotSameLabels, of AdminNetworkPolicy's peers, are keys of namespace labels: the peer's
	// namespace must have them all, and all with the values of the subject's namespace, or of
	// NotSameLabels at least one not with its value. A subject's namespace that lacks the key has no value:
	// no peer has the same, and every one that has the key has another.
	SameLabels    []string `json:"sameLabels,omitempty"`
	NotSameLabels []string `json:"notSameLabels,omitempty"`
}

// IPBlock is a range of addresses with holes in it. It holds for whatever has the address, containers
// too, after the translation of VIPs.
type IPBlock struct {
	CIDR   netip.Prefix   `json:"cidr"`
	Except []netip.Prefix `json:"except,omitempty"`
}

// PolicyPort is a range of ports, or a name that each receiving container gives a number to.
type PolicyPort struct {
	// Protocol; 0, of AdminNetworkPolicy's named ports only, is any.
	Protocol Protocol `json:"protocol,omitempty"`
	// Port to EndPort, both included; all ports of the protocol are 0 to 65535. Unused with a Name.
	Port    uint16 `json:"port"`
	EndPort uint16 `json:"endPort"`
	Name    string `json:"name,omitempty"`
}

// Operator compares a label with values.
type Operator string

// The operators, as in Kubernetes.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn" // also holds when there is no such label
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// Requirement is one condition of a selector.
type Requirement struct {
	Key      string   `json:"key"`
	Operator Operator `json:"operator"`
	Values   []string `json:"values,omitempty"`
}

// Matches reports whether labels meet the requirement.
func (r Requirement) Matches(labels map[string]string) bool {
	v, ok := labels[r.Key]
	return r.holds(v, ok)
}

// holds reports whether a label of that value, or its absence, meets the requirement.
func (r Requirement) holds(v string, ok bool) bool {
	switch r.Operator {
	case In:
		return ok && slices.Contains(r.Values, v)
	case NotIn:
		return !ok || !slices.Contains(r.Values, v)
	case Exists:
		return ok
	case DoesNotExist:
		return !ok
	}
	return false
}

// Selector chooses what meets all of its requirements; the empty one chooses everything.
type Selector struct {
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
	Expressions []Requirement     `json:"matchExpressions,omitempty"`
}

// Matches reports whether labels meet the selector.
func (s Selector) Matches(labels map[string]string) bool {
	for k, want := range s.MatchLabels {
		if v, ok := labels[k]; !ok || v != want {
			return false
		}
	}
	for _, r := range s.Expressions {
		if !r.Matches(labels) {
			return false
		}
	}
	return true
}

// matchesPod is Matches of the endpoint's PolicyLabels, without making them.
func (s Selector) matchesPod(e *Endpoint) bool {
	value := func(key string) (string, bool) {
		if key == NetworkLabel {
			return e.Network, true
		}
		v, ok := e.Labels[key]
		return v, ok
	}
	for k, want := range s.MatchLabels {
		if v, ok := value(k); !ok || v != want {
			return false
		}
	}
	for _, r := range s.Expressions {
		if !r.holds(value(r.Key)) {
			return false
		}
	}
	return true
}

// Requires reports whether the selector says which values a label has to have, by matchLabels or In. The
// other operators leave open what there may be: everything but, or anything at all.
func (s Selector) Requires(key string) bool {
	if _, ok := s.MatchLabels[key]; ok {
		return true
	}
	return slices.ContainsFunc(s.Expressions, func(r Requirement) bool { return r.Key == key && r.Operator == In })
}
