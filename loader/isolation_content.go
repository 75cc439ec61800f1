package loader

import (
	"slices"

	"github.com/sluice-net/sluice/registry/policy"
)

// span is the outcome for the ports up to last that the span before it does not cover.
type span struct {
	last    uint16
	outcome outcome
}

// content is what a ruleset says, with policies' numbers for their names. It is not changed.
type content struct {
	ports [3][]span // TCP, UDP, SCTP; as in policy.Verdicts
	other outcome
}

// everything returns the content that says one thing of all traffic.
func everything(o outcome) *content {
	all := []span{{65535, o}}
	return &content{[3][]span{all, all, all}, o}
}

// is says whether the content says one thing of all traffic.
func (c *content) equal(d *content) bool {
	for i := range c.ports {
		if !slices.Equal(c.ports[i], d.ports[i]) {
			return false
		}
	}
	return c.other == d.other
}

// contentOf returns what verdicts say. number gives the policies' numbers.
func contentOf(v *policy.Verdicts, number func(policy.Outcome) (uint32, error)) (*content, error) {
	convert := func(o policy.Outcome) (outcome, error) {
		out := outcome{}
		if o.Allow {
			out.Flags |= outcomeAllow
			if o.Audit {
				out.Flags |= outcomeAudit
			}
			if o.Join {
				out.Flags |= outcomeJoin
			}
		}
		var err error
		out.Policy, err = number(o)
		return out, err
	}
	c := &content{}
	var err error
	for i, spans := range [][]policy.Span{v.TCP, v.UDP, v.SCTP} {
		for _, s := range spans {
			o, err := convert(s.Outcome)
			if err != nil {
				return nil, err
			}
			c.ports[i] = appendSpan(c.ports[i], s.Last, o)
		}
	}
	c.other, err = convert(v.Other)
	return c, err
}

// appendSpan adds a span, or makes the last one longer.
func appendSpan(spans []span, last uint16, o outcome) []span {
	if n := len(spans); n > 0 && spans[n-1].outcome == o {
		spans[n-1].last = last
		return spans
	}
	return append(spans, span{last, o})
}

// combine makes the content that says of each kind of traffic what f makes of two others' outcomes.
func combine(a, b *content, f func(a, b outcome) outcome) *content {
	c := &content{other: f(a.other, b.other)}
	for i := range c.ports {
		for x, y := a.ports[i], b.ports[i]; len(x) > 0 && len(y) > 0; {
			last := min(x[0].last, y[0].last)
			c.ports[i] = appendSpan(c.ports[i], last, f(x[0].outcome, y[0].outcome))
			if x[0].last == last {
				x = x[1:]
			}
			if y[0].last == last {
				y = y[1:]
			}
		}
	}
	return c
}

// phase is one of the steps from one content to another; see isolation.
type phase int

const (
	phaseDeny   phase = iota // what is no longer allowed is denied
	phaseJoin                // what newly joins networks does, where it is allowed before and after
	phasePart                // what no longer joins networks does not
	phaseFinish              // what is newly allowed is
)

// between returns what holds after a step of the way from one outcome to another.
func (s phase) between(from, to outcome) outcome {
	if s == phaseFinish {
		return to
	}
	if from.Flags&outcomeAllow == 0 {
		return from
	}
	if to.Flags&outcomeAllow == 0 {
		return to
	}
	join := from.Flags & outcomeJoin
	switch s {
	case phaseJoin:
		join |= to.Flags & outcomeJoin
	case phasePart:
		join = to.Flags & outcomeJoin
	}
	to.Flags = to.Flags&^outcomeJoin | join
	return to
}
