package loader

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
	"golang.org/x/sys/unix"
)

// parseEvent reads a record of the map events. A longer one is of programs that tell more; the rest is not
// understood.
func parseEvent(record []byte) (e podEvent, err error) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e))
	if len(record) < len(b) {
		return e, fmt.Errorf("a record of %d bytes: want %d", len(record), len(b))
	}
	copy(b, record)
	return e, nil
}

// reasonNames are the names of the counters by their place among the 64-bit words of struct counters,
// without "drop_".
func reasonNames() []string {
	var names []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[counters]()) {
		if f.Type.Kind() == reflect.Uint64 {
			names = append(names, strings.TrimPrefix(snakeCase(f.Name), "drop_"))
		}
	}
	return names
}

// naming gives the numbers that stand in maps the names that users know. A Loader does.
type naming interface {
	EndpointOf(id uint32) (registry.Endpoint, bool)
	IdentityName(number uint32) (policy.Identity, bool)
	PolicyName(number uint32) (registry.PolicyID, bool)
	ServiceName(id uint32) (name registry.Name, port string, known bool)
	Explain(subject uint32, d registry.Direction, peer uint32, proto uint8, port uint16) []policy.Reason
}

// groupName says what policies know an identity by: the blocks that an address is in, or namespace and labels.
func groupName(n naming, identity uint32) string {
	i, known := n.IdentityName(identity)
	switch {
	case !known:
		return ""
	case i.Workload != nil:
		labels := make([]string, 0, len(i.Workload.Labels))
		for _, key := range slices.Sorted(maps.Keys(i.Workload.Labels)) {
			labels = append(labels, key+"="+i.Workload.Labels[key])
		}
		return i.Workload.Namespace + "{" + strings.Join(labels, ",") + "}"
	}
	blocks := make([]string, len(i.Blocks))
	for j, b := range i.Blocks {
		blocks[j] = b.String()
	}
	return strings.Join(blocks, ",")
}

// eventNames makes events of records.
type eventNames struct {
	naming
	reasons []string // see reasonNames
	// wire returns the interface with an index, and its endpoint.
	wire func(ifindex int) (name string, _ registry.Endpoint, there bool)
}

func (n *eventNames) describe(raw *podEvent) *registry.Event {
	e := &registry.Event{
		Time:      wallClock(raw.Time),
		Type:      eventType(raw.Type),
		Direction: registry.Direction(raw.Direction & 1), // the numbers of enum direction
		Source:    n.party(raw.Saddr.Bytes, raw.Sport, raw.SrcIdentity, raw.SrcEndpoint),
		Destination: n.party(raw.Daddr.Bytes, raw.Dport, raw.DstIdentity,
			raw.DstEndpoint),
	}
	if raw.Proto != 0 {
		e.Protocol = registry.ProtocolName(raw.Proto)
	} else {
		e.Source.Address, e.Destination.Address = netip.Addr{}, netip.Addr{}
	}
	if e.Type != registry.EventVerdict {
		e.Reason = n.reason(raw.Reason)
	}
	if id, known := n.PolicyName(raw.Policy); known && raw.Policy != 0 {
		e.Policy = &id
	}
	if name, _, known := n.ServiceName(raw.Service); known && raw.Service != 0 {
		e.Service = &name
	}
	if raw.SrcIdentity != identityNone {
		return e
	}
	if name, endpoint, there := n.wire(int(raw.Ifindex)); there {
		e.Interface = name
		if endpoint.Name.Name != "" {
			e.Container = &endpoint.Name
		}
	}
	return e
}

func (n *eventNames) reason(place uint32) string {
	if place < uint32(len(n.reasons)) {
		return n.reasons[place]
	}
	return fmt.Sprintf("reason %d", place)
}

// party names one end.
func (n *eventNames) party(addr [16]uint8, port uint16, identity, endpoint uint32) registry.Party {
	p := registry.Party{Address: fromAddress(address{Bytes: addr}), Port: port, Identity: identity}
	if endpoint != 0 {
		p.Kind = registry.PartyContainer
		if e, known := n.EndpointOf(endpoint); known && e.Name.Name != "" {
			p.Workload, p.Container = &e.Name, e.ContainerID
		}
		return p
	}
	switch identity {
	case identityNode:
		p.Kind = registry.PartyNode
	case identityWorld:
		p.Kind = registry.PartyWorld
	case identityNone:
		p.Kind = registry.PartyForged
	default:
		p.Kind, p.Group = registry.PartyBlock, groupName(n, identity)
	}
	return p
}

// eventType names enum event_type.
func eventType(t uint8) registry.EventType {
	types := []registry.EventType{registry.EventDrop, registry.EventVerdict, registry.EventAudit} // in the order of the enum
	if t >= 1 && int(t) <= len(types) {
		return types[t-1]
	}
	return registry.EventType(fmt.Sprintf("type %d", t))
}

// wallClock turns a time of CLOCK_MONOTONIC, in ns, into one that people know. What lies in the future is now.
func wallClock(monotonic uint64) time.Time {
	now := time.Now().Round(0)
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return now // it does not fail
	}
	ago := time.Duration(uint64(ts.Nano()) - monotonic)
	return now.Add(-max(ago, 0))
}
