package tests

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// expectations are lines that say what is expected of cells, in the order in which they count: the last
// one that matches a cell decides, and a cell that none matches is allowed. A line is
//
//	allow|deny SOURCES -> DESTINATIONS [WHAT] [v4|v6]
//
// where WHAT is a list of 80, tcp, udp/81, icmp and the like. A container's way to itself and any way
// from or to the node are always allowed and need no line.
type expectations []expectation

type expectation struct {
	allow    bool
	from, to string
	what     string
	family   string
}

func parseExpectations(text string) (expectations, error) {
	var all expectations
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 4 || f[0] != "allow" && f[0] != "deny" || f[2] != "->" {
			return nil, fmt.Errorf("%q: want allow|deny SOURCES -> DESTINATIONS [WHAT] [v4|v6]", line)
		}
		e := expectation{allow: f[0] == "allow", from: f[1], to: f[3]}
		for _, word := range f[4:] {
			if word == "v4" || word == "v6" {
				e.family = word
			} else {
				e.what = word
			}
		}
		all = append(all, e)
	}
	return all, nil
}

func (e expectation) matches(c cell) bool {
	if !c.src.matches(e.from) || !c.dst.matches(e.to) {
		return false
	}
	if e.family != "" && (e.family == "v6") != c.v6 {
		return false
	}
	if e.what == "" {
		return true
	}
	port := fmt.Sprint(c.port)
	return slices.ContainsFunc(strings.Split(e.what, ","), func(w string) bool {
		return w == c.net || w == port || w == c.net+"/"+port
	})
}

func (es expectations) allow(c cell) bool {
	if c.src == c.dst || c.src.place == host || c.dst.place == host {
		return true
	}
	for _, e := range slices.Backward(es) {
		if e.matches(c) {
			return e.allow
		}
	}
	return true
}

// expect probes every cell and compares what comes of it.
func (c *cluster) expect(t *testing.T, lines string) {
	t.Helper()
	want, err := parseExpectations(c.base + lines)
	if err != nil {
		t.Fatal(err)
	}
	// A pattern that is spelt wrong would expect nothing.
	for _, e := range want {
		for _, list := range []string{e.from, e.to} {
			for pattern := range strings.SplitSeq(list, ",") {
				if !slices.ContainsFunc(c.members, func(m *member) bool { return m.matches(pattern) }) {
					t.Fatalf("no member is %q", pattern)
				}
			}
		}
	}
	started := time.Now()
	r, err := c.round(want)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d cells in %s", len(r.results), time.Since(started).Round(time.Millisecond))
	for _, note := range r.notes {
		t.Errorf("%s", note)
	}
	if diff := c.diff(r.results, want); diff != "" {
		t.Errorf("not as expected:\n%s", diff)
	}
}

// result is what came of a cell.
type result byte

const (
	passed   result = '.' // as expected
	held     result = 'x' // as expected: neither arrived nor was answered
	wrongly  result = 'A' // answered, and must not even arrive
	leaked   result = 'L' // not answered, but has arrived, and must not
	blocked  result = 'D' // not answered, and must be
	mistaken result = 'W' // answered by someone else
	unseen   result = 'U' // answered, but was not seen to arrive: the test's own eyes fail
)

type round struct {
	results map[cell]result
	notes   []string
}

// round lets all members send to all, the node last: its packets are always allowed, so that when they
// have been answered every receiver has dealt with what came before them. What is still to come after
// that is given the time to settle.
func (c *cluster) round(want expectations) (*round, error) {
	asked := map[*member]string{}
	for _, m := range c.members {
		var ask strings.Builder
		for _, cell := range m.cells {
			if want.allow(cell) {
				ask.WriteByte(report.Await)
			} else {
				ask.WriteByte(report.Once)
			}
		}
		asked[m] = ask.String()
	}
	reset := func(*member) report.Order { return report.Order{Reset: true} }
	send := func(m *member) report.Order { return report.Order{Round: asked[m]} }
	err := errors.Join(c.order("*", reset), c.order("pods,world", send), c.order("node", send))
	if err != nil {
		return nil, err
	}
	time.Sleep(settle)
	return c.collect(want)
}

// order gives some members orders, all at once.
func (c *cluster) order(who string, what func(*member) report.Order) error {
	var group errgroup.Group
	for _, m := range c.members {
		if m.matches(who) {
			group.Go(func() error {
				_, err := m.mesh.Do(what(m))
				return err
			})
		}
	}
	return group.Wait()
}

func (c *cluster) collect(want expectations) (*round, error) {
	var group errgroup.Group
	var mu sync.Mutex
	outcomes := map[*member]report.Outcome{}
	for _, m := range c.members {
		group.Go(func() error {
			o, err := m.mesh.Do(report.Order{Finish: true})
			mu.Lock()
			defer mu.Unlock()
			outcomes[m] = o
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	r := &round{results: map[cell]result{}}
	for _, m := range c.members {
		for _, note := range outcomes[m].Notes {
			r.notes = append(r.notes, m.name+": "+note)
		}
		for i, cell := range m.cells {
			arrived := outcomes[cell.dst].Arrived[cell.arrival()] > 0
			r.results[cell] = judge(want.allow(cell), cell, outcomes[m].Answers[i], arrived)
		}
	}
	return r, nil
}

func judge(allow bool, c cell, answer byte, arrived bool) result {
	switch {
	case answer == report.Wrong:
		return mistaken
	case allow && answer == report.Silent:
		return blocked
	case !allow && answer == report.Answered:
		return wrongly
	case !allow && arrived:
		return leaked
	case !allow:
		return held
	// What a member sends to itself does not come in by its interface, and nobody watches the node's.
	case !arrived && c.src.place != host && c.dst.place != host && c.src != c.dst:
		return unseen
	}
	return passed
}

// diff draws a matrix for each way in which something is not as expected; ways with the same are drawn
// together. It is empty when nothing is.
func (c *cluster) diff(results map[cell]result, want expectations) string {
	ways := map[string][]string{} // by matrix
	byWay := map[string]map[[2]*member]result{}
	bad := map[string]int{}
	for cell, res := range results {
		way := cell.way()
		if byWay[way] == nil {
			byWay[way] = map[[2]*member]result{}
		}
		byWay[way][[2]*member{cell.src, cell.dst}] = res
		if res != passed && res != held {
			bad[way]++
		}
	}
	for way := range bad {
		text := c.matrix(byWay[way])
		ways[text] = append(ways[text], way)
	}
	if len(ways) == 0 {
		return ""
	}
	var out strings.Builder
	for _, text := range slices.Sorted(maps.Keys(ways)) {
		slices.Sort(ways[text])
		fmt.Fprintf(&out, "%s\n%s\n", strings.Join(ways[text], ", "), text)
	}
	out.WriteString("right: . passed, x denied; wrong: A passed and must not, L arrived and must not,\n" +
		"D denied and must not, W answered by another, U passed unseen\n")
	return out.String()
}

// matrix draws who (rows) reached whom (columns).
func (c *cluster) matrix(results map[[2]*member]result) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%10s", "")
	for _, dst := range c.members {
		fmt.Fprintf(&out, " %8s", dst.name)
	}
	out.WriteByte('\n')
	for _, src := range c.members {
		fmt.Fprintf(&out, "%10s", src.name)
		for _, dst := range c.members {
			res, ok := results[[2]*member{src, dst}]
			if !ok {
				res = ' '
			}
			fmt.Fprintf(&out, " %8c", res)
		}
		out.WriteByte('\n')
	}
	return out.String()
}
