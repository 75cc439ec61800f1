package policy

import (
	"net/netip"

	"github.com/sluice-net/sluice/registry"
)

// Engine holds the policies, and everything they speak of, and tells what a change means. Its methods
// must not be called concurrently. The work for a change is in proportion to what it changes.
type Engine struct{}

// New returns an engine without policies. node is the name of the node that it compiles for.
func New(node string) *Engine { return &Engine{} }

// Apply merges changes of endpoints, nodes, namespaces and policies; others are ignored. With snapshot
// they are all there are: what they do not name, and Attach does not hold, is gone.
//
// The Deltas are to be carried out in order, each completely before the next. There are several when
// one would open a moment in which a flow meets neither the verdict of before nor that of after: new
// blocks split identities first, then the policies change, and blocks that are gone merge them last.
func (e *Engine) Apply(changes []registry.Change, snapshot bool) []Delta { return nil }

// Attach holds an endpoint before the registry knows it, and until Detach whatever the registry says.
// While the registry knows an endpoint of that id, what the registry says of its labels counts.
func (e *Engine) Attach(ep registry.Endpoint) Delta { return Delta{} }

// Detach undoes Attach. An endpoint that the registry still knows stays.
func (e *Engine) Detach(id registry.EndpointID) Delta { return Delta{} }

// Lookup returns the identity of an address.
func (e *Engine) Lookup(a netip.Addr) Identity { return Identity{ID: World} }

// Identities returns all identities, by ID.
func (e *Engine) Identities() []Identity { return nil }

// Rules returns all that holds for an identity in one direction: Default and Set.
func (e *Engine) Rules(subject ID, d registry.Direction) Rules { return Rules{} }

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
func (e *Engine) Explain(subject ID, d registry.Direction, peer ID, proto uint8, port uint16) []Reason {
	return nil
}
