package policy

import (
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// judge finds the outcome in Rules as the dataplane does.
func judge(r Rules, peer ID, proto uint8, port uint16) Outcome {
	v := r.Default
	if own, ok := r.Set[peer]; ok {
		v = own
	}
	if v == nil {
		return Outcome{Allow: true}
	}
	return v.at(proto, port)
}

// at finds the outcome for a port.
func (v *Verdicts) at(proto uint8, port uint16) Outcome {
	var spans []Span
	switch registry.Protocol(proto) {
	case registry.TCP:
		spans = v.TCP
	case registry.UDP:
		spans = v.UDP
	case registry.SCTP:
		spans = v.SCTP
	default:
		return v.Other
	}
	for _, s := range spans {
		if port <= s.Last {
			return s.Outcome
		}
	}
	panic("spans end before port 65535")
}

// judge asks the engine about one side of a packet.
func (e *Engine) judge(p probe) Outcome {
	return judge(e.Rules(e.Lookup(p.subject).ID, p.direction), e.Lookup(p.peer).ID, p.proto, p.port)
}

// passes asks the engine about a packet.
func (e *Engine) passes(src, dst netip.Addr, proto uint8, port uint16) bool {
	out := e.judge(probe{src, dst, registry.Egress, proto, port})
	in := e.judge(probe{dst, src, registry.Ingress, proto, port})
	from, to := e.Lookup(src).Workload, e.Lookup(dst).Workload
	apart := from != nil && to != nil && from.Network != to.Network
	return out.Allow && in.Allow && (!apart || out.Join || in.Join)
}

// TestModel compares the engine with a literal reading of the specification, in random clusters.
func TestModel(t *testing.T) {
	const clusters, probes = 2500, 80
	n := clusters
	if testing.Short() {
		n /= 10
	}
	var seen struct{ allow, deny, audit, join, open int }
	for seed := range uint64(n) {
		w := newWorld(seed)
		w.fill()
		e := New(thisNode)
		e.Apply(w.changes(), true)
		for range probes {
			p := w.probe()
			want := w.outcome(p)
			if got := e.judge(p); got != want {
				t.Fatalf("seed %d: %+v\nengine:  %+v\nliteral: %+v", seed, p, got, want)
			}
			src, dst := p.subject, p.peer
			if p.direction == registry.Ingress {
				src, dst = dst, src
			}
			if got, want := e.passes(src, dst, p.proto, p.port), w.allowed(src, dst, p.proto, p.port); got != want {
				t.Fatalf("seed %d: %v to %v, protocol %d, port %d: engine %v, literal %v", seed, src, dst, p.proto, p.port, got, want)
			}
			checkExplain(t, e, p, want)
			rules := e.Rules(e.Lookup(p.subject).ID, p.direction)
			if concerned := w.concerned(w.at(p.subject), p.direction); concerned != (rules.Default != nil) {
				t.Fatalf("seed %d: %+v: a policy concerns it: %v, but Default is %v", seed, p, concerned, rules.Default)
			}
			for what, count := range map[bool]*int{
				want.Allow: &seen.allow, !want.Allow: &seen.deny,
			} {
				if what {
					*count++
				}
			}
			if want.Audit {
				seen.audit++
			}
			if want.Join {
				seen.join++
			}
			if rules.Default == nil {
				seen.open++
			}
		}
	}
	t.Logf("%d clusters, %d probes each: %+v", n, probes, seen)
	for name, count := range map[string]int{
		"allowed": seen.allow, "denied": seen.deny, "audited": seen.audit, "joined": seen.join, "unconcerned": seen.open,
	} {
		if count < n/4 {
			t.Errorf("only %d probes were %s: the clusters are too dull", count, name)
		}
	}
}

// checkExplain compares Explain with the outcome that it explains.
func checkExplain(t *testing.T, e *Engine, p probe, want Outcome) {
	t.Helper()
	reasons := e.Explain(e.Lookup(p.subject).ID, p.direction, e.Lookup(p.peer).ID, p.proto, p.port)
	var decides *Reason
	for i, r := range reasons {
		if !r.Audit && r.Action != registry.Pass {
			decides = &reasons[i]
			break
		}
	}
	switch {
	case (decides == nil || decides.Action == registry.Allow) != want.Allow:
	case decides != nil && !want.Audit && decides.Policy != want.Policy:
	case decides == nil && !want.Audit && want.Policy != (registry.PolicyID{}):
	case want.Audit && !namesDenier(reasons, want.Policy):
	default:
		return
	}
	t.Fatalf("%+v: %+v is explained by %+v", p, want, reasons)
}

func namesDenier(reasons []Reason, id registry.PolicyID) bool {
	for _, r := range reasons {
		if r.Policy == id && r.Action == registry.Deny {
			return true
		}
	}
	return false
}
