package registry

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// EventType says what an event tells.
type EventType string

// The types of events.
const (
	EventDrop    EventType = "drop"    // a packet was dropped
	EventVerdict EventType = "verdict" // a new flow was allowed
	EventAudit   EventType = "audit"   // something passed that is dropped but for audit mode
	EventLease   EventType = "lease"   // of an instance: only Time, Reason, Service and Instance are set
	EventLost    EventType = "lost"    // events that are not told: only Time, Lost and Missed are set
)

// EventTypes returns those that can be asked for.
func EventTypes() []EventType { return []EventType{EventDrop, EventVerdict, EventAudit, EventLease} }

// The reasons of events of leases.
const (
	LeaseLapsed  = "lapsed"  // it was not renewed in time; the instance stays until it has expired
	LeaseHeld    = "held"    // too many of one service have lapsed at once: they stay for a while
	LeaseRenewed = "renewed" // it had lapsed
	LeaseExpired = "expired" // the instance is gone
)

// Event is one thing that the dataplane did with a packet, or that became of an instance.
type Event struct {
	Time time.Time `json:"time"`
	Type EventType `json:"type"`
	// Reason is the name of the counter that counts it, without "drop_": "ingress", "spoofed".
	Reason string `json:"reason,omitempty"`
	// Direction says whose policy it was, or of other reasons whether a container sent the packet.
	Direction Direction `json:"direction"`
	// Protocol is TCP, UDP, SCTP, ICMP, ICMPv6 or a number; "": no IP packet.
	Protocol    string `json:"protocol,omitempty"`
	Source      Party  `json:"source"`
	Destination Party  `json:"destination"` // after the translation of a VIP
	// Service is the one by whose VIP the flow goes; nil: by none.
	Service *Name `json:"service,omitempty"`
	// Policy is the one that decided; nil: none in particular.
	Policy *PolicyID `json:"policy,omitempty"`
	// Interface is the host side of the sender's veth, Container its container. Set when the packet's
	// addresses do not tell.
	Interface string `json:"interface,omitempty"`
	Container *Name  `json:"container,omitempty"`
	// Instance is whose lease it is; nil: of several of Service.
	Instance *InstanceID `json:"instance,omitempty"`
	// Lost is how many events the kernel did not report: there were more than its rate allows, or the
	// agent was too slow.
	Lost uint64 `json:"lost,omitempty"`
	// Missed is how many events were not told because the reader of this stream was too slow.
	Missed uint64 `json:"missed,omitempty"`
}

// PartyKind says what one end of a flow is.
type PartyKind string

// The kinds.
const (
	PartyContainer PartyKind = "container"
	PartyNode      PartyKind = "node"   // this node itself
	PartyWorld     PartyKind = "world"  // an address that nothing is known of
	PartyBlock     PartyKind = "block"  // an address in blocks that policies name
	PartyForged    PartyKind = "forged" // an address that is not the sender's: see Event.Container
)

// Party is one end of a flow.
type Party struct {
	Kind    PartyKind  `json:"kind"`
	Address netip.Addr `json:"address,omitzero"`
	Port    uint16     `json:"port,omitempty"`
	// Workload names a container of this node, Container is its id.
	Workload  *Name  `json:"workload,omitempty"`
	Container string `json:"container,omitempty"`
	// Group says what policies know the party by: a block's addresses, or the labels of a container
	// of another node.
	Group string `json:"group,omitempty"`
	// Identity is the number in the kernel's maps.
	Identity uint32 `json:"identity,omitempty"`
}

// String returns NAMESPACE/NAME of a container of this node, node, or the address.
func (p Party) String() string {
	switch {
	case p.Workload != nil:
		return p.Workload.String()
	case p.Kind == PartyNode:
		return string(PartyNode)
	case p.Address.IsValid():
		return p.Address.String()
	}
	return string(p.Kind)
}

// Endpoint returns the party with its port, as people write it: NAME:PORT or [ADDRESS]:PORT.
func (p Party) Endpoint() string {
	text := p.String()
	if p.Port == 0 {
		return text
	}
	if strings.Contains(text, ":") {
		text = "[" + text + "]"
	}
	return text + ":" + strconv.Itoa(int(p.Port))
}

// ProtocolName names any IP protocol: TCP, UDP, SCTP, ICMP, ICMPv6, or its number.
func ProtocolName(number uint8) string {
	switch number {
	case 1:
		return "ICMP"
	case 58:
		return "ICMPv6"
	case uint8(TCP), uint8(UDP), uint8(SCTP):
		return Protocol(number).String()
	}
	return strconv.Itoa(int(number))
}

// ProtocolNumber is the inverse of ProtocolName, in any case.
func ProtocolNumber(name string) (uint8, error) {
	for _, n := range []uint8{1, 58, uint8(TCP), uint8(UDP), uint8(SCTP)} {
		if strings.EqualFold(name, ProtocolName(n)) {
			return n, nil
		}
	}
	n, err := strconv.ParseUint(name, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("protocol %q: want TCP, UDP, SCTP, ICMP, ICMPv6 or a number up to 255", name)
	}
	return uint8(n), nil
}

// EventFilter chooses events: those that meet all of its fields that are set.
type EventFilter struct {
	Types     []EventType // any of them
	Reasons   []string    // any of them
	Namespace string      // of a container that it is about
	Container PartyFilter // either end, or where it was seen
	From, To  PartyFilter
	Policy    string // NAME or NAMESPACE/NAME
	Protocol  string // as ProtocolName has it
	Port      uint16 // of either end
}

// Matches reports whether the filter chooses an event. News of lost events is for everyone.
func (f *EventFilter) Matches(e *Event) bool {
	switch {
	case e.Type == EventLost:
		return true
	case e.Type == EventLease:
		return f.matchesLease(e)
	case len(f.Types) > 0 && !slices.Contains(f.Types, e.Type),
		len(f.Reasons) > 0 && !slices.Contains(f.Reasons, e.Reason),
		f.Protocol != "" && f.Protocol != e.Protocol,
		f.Port != 0 && f.Port != e.Source.Port && f.Port != e.Destination.Port,
		!f.From.Matches(&e.Source), !f.To.Matches(&e.Destination):
		return false
	}
	return f.inNamespace(e) && f.aboutContainer(e) && f.byPolicy(e)
}

// matchesLease is for events that no packet belongs to: a filter that is about packets chooses none of them.
func (f *EventFilter) matchesLease(e *Event) bool {
	return (len(f.Types) == 0 || slices.Contains(f.Types, e.Type)) &&
		(len(f.Reasons) == 0 || slices.Contains(f.Reasons, e.Reason)) &&
		(f.Namespace == "" || e.Service != nil && e.Service.Namespace == f.Namespace) &&
		f.Container.text == "" && f.From.text == "" && f.To.text == "" && f.Policy == "" && f.Protocol == "" && f.Port == 0
}

func (f *EventFilter) inNamespace(e *Event) bool {
	if f.Namespace == "" {
		return true
	}
	return slices.ContainsFunc([]*Name{e.Source.Workload, e.Destination.Workload, e.Container},
		func(n *Name) bool { return n != nil && n.Namespace == f.Namespace })
}

func (f *EventFilter) aboutContainer(e *Event) bool {
	at := Party{Kind: PartyContainer, Workload: e.Container}
	return f.Container.Matches(&e.Source) || f.Container.Matches(&e.Destination) || f.Container.Matches(&at)
}

func (f *EventFilter) byPolicy(e *Event) bool {
	return f.Policy == "" ||
		e.Policy != nil && (f.Policy == e.Policy.Name.Name || f.Policy == e.Policy.Name.String())
}

// minContainerID is how many letters of a container id choose by it.
const minContainerID = 4

// PartyFilter chooses an end of flows; the zero value chooses all.
type PartyFilter struct {
	text   string
	prefix netip.Prefix
}

// ParsePartyFilter reads world, node, an address, a block of addresses, NAMESPACE/NAME or NAME of a container,
// or the beginning of a container id.
func ParsePartyFilter(text string) (PartyFilter, error) {
	f := PartyFilter{text: text}
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		f.prefix = netip.PrefixFrom(a, a.BitLen())
		return f, nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		f.prefix = p.Masked()
		return f, nil
	}
	if strings.ContainsAny(text, " \t\n") || strings.Count(text, "/") > 1 ||
		strings.HasPrefix(text, "/") || strings.HasSuffix(text, "/") {
		return f, fmt.Errorf("%q: want world, node, an address, a CIDR, NAMESPACE/NAME, NAME or a container id", text)
	}
	return f, nil
}

// String returns what was parsed.
func (f PartyFilter) String() string { return f.text }

// Matches reports whether the filter chooses the party.
func (f PartyFilter) Matches(p *Party) bool {
	switch {
	case f.text == "":
		return true
	case f.prefix.IsValid():
		return p.Address.IsValid() && f.prefix.Contains(p.Address)
	case f.text == string(PartyWorld), f.text == string(PartyNode):
		return string(p.Kind) == f.text
	case p.Workload != nil && (f.text == p.Workload.Name || f.text == p.Workload.String()):
		return true
	}
	return len(f.text) >= minContainerID && strings.HasPrefix(p.Container, f.text)
}
