package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// maxTargets is how many backends of one service are judged for one question.
const maxTargets = 1024

// tracer answers what would become of a flow by the look-ups that the programs make for its first packet,
// in the same maps. See from_pod_decide, to_pod_decide and bpf/policy.h, which this follows step by step.
type tracer struct {
	naming
	// find reads a map's entry; false: there is none.
	find func(name string, key, value any) (bool, error)
	// draining returns the ids of a service's backends that are in no run; nil: nobody knows. They are in no
	// map by service: programs do not look for them.
	draining func(service uint32) []uint32
	// cookies returns those of a container's network namespaces; nil: nobody knows.
	cookies func(endpoint uint32) ([]uint64, error)
	// now is CLOCK_MONOTONIC, which programs read by bpf_ktime_get_ns.
	now func() uint64
	// sockets says that socket hooks translate what the node's own processes dial.
	sockets bool
}

// lookupIn returns a tracer's find for some maps.
func lookupIn(get func(name string) *ebpf.Map) func(string, any, any) (bool, error) {
	return func(name string, key, value any) (bool, error) {
		err := get(name).Lookup(key, value)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read entry %v of map %s: %w", key, name, err)
		}
		return true, nil
	}
}

// end is one end of a flow as the maps know it.
type end struct {
	registry.Party
	endpoint endpoint // zero: no container of this node
}

func (e *end) local() bool { return e.endpoint.Ifindex != 0 }

// Why answers what would become of the first packet of a flow. An error says that the maps could not be read,
// or that the question has no answer.
func (l *Loader) Why(p registry.Probe) (f registry.TraceFlow, err error) {
	t := tracer{
		naming: l, sockets: l.o.SocketTranslation,
		draining: l.drainingOf, cookies: l.cookiesOf, now: monotonic,
		find: func(name string, key, value any) (found bool, err error) {
			err = l.locked(func() error {
				found, err = lookupIn(l.maps.get)(name, key, value)
				return err
			})
			return found, err
		},
	}
	if f, err = t.trace(p); err != nil {
		return f, fmt.Errorf("trace flow: %w", err)
	}
	return f, nil
}

func (t *tracer) trace(p registry.Probe) (registry.TraceFlow, error) {
	f := registry.TraceFlow{Steps: []registry.TraceStep{}, Targets: []registry.TraceTarget{}}
	src, err := t.end(p.Source, 0, &f.Steps)
	if err != nil {
		return f, err
	}
	f.Source = src.Party
	f.Destination = registry.Party{Kind: p.Destination.Kind, Address: p.Destination.Address, Port: p.Port}
	if p.Destination.Address.IsValid() {
		done, err := t.translate(&f, &src, p)
		if done || err != nil {
			return f, err
		}
	}
	target := registry.TraceTarget{}
	dst, err := t.end(p.Destination, p.Port, &target.Steps)
	if err != nil {
		return f, err
	}
	f.Destination = dst.Party
	if err := t.arrive(&f, &src, &dst, p.Protocol, target); err != nil {
		return f, err
	}
	f.Verdict = f.Targets[0].Verdict
	return f, nil
}

// end finds out what an address is: a container of this node, or of an identity that prefixes gives it.
func (t *tracer) end(p registry.Place, port uint16, steps *[]registry.TraceStep) (end, error) {
	e := end{Party: registry.Party{Kind: p.Kind, Address: p.Address, Port: port}}
	if !p.Address.IsValid() {
		e.Identity = identityWorld
		if p.Kind == registry.PartyNode {
			e.Identity = identityNode
		}
		return e, nil
	}
	a := p.Address.Unmap().WithZone("")
	found, err := t.find(sockMapEndpoints, toAddress(a), &e.endpoint)
	if err != nil {
		return e, err
	}
	if found {
		e.Kind, e.Identity = registry.PartyContainer, e.endpoint.Identity
		if known, ok := t.EndpointOf(e.endpoint.Id); ok && known.Name.Name != "" {
			e.Workload, e.Container = &known.Name, known.ContainerID
		}
		note(steps, sockMapEndpoints, a, "endpoint %d (%s), identity %d, network %d", e.endpoint.Id, e.Party, e.Identity, e.endpoint.Network)
		return e, nil
	}
	note(steps, sockMapEndpoints, a, "-")
	var prefix prefixEntry
	found, err = t.find(sockMapPrefixes, prefixKey{Length: 128, Addr: toAddress(a)}, &prefix)
	if err != nil {
		return e, err
	}
	e.Identity = identityWorld
	if found {
		e.Identity = prefix.Identity
	}
	switch e.Identity {
	case identityWorld:
		e.Kind = registry.PartyWorld
	case identityNode:
		e.Kind = registry.PartyNode
	default:
		e.Kind, e.Group = registry.PartyBlock, groupName(t, e.Identity)
	}
	if !found {
		note(steps, sockMapPrefixes, a, "-")
		return e, nil
	}
	note(steps, sockMapPrefixes, a, "%s", t.identity(e.Identity))
	return e, nil
}

// translate follows a VIP to its backends, and says whether that was the whole way.
func (t *tracer) translate(f *registry.TraceFlow, src *end, p registry.Probe) (done bool, err error) {
	dialled := registry.Frontend{Addr: p.Destination.Address.Unmap().WithZone(""), Port: p.Port, Protocol: registry.Protocol(p.Protocol)}
	var svc service
	ports := hasPorts(p.Protocol)
	found := false
	if ports {
		if found, err = t.find(sockMapServices, toKey(dialled), &svc); err != nil {
			return false, err
		}
		t.stepService(f, describe(dialled), found, &svc)
	}
	if !found {
		vip, err := t.find(sockMapServices, markerKey(dialled.Addr), &svc)
		if err != nil || !vip {
			return false, err
		}
		t.stepService(f, dialled.Addr.String(), vip, &svc)
	}
	if why := t.untranslated(src, p.Protocol); why != "" {
		f.Verdict, f.Reason = registry.VerdictDenied, why
		return true, nil
	}
	if !found && (p.Protocol == unix.IPPROTO_ICMP || p.Protocol == unix.IPPROTO_ICMPV6) {
		f.Verdict, f.Reason = registry.VerdictAllowed, "the node answers echo requests to a VIP itself"
		return true, nil
	}
	if !found {
		f.Verdict, f.Reason = registry.VerdictRefused, "no service has this port of the VIP"
		return true, nil
	}
	if name, _, known := t.ServiceName(svc.Id); known {
		f.Service = &name
	}
	return true, t.backends(f, src, &svc, p.Protocol)
}

func (t *tracer) stepService(f *registry.TraceFlow, key string, found bool, svc *service) {
	switch {
	case !found:
		note(&f.Steps, sockMapServices, key, "-")
	case svc.Id == 0:
		note(&f.Steps, sockMapServices, key, "a VIP")
	default:
		run := "no slots"
		if svc.Count > 0 {
			run = fmt.Sprintf("slots %d to %d, %s", svc.First, int64(svc.First)+int64(svc.Count)-1, algorithmName(svc.Algorithm))
		}
		if svc.AffinityTimeout > 0 {
			run += fmt.Sprintf(", affinity for %d s", svc.AffinityTimeout)
		}
		note(&f.Steps, sockMapServices, key, "service %d, %s", svc.Id, run)
	}
}

// untranslated says why nothing translates what a source sends to a VIP; "": it is translated.
func (t *tracer) untranslated(src *end, proto uint8) string {
	switch {
	case src.local():
		return ""
	case src.Kind != registry.PartyNode:
		return "VIPs are for this node's containers and processes only"
	case !t.sockets:
		return "VIPs are for containers only: socket translation is off"
	case proto != uint8(registry.TCP) && proto != uint8(registry.UDP):
		return "the node's own processes have VIPs for TCP and UDP only"
	}
	return ""
}

// backends judges each backend that may be chosen.
func (t *tracer) backends(f *registry.TraceFlow, src *end, svc *service, proto uint8) error {
	places := map[uint32]int{} // of a backend in f.Targets; -1: not judged
	var verdicts []registry.Verdict
	for slot := uint64(svc.First); slot < uint64(svc.First)+uint64(svc.Count); slot++ {
		var id uint32
		found, err := t.find(sockMapSlots, uint32(slot), &id)
		if err != nil {
			return err
		}
		place, seen := places[id]
		switch {
		case !found:
			continue
		case seen:
			if place >= 0 {
				f.Targets[place].Slots++
			}
			continue
		case len(f.Targets) == maxTargets:
			places[id] = -1
			f.More++
			continue
		}
		if places[id], err = t.backend(f, src, svc, proto, slot, id); err != nil {
			return err
		}
		if places[id] >= 0 {
			verdicts = append(verdicts, f.Targets[places[id]].Verdict)
		}
	}
	f.Verdict = registry.JoinVerdicts(verdicts...)
	if len(verdicts) == 0 {
		f.Verdict, f.Reason = registry.VerdictRefused, "the service has no backend"
	}
	return t.choice(f, src, svc)
}

// backend judges the one that a slot leads to, and returns its place in the flow's targets; -1: it is not the
// service's any more.
func (t *tracer) backend(f *registry.TraceFlow, src *end, svc *service, proto uint8, slot uint64, id uint32) (int, error) {
	var b backend
	found, err := t.find(sockMapBackends, id, &b)
	if err != nil {
		return -1, err
	}
	if !found || b.State != backendActive || b.Service != svc.Id {
		note(&f.Steps, sockMapBackends, id, "not of this service any more")
		return -1, nil
	}
	target := registry.TraceTarget{Slots: 1}
	note(&target.Steps, sockMapSlots, slot, "backend %d", id)
	at := netip.AddrPortFrom(fromAddress(b.Addr), b.Port)
	note(&target.Steps, sockMapBackends, id, "%s, active, of service %d", at, b.Service)
	dst, err := t.end(registry.Place{Address: at.Addr()}, at.Port(), &target.Steps)
	if err != nil {
		return -1, err
	}
	return len(f.Targets), t.arrive(f, src, &dst, proto, target)
}

// arrive adds a target with the verdict on it.
func (t *tracer) arrive(f *registry.TraceFlow, src, dst *end, proto uint8, target registry.TraceTarget) error {
	target.Party, target.Sides = dst.Party, []registry.TraceSide{}
	if err := t.judge(&target, src, dst, proto); err != nil {
		return err
	}
	f.Targets = append(f.Targets, target)
	return nil
}

// identity writes an identity's number with its name.
func (t *tracer) identity(n uint32) string {
	switch n {
	case identityWorld:
		return "world"
	case identityNode:
		return "node"
	}
	if name := groupName(t, n); name != "" {
		return fmt.Sprintf("identity %d (%s)", n, name)
	}
	return fmt.Sprintf("identity %d", n)
}

// note writes down a look-up.
func note(steps *[]registry.TraceStep, name string, key any, format string, args ...any) {
	*steps = append(*steps, registry.TraceStep{Map: name, Key: fmt.Sprint(key), Value: fmt.Sprintf(format, args...)})
}

func hasPorts(proto uint8) bool {
	switch registry.Protocol(proto) {
	case registry.TCP, registry.UDP, registry.SCTP:
		return true
	}
	return false
}
