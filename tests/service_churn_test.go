package tests

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

const (
	// churnRate is how many changes of a backend come a second, unless the machine is too slow for that.
	churnRate = 1000
	// churnVariable names the environment's word on how long that goes on; 5s if there is none.
	churnVariable = "SLUICE_CHURN"

	steadyBackends   = 2
	changingBackends = 16
)

// TestServiceChurn changes backends of a service while clients call it, by both paths, on new connections and
// on such as last. Backends come, go, drain, and are unready, by slices that change in batches, and by marks
// and weights of containers. Two always are ready: not one call may fail.
//
// There is no connected UDP: a socket that is connected to a backend that goes is to get an error.
func TestServiceChurn(t *testing.T) {
	lasts, err := time.ParseDuration(cmp.Or(os.Getenv(churnVariable), "5s"))
	if err != nil {
		t.Fatalf("%s: %v", churnVariable, err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := &churn{n: newNode(t, nstest.Settings{MapScale: 1}), random: rand.New(rand.NewPCG(seed, 0))}
	client := c.wire(t)
	vips := apply(t, c.n, "web", web("web", "web"))
	calls := slices.DeleteFunc(kinds(vips), func(call nstest.Call) bool { return call.Connect })
	calls = append(calls, lasting(calls)...)
	for _, call := range slices.Clone(calls) {
		call.Outside = true
		calls = append(calls, call)
	}
	l := startLoad(t, client, calls)
	l.more(t, 10)
	syncs, errs := c.metric(t, "sluice_sync_duration_seconds_count"), c.metric(t, "sluice_sync_errors_total")
	start := time.Now()
	for want := int(lasts.Seconds() * churnRate); c.changes < want; {
		c.change(t)
		// No faster than asked for: how many changes there are says how long it takes.
		time.Sleep(time.Until(start.Add(time.Duration(c.changes) * time.Second / churnRate)))
	}
	took := time.Since(start)
	syncs, errs = c.metric(t, "sluice_sync_duration_seconds_count")-syncs, c.metric(t, "sluice_sync_errors_total")-errs
	c.seen(t)
	l.more(t, 10)
	total := 0
	for i, r := range l.stop(t) {
		total += r.Calls
		if r.Failed > 0 {
			t.Errorf("%s, by tc: %t: %d of %d calls failed, the first: %+v", title(l.calls[i]), l.calls[i].Outside, r.Failed, r.Calls, r.Failures[0])
		}
	}
	// A batch was sent when the one before was in the maps: they were not merged on their way.
	if syncs < c.batches || errs > 0 {
		t.Errorf("%d batches led to %d syncs, %d with errors", c.batches, syncs, errs)
	}
	t.Logf("%d changes of a backend in %d batches in %s (%.0f a second), %d syncs; %d calls meanwhile",
		c.changes, c.batches, took.Round(time.Millisecond), float64(c.changes)/took.Seconds(), syncs, total)
}

// churn is a service whose backends change.
type churn struct {
	n        *nstest.Node
	random   *rand.Rand
	listed   []*nstest.Container // by slices
	selected []*nstest.Container // by label
	states   []backendState      // of the listed ones

	changes int // of a backend's address
	batches int // each in the maps before the next
}

// absent is the state of a backend that its slice does not list.
const absent backendState = ""

// wire makes the containers, and returns the client.
func (c *churn) wire(t *testing.T) *nstest.Container {
	for i := range steadyBackends {
		addContainer(t, c.n, fmt.Sprintf("steady-%d", i), map[string]string{"app": "web"})
	}
	for i := range 2 {
		c.selected = append(c.selected, addContainer(t, c.n, fmt.Sprintf("selected-%d", i), map[string]string{"app": "web"}))
	}
	for i := range changingBackends {
		c.listed = append(c.listed, addContainer(t, c.n, fmt.Sprintf("listed-%d", i), nil))
	}
	c.states = make([]backendState, changingBackends)
	return addContainer(t, c.n, "client", nil)
}

// change changes the slices of both families and one container that the service selects, side by side.
func (c *churn) change(t *testing.T) {
	t.Helper()
	changed := 0
	for i, was := range c.states {
		c.states[i] = []backendState{ready, ready, draining, unready, absent}[c.random.IntN(5)]
		if c.states[i] != was {
			changed += 2 // addresses
		}
	}
	id := c.selected[c.random.IntN(len(c.selected))].ID
	weight := fmt.Sprint(1 + c.random.IntN(5)) // with 0 it would drain
	mark := c.random.IntN(2) == 0
	var group errgroup.Group
	group.Go(func() error { return c.asked(c.n.API().Apply(t.Context(), []byte(c.slices()))) })
	group.Go(func() error {
		set := map[string]string{registry.WeightLabel: weight}
		if err := c.asked(c.n.API().Label(t.Context(), api.LabelRequest{Container: id, Set: set})); err != nil {
			return err
		}
		return c.asked(c.n.API().Mark(t.Context(), api.MarkRequest{Container: id, Marks: registry.Marks{Terminating: &mark}}))
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	c.batches++
	c.changes += changed // weight and mark may be what they were
}

func (c *churn) asked(r api.Results, err error) error {
	if err == nil && !r.Synced {
		err = fmt.Errorf("not in the maps: %s", r.Warning)
	}
	return err
}

// slices are documents with the states.
func (c *churn) slices() string {
	var documents []string
	for _, family := range []string{"IPv4", "IPv6"} {
		var endpoints []string
		for i, state := range c.states {
			if state != absent {
				addr := way{v6: family == "IPv6"}.pick(c.listed[i].V4, c.listed[i].V6)
				endpoints = append(endpoints, fmt.Sprintf("{addresses: [%q], conditions: {%s}, nodeName: n1}", addr, state))
			}
		}
		documents = append(documents, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-%s, labels: {kubernetes.io/service-name: web}}
addressType: %s
ports: [{name: web, port: %d}, {name: web-udp, port: %[3]d, protocol: UDP}]
endpoints: [%s]
`, strings.ToLower(family), family, nstest.Port, strings.Join(endpoints, ", ")))
	}
	return strings.Join(documents, "---")
}

// seen wants the maps to drain as many backends as there should be: what was asked for has come there.
func (c *churn) seen(t *testing.T) {
	t.Helper()
	drains, want := false, 0
	for _, selected := range c.selected {
		mark := api.MarkRequest{Container: selected.ID, Marks: registry.Marks{Terminating: &drains}}
		if err := c.asked(c.n.API().Mark(t.Context(), mark)); err != nil {
			t.Fatal(err)
		}
	}
	for _, state := range c.states {
		if state == draining {
			want += 4 // frontends: two families, two protocols
		}
	}
	if got := c.metric(t, "sluice_draining_backends"); got != want {
		t.Errorf("%d backends drain, want %d", got, want)
	}
}

// metric reads a metric without labels.
func (c *churn) metric(t *testing.T, name string) int {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(scrape(t, c.n)))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			var n float64
			if _, err := fmt.Sscan(value, &n); err != nil {
				t.Fatalf("%s: %v", lines.Text(), err)
			}
			return int(n)
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
