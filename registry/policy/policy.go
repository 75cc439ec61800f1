// Package policy compiles the registry's policies into verdicts: for each identity and direction, what
// may pass to or from each other identity. It is pure: it reads and writes nothing, and knows neither
// maps nor packets.
//
// An identity is what policies can tell workloads apart by: namespace, labels, network, named ports,
// and which of the address blocks that policies name cover its address. Containers that are alike
// share one.
//
// A flow from A to B passes when A's egress and B's ingress verdict both allow it; if A and B are
// containers of different networks, at least one of them must join the two. The rest of the meaning,
// in the order in which it is asked:
//
//  1. TierAdmin: the first rule by priority, name and place that matches decides; Pass ends the tier.
//  2. TierNamespaced: if any policy closes the subject in this direction, what some policy's rule
//     matches is allowed and all else denied (the union of NetworkPolicies).
//  3. TierBaseline: the first rule that matches decides.
//  4. Otherwise it is allowed.
//
// A policy in audit mode does not count: what would pass without it, and not with it, passes and is
// marked.
package policy

import (
	"net/netip"

	"github.com/sluice-net/sluice/registry"
)

// ID is an identity's number within one Engine. It is not reused while Delta.Gone has not named it.
type ID uint32

// Identities that always are.
const (
	None  ID = 0 // none, or any peer
	World ID = 1 // addresses that neither belong to a container nor lie in a block that a policy names
	Node  ID = 2 // this node's own addresses: always allowed, the dataplane does not ask
	First ID = 3 // the first of all others
)

// Identity is what policies can tell apart.
type Identity struct {
	ID ID
	// Key names it for good: equal keys are equal identities, on every node and after every restart.
	Key string
	// Workload is set for containers: one example of it. Labels holds NetworkLabel too.
	Workload *Workload
	// Blocks are the blocks named by policies that cover the address, sorted.
	Blocks []netip.Prefix
}

// Workload is what containers with one identity have in common.
type Workload struct {
	Namespace string
	Network   string
	Labels    map[string]string
	Ports     []registry.EndpointPort
}

// Outcome is what is to become of a flow.
type Outcome struct {
	Allow bool
	// Audit is set with Allow when only policies in audit mode would have denied it.
	Audit bool
	// Join is set with Allow when the rule that allows it requires a value of NetworkLabel: the two may
	// be of different networks.
	Join bool
	// Policy is to be told as the reason: the first one that allows it, the rule's that denies it, or
	// the first of those that close the subject. The zero value: there is none.
	Policy registry.PolicyID
}

// Span is the outcome for the ports up to Last that the span before it does not cover.
type Span struct {
	Last    uint16
	Outcome Outcome
}

// Verdicts are what may pass from or to one peer. They must not be modified.
type Verdicts struct {
	TCP, UDP, SCTP []Span  // at least one; the last one's Last is 65535; neighbours differ
	Other          Outcome // of protocols without ports, ICMP among them
}

// Delta is what a change means for the dataplane. Within a Delta each thing is named once.
//
// A reader of the dataplane that looks while a Delta is being carried out must find, for each pair of
// addresses, the verdict of before or the one of after. That is so when Rules come first, but for what
// they call Gone, then Addresses and Blocks are switched over, and then the rules of Gone identities
// go, with the entries for them that others have (Rules.Gone). And no reader may judge a flow partly by what
// was before a Delta and partly by what is after the next one: it could find both sides at their laxest.
type Delta struct {
	New       []Identity
	Rules     []Rules
	Addresses []AddressChange
	Blocks    []BlockChange
	Gone      []ID // no address has it any more
}

// Rules are the changes of one identity's verdicts in one direction, to be made in this order: Set,
// Default, Removed.
type Rules struct {
	Subject   ID
	Direction registry.Direction
	// Default is for peers without an entry of their own; nil: everything is allowed and there are no
	// entries.
	Default        *Verdicts
	DefaultChanged bool
	Set            map[ID]*Verdicts
	Removed        []ID
	// Gone are peers in Delta.Gone for which the subject has entries. They go last, as no address has
	// those identities any more only then. Set may name them too, for the time until then.
	Gone []ID
}

// AddressChange tells the identity of a container's address.
type AddressChange struct {
	Addr     netip.Addr
	Identity ID // None: no container has the address any more
}

// BlockChange tells the identity of the addresses of a block that no longer block of the table covers.
// This node's own addresses are blocks, too, unless a container here has them.
type BlockChange struct {
	Block    netip.Prefix
	Identity ID // None: the block is no longer in the table
}
