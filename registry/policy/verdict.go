package policy

import (
	"encoding/binary"
	"maps"
	"slices"
	"weak"

	"github.com/sluice-net/sluice/registry"
)

// hit is a rule that matches a peer.
type hit struct {
	policy *policy
	rule   *rule
	index  int         // of the rule in its policy
	joins  bool        // a peer of it that matches joins networks
	ports  *portRanges // nil: whatever protocol it is
}

// covers reports whether the rule matches a port. A protocol of -1 has none.
func (h *hit) covers(protocol int, port uint16) bool {
	return h.ports == nil || protocol >= 0 && h.ports.covers(protocol, port)
}

// hits are the rules that match a peer, in the order in which they are asked, with all else that a
// verdict depends on.
type hits struct {
	rules   []hit
	closers [2]*policy // the first that closes the subject: of those enforced, and of all
	audited bool       // some policy of the subject is in audit mode
}

// The two ways to judge.
const (
	enforced = iota // without the policies in audit mode
	all             // with them
)

// ruling is one way's answer.
type ruling struct {
	allow, joins bool
	by           *policy
}

// rule judges one port in one way.
func (h *hits) rule(way, protocol int, port uint16) ruling {
	passed := false
	var allowed ruling
	for i := range h.rules {
		r := &h.rules[i]
		if r.policy.Audit && way == enforced || !r.covers(protocol, port) {
			continue
		}
		switch r.policy.Tier {
		case registry.TierAdmin:
			if passed {
				continue
			}
			if r.rule.Action == registry.Pass {
				passed = true
				continue
			}
			return r.decides()
		case registry.TierNamespaced:
			if allowed.by == nil {
				allowed = r.decides()
			}
			allowed.joins = allowed.joins || r.joins
		case registry.TierBaseline:
			if allowed.by == nil && h.closers[way] == nil {
				return r.decides()
			}
		}
	}
	if allowed.by != nil {
		return allowed
	}
	closer := h.closers[way]
	return ruling{allow: closer == nil, by: closer}
}

func (h *hit) decides() ruling {
	allow := h.rule.Action == registry.Allow
	return ruling{allow: allow, joins: allow && h.joins, by: h.policy}
}

// outcome judges one port.
func (h *hits) outcome(protocol int, port uint16) Outcome {
	r := h.rule(enforced, protocol, port)
	o := Outcome{Allow: r.allow, Join: r.joins}
	if h.audited && r.allow {
		if a := h.rule(all, protocol, port); !a.allow {
			r, o.Audit = a, true
		}
	}
	if r.by != nil {
		o.Policy = r.by.PolicyID
	}
	return o
}

// verdicts judges every port.
func (h *hits) verdicts() Verdicts {
	v := Verdicts{Other: h.outcome(-1, 0)}
	for i, spans := range []*[]Span{tcp: &v.TCP, udp: &v.UDP, sctp: &v.SCTP} {
		*spans = h.spans(i)
	}
	return v
}

func (h *hits) spans(protocol int) []Span {
	ends := []uint16{65535} // the last ports before something changes
	for i := range h.rules {
		if h.rules[i].ports == nil {
			continue
		}
		for _, x := range h.rules[i].ports[protocol] {
			if x.first > 0 {
				ends = append(ends, x.first-1)
			}
			ends = append(ends, x.last)
		}
	}
	slices.Sort(ends)
	var spans []Span
	for _, last := range slices.Compact(ends) {
		o := h.outcome(protocol, last)
		if n := len(spans); n > 0 && spans[n-1].Outcome == o {
			spans[n-1].Last = last
		} else {
			spans = append(spans, Span{last, o})
		}
	}
	return slices.Clip(spans)
}

type weakVerdicts = weak.Pointer[Verdicts]

// verdictTable holds one of equal Verdicts, for as long as anyone uses it.
type verdictTable struct {
	known map[string]weakVerdicts
	limit int // entries at which those that are unused are swept out
}

// intern returns the one Verdicts that is equal to v.
func (t *verdictTable) intern(v Verdicts) *Verdicts {
	key := v.key()
	if old := t.known[string(key)].Value(); old != nil {
		return old
	}
	if len(t.known) >= t.limit {
		maps.DeleteFunc(t.known, func(_ string, p weakVerdicts) bool { return p.Value() == nil })
		t.limit = 2*len(t.known) + 1024
	}
	t.known[string(key)] = weak.Make(&v)
	return &v
}

// key encodes the verdicts: different ones never alike.
func (v *Verdicts) key() []byte {
	b := make([]byte, 0, 512)
	for _, spans := range [][]Span{v.TCP, v.UDP, v.SCTP} {
		b = binary.AppendUvarint(b, uint64(len(spans)))
		for i := range spans {
			b = appendOutcome(binary.BigEndian.AppendUint16(b, spans[i].Last), &spans[i].Outcome)
		}
	}
	return appendOutcome(b, &v.Other)
}

func appendOutcome(b []byte, o *Outcome) []byte {
	var flags byte
	for i, set := range []bool{o.Allow, o.Audit, o.Join} {
		if set {
			flags |= 1 << i
		}
	}
	b = append(b, flags, byte(o.Policy.Tier))
	return appendString(appendString(b, o.Policy.Namespace), o.Policy.Name.Name)
}
