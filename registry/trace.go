package registry

import "net/netip"

// Verdict is what becomes of a flow.
type Verdict string

// The verdicts.
const (
	VerdictAllowed Verdict = "allowed"
	VerdictDenied  Verdict = "denied"  // dropped; Reason says by what
	VerdictAudit   Verdict = "audit"   // allowed, but only because of audit mode
	VerdictRefused Verdict = "refused" // answered with a reset or "port unreachable": nothing serves the VIP's port
	VerdictMixed   Verdict = "mixed"   // allowed to some backends or in one family, not in all
)

// Passes reports whether packets get through, whatever is chosen.
func (v Verdict) Passes() bool { return v == VerdictAllowed || v == VerdictAudit }

// Place is one end of a flow that is asked about: an address, or a kind alone, which is then any address of the
// kind node or world.
type Place struct {
	Kind    PartyKind  `json:"kind,omitempty"`
	Address netip.Addr `json:"address,omitzero"`
}

// Probe asks what would become of the first packet of a flow.
type Probe struct {
	Source      Place
	Destination Place // may be a VIP
	Port        uint16
	Protocol    uint8 // IPPROTO_*
}

// Trace is the answer to a question: what becomes of flows from one workload or address to another, by what the
// kernel's maps say.
type Trace struct {
	From     string      `json:"from"` // as it was asked
	To       string      `json:"to"`
	Port     uint16      `json:"port,omitempty"`
	Protocol string      `json:"protocol"`
	Verdict  Verdict     `json:"verdict"`
	Flows    []TraceFlow `json:"flows"` // one for each pair of addresses of one family
}

// TraceFlow is the way of one flow.
type TraceFlow struct {
	Source      Party   `json:"source"`
	Destination Party   `json:"destination"` // as dialled
	Verdict     Verdict `json:"verdict"`
	// Reason says what refuses, or why policies have no say, in words.
	Reason string `json:"reason,omitempty"`
	// Service is the one that is dialled; nil: none.
	Service *Name `json:"service,omitempty"`
	// Choice says how one of the service's backends is chosen; nil: there is no service, or no backend.
	Choice *TraceChoice `json:"choice,omitempty"`
	// Steps are the look-ups that led to Targets.
	Steps []TraceStep `json:"steps"`
	// Targets are where the flow may go: the destination, or each backend that may be chosen.
	Targets []TraceTarget `json:"targets"`
	// More is how many backends there are besides Targets.
	More int `json:"more,omitempty"`
}

// TraceChoice is how a service's backend is chosen.
type TraceChoice struct {
	Algorithm Algorithm `json:"algorithm"`
	// Slots is how many there are; a backend is chosen as often as it has some, see TraceTarget.
	Slots int `json:"slots"`
	// AffinityTimeout is for how many seconds a client stays with its backend; 0: no affinity.
	AffinityTimeout uint32 `json:"affinityTimeout,omitempty"`
	// Affinity holds what is remembered of the source.
	Affinity []TraceAffinity `json:"affinity,omitempty"`
	// Draining backends keep the flows that they have; none of this source's new ones.
	Draining []netip.AddrPort `json:"draining,omitempty"`
}

// TraceAffinity is the backend that a client was last given.
type TraceAffinity struct {
	// By is "address", for packets, or "namespace", for what the sockets of the source's network namespace
	// connect to.
	By      string         `json:"by"`
	Backend netip.AddrPort `json:"backend,omitzero"`
	// Seconds for which it still holds.
	Seconds uint32 `json:"seconds,omitempty"`
	// Ended says why it does not hold any more; "": it holds, and this backend is chosen.
	Ended string `json:"ended,omitempty"`
}

// TraceTarget is one end that a flow may arrive at.
type TraceTarget struct {
	Party
	Verdict Verdict `json:"verdict"`
	// Reason is the name of the counter that would count the drop, without "drop_"; of a flow that is
	// always allowed, why, in words.
	Reason string `json:"reason,omitempty"`
	// Slots is how many of the service's slots lead there.
	Slots int         `json:"slots,omitempty"`
	Steps []TraceStep `json:"steps"`
	// Sides are the judgements: the sender's policies on egress, the receiver's on ingress.
	Sides []TraceSide `json:"sides"`
}

// TraceSide is what the policies of one end say.
type TraceSide struct {
	Direction Direction `json:"direction"`
	Subject   string    `json:"subject"` // whose policies
	Peer      string    `json:"peer"`
	Verdict   Verdict   `json:"verdict"`
	Joins     bool      `json:"joins,omitempty"` // also allowed between closed networks
	// Policy is the one that the maps name; nil: none in particular.
	Policy *PolicyID `json:"policy,omitempty"`
	// Reasons are the policies that the compiler took the verdict from, those that decide first.
	Reasons []TraceReason `json:"reasons,omitempty"`
	// Disagreement says how maps and compiler differ; "": they agree. A change that is on its way to the
	// maps makes them differ for a moment, anything else is a bug.
	Disagreement string      `json:"disagreement,omitempty"`
	Steps        []TraceStep `json:"steps"`
}

// TraceReason is one policy's part in a verdict.
type TraceReason struct {
	Policy PolicyID `json:"policy"`
	// Rule is the place of the rule that matches, from 0; -1: the policy selects the subject and closes it.
	Rule   int    `json:"rule"`
	Action Action `json:"action"`
	Audit  bool   `json:"audit,omitempty"`
}

// TraceStep is one look-up.
type TraceStep struct {
	Map   string `json:"map"`
	Key   string `json:"key"`
	Value string `json:"value"` // in words; "-": no entry
}

// JoinVerdicts returns the verdict on a choice among several.
func JoinVerdicts(verdicts ...Verdict) Verdict {
	var joined Verdict
	for i, v := range verdicts {
		switch {
		case i == 0 || v == joined:
			joined = v
		case v.Passes() && joined.Passes():
			joined = VerdictAudit
		case !v.Passes() && !joined.Passes() && v != VerdictMixed && joined != VerdictMixed:
			joined = VerdictDenied
		default:
			joined = VerdictMixed
		}
	}
	return joined
}
