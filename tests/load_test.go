package tests

import (
	"testing"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// load is calls of several kinds that go on while something happens.
type load struct {
	calls   []nstest.Call
	callers []*nstest.Caller
}

func startLoad(t *testing.T, client *nstest.Container, calls []nstest.Call) *load {
	t.Helper()
	l := &load{calls: calls}
	for _, call := range calls {
		call.Gap = 3 * time.Millisecond // leaves the CPU to others
		c, err := client.Caller(call)
		if err != nil {
			t.Fatal(err)
		}
		l.callers = append(l.callers, c)
	}
	return l
}

// more waits until every caller has made that many calls more.
func (l *load) more(t *testing.T, calls int) {
	t.Helper()
	if err := nstest.More(t.Context(), calls, l.callers...); err != nil {
		t.Fatal(err)
	}
}

// stop ends the calls and returns a report for each kind.
func (l *load) stop(t *testing.T) []report.Report {
	t.Helper()
	var all []report.Report
	for _, c := range l.callers {
		r, err := c.Stop()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// lasting are the same calls, each kind on one socket for good.
func lasting(calls []nstest.Call) []nstest.Call {
	var out []nstest.Call
	for _, c := range calls {
		if c.Net == "tcp" || c.Connect {
			c.Keep = true
			out = append(out, c)
		}
	}
	return out
}
