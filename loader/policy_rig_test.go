package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// Short for what fixtures say most.
const (
	ingress = directionIngress
	egress  = directionEgress
)

// enum event_type.
const (
	eventDrop    = 1
	eventVerdict = 2
	eventAudit   = 3
)

// identities are the identities of the names in fixtures: containers have them by their entry in
// endpoints, N and R by one in prefixes.
var identities = map[string]uint32{
	"A": 10, "B": 11, "C": 12, "N": 20, "R": 21, "world": identityWorld, "node": identityNode,
	"closed": identityClosed,
}

// The outcomes that fixtures use, by their index. Each has a policy of its own: 100 more.
const (
	deny  = 1
	allow = 2
	audit = 3
	join  = 4
	quiet = 5 // denies, without a policy in particular
)

// rulesetOf returns the ruleset that has one outcome for everything.
func rulesetOf(outcome uint32) uint32 { return outcome + 10 }

// resetPolicy makes everything open, and writes the outcomes and the rulesets of one outcome each.
func (r *rig) resetPolicy() {
	r.t.Helper()
	for i := range r.coll.Maps["subjects"].MaxEntries() {
		r.put("subjects", i, sockSubject{})
		r.put("policy_stats", i, make([]sockPolicyStats, ebpf.MustPossibleCPU()))
	}
	r.put("settings", uint32(0), sockSettings{})
	r.put("event_limits", uint32(0), make([]sockEventLimit, ebpf.MustPossibleCPU()))
	for outcome, flags := range map[uint32]uint8{
		deny: 0, allow: outcomeAllow, audit: outcomeAllow | outcomeAudit, join: outcomeAllow | outcomeJoin,
	} {
		r.put("outcomes", outcome, sockOutcome{Policy: outcome + 100, Flags: flags})
		r.ruleset(rulesetOf(outcome), leaf|outcome, leaf|outcome, leaf|outcome, leaf|outcome)
	}
	r.put("outcomes", uint32(quiet), sockOutcome{})
	r.ruleset(rulesetOf(quiet), leaf|quiet, leaf|quiet, leaf|quiet, leaf|quiet)
	for _, name := range []string{"N", "R"} {
		r.prefix(name, 128, identities[name])
	}
	r.drain()
}

func (r *rig) ruleset(i uint32, tcp, udp, sctp, other uint32) {
	r.t.Helper()
	r.put("rulesets", i, sockRuleset{Tcp: tcp, Udp: udp, Sctp: sctp, Other: other})
}

func (r *rig) prefix(name string, length, identity uint32) {
	r.t.Helper()
	a := toAddress(r.f.addr(name))
	p := netip.PrefixFrom(netip.AddrFrom16(a.Bytes), int(length)).Masked()
	r.put("prefixes", sockPrefixKey{Length: length, Addr: address{Bytes: p.Addr().As16()}},
		sockPrefix{Identity: identity})
}

// rule makes a ruleset what a container may exchange with peers that have no rule of their own.
func rule(who string, direction int, ruleset uint32) step {
	return do(func(r *rig) { r.rule(who, direction, ruleset) })
}

func (r *rig) rule(who string, direction int, ruleset uint32) {
	r.t.Helper()
	var s sockSubject
	r.lookup("subjects", identities[who], &s)
	if direction == ingress {
		s.Ingress = ruleset
	} else {
		s.Egress = ruleset
	}
	r.put("subjects", identities[who], s)
}

// ruleFor makes a ruleset what a container may exchange with one peer.
func ruleFor(who string, direction int, peer string, ruleset uint32) step {
	return do(func(r *rig) { r.ruleFor(who, direction, peer, ruleset) })
}

func (r *rig) ruleFor(who string, direction int, peer string, ruleset uint32) {
	r.t.Helper()
	r.put("policy", cellKey(who, direction, peer), sockPolicy{Ruleset: ruleset})
}

func cellKey(who string, direction int, peer string) policyKey {
	return policyKey{Subject: identities[who], Peer: identities[peer], Direction: uint32(direction)}
}

// rewire edits a container's entry.
func rewire(name string, edit func(*endpoint)) step {
	return do(func(r *rig) {
		var e endpoint
		r.lookup("endpoints", toAddress(r.f.addr(name)), &e)
		edit(&e)
		r.put("endpoints", toAddress(r.f.addr(name)), e)
	})
}

// raise raises epochs of containers, as the loader does after a change of their policy.
func raise(ids ...uint32) step {
	return do(func(r *rig) {
		for _, id := range ids {
			r.raise(id)
		}
	})
}

func set(edit func(*sockSettings)) step {
	return do(func(r *rig) {
		var s sockSettings
		r.lookup("settings", uint32(0), &s)
		edit(&s)
		r.put("settings", uint32(0), s)
	})
}

// report has events reported.
func reported() step { return set(func(s *sockSettings) { s.EventRate = 1000 }) }

// policyStats writes what policies counted, as "101 denied egress 2".
func (r *rig) policyStats() (lines []string) {
	r.t.Helper()
	for i := range r.coll.Maps["policy_stats"].MaxEntries() {
		var each []sockPolicyStats
		var sum sockPolicyStats
		r.lookup("policy_stats", i, &each)
		for _, s := range each {
			for d := range 2 {
				sum.Allowed[d] += s.Allowed[d]
				sum.Denied[d] += s.Denied[d]
				sum.Audited[d] += s.Audited[d]
			}
		}
		for d, direction := range []string{"ingress", "egress"} {
			for _, c := range []struct {
				what string
				n    uint64
			}{{"allowed", sum.Allowed[d]}, {"denied", sum.Denied[d]}, {"audited", sum.Audited[d]}} {
				if c.n != 0 {
					lines = append(lines, fmt.Sprintf("%d %s %s %d", i, c.what, direction, c.n))
				}
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// drain takes all events out of the ring buffer.
func (r *rig) drain() (all []podEvent) {
	r.t.Helper()
	reader, err := ringbuf.NewReader(r.coll.Maps["events"])
	if err != nil {
		r.t.Fatal(err)
	}
	defer reader.Close()
	reader.SetDeadline(time.Now())
	for {
		record, err := reader.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			r.t.Fatal(err)
		}
		var e podEvent
		if _, err := binary.Decode(record.RawSample, binary.LittleEndian, &e); err != nil {
			r.t.Fatal(err)
		}
		if e.Time == 0 || e.Pad != 0 || len(record.RawSample) != int(reflect.TypeFor[podEvent]().Size()) ||
			!slices.Equal(record.RawSample[84:], make([]byte, 4)) {
			r.t.Errorf("event %x: no time, another size, or padding that is not zero", record.RawSample)
		}
		all = append(all, e)
	}
}

// events writes each event as a line:
//
//	drop egress drop_egress p101 tcp A:1234>B:7000 svc1 10>11 [A B] at A
//
// that is: type, direction, reason, policy and service if any, identities, containers at both ends,
// and the veth.
func (r *rig) events() (lines []string) {
	r.t.Helper()
	for _, e := range r.drain() {
		line := fmt.Sprintf("%s %s", []string{"", "drop", "verdict", "audit"}[e.Type],
			[]string{"ingress", "egress"}[e.Direction])
		if e.Type != eventVerdict {
			line += " " + reasonName(r.t, e.Reason)
		}
		if e.Policy != 0 {
			line += fmt.Sprintf(" p%d", e.Policy)
		}
		line += fmt.Sprintf(" %s %s>%s", protoName(e.Proto), r.who(address{Bytes: e.Saddr.Bytes}, e.Sport),
			r.who(address{Bytes: e.Daddr.Bytes}, e.Dport))
		if e.Service != 0 {
			line += fmt.Sprintf(" svc%d", e.Service%10)
		}
		ends := []string{"-", "A", "B", "C"}
		line += fmt.Sprintf(" %d>%d [%s %s] at %s", e.SrcIdentity, e.DstIdentity, ends[e.SrcEndpoint],
			ends[e.DstEndpoint], r.veth(e.Ifindex))
		if e.Lost != 0 {
			line += fmt.Sprintf(" lost %d", e.Lost)
		}
		lines = append(lines, line)
	}
	return lines
}

// reasonName is the name of the counter that a reason stands for.
func reasonName(t testing.TB, reason uint32) string {
	t.Helper()
	for _, f := range reflect.VisibleFields(reflect.TypeFor[counters]()) {
		if f.Type.Kind() == reflect.Uint64 && f.Offset == uintptr(reason)*8 {
			return snakeCase(f.Name)
		}
	}
	t.Errorf("no counter has the place %d", reason)
	return ""
}
