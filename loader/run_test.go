package loader

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/sluice-net/sluice/registry"
)

// channel is a source that a test feeds.
type channel chan registry.Batch

func (c channel) Watch(context.Context) <-chan registry.Batch { return c }

// updates is a resolver that answers with the next of a list.
type updates []registry.Update

func (u *updates) Apply(b registry.Batch) registry.Update {
	next := (*u)[0]
	*u = (*u)[1:]
	next.Revision = b.Revision
	return next
}

// TestRun follows a source; services that find no room get in when others go.
func TestRun(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes.Services = 3
	l := n.open(o)
	a, b, c := resolved("10.96.0.1", 80, 2), resolved("10.96.0.1", 81, 2), resolved("10.96.0.2", 80, 2)
	source, ended := make(channel), make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		ended <- l.Run(ctx, source, &updates{
			{Snapshot: true, Set: []registry.Resolved{a, b}},
			{Set: []registry.Resolved{c}},
			{Delete: []registry.Frontend{b.Frontend}},
			{Delete: []registry.Frontend{a.Frontend}},
		})
	}()
	if err := l.Complete(); err == nil {
		t.Error("complete before the first snapshot")
	}
	for revision, incomplete := range []bool{false, true, false, false} {
		source <- registry.Batch{Revision: int64(revision + 1)}
		err := l.Wait(ctx, int64(revision+1))
		if incomplete != errors.Is(err, ErrIncomplete) || !incomplete && err != nil {
			t.Fatalf("wait for revision %d: %v", revision+1, err)
		}
	}
	mustBeClean(t, l)
	waiting, stop := context.WithCancel(ctx)
	stop()
	if err := l.Wait(waiting, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("wait for what never comes: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

// TestRunRetries: what is left of a batch is tried again without another one coming.
func TestRunRetries(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes.Backends = 3
	o.grace = 50 * time.Millisecond
	l := n.open(o)
	source := make(channel)
	go l.Run(t.Context(), source, &updates{
		{Snapshot: true, Set: []registry.Resolved{resolved("10.96.0.1", 80, 2)}},
		{Set: []registry.Resolved{resolved("10.96.0.2", 80, 2)}, Delete: []registry.Frontend{resolved("10.96.0.1", 80, 2).Frontend}},
	})
	source <- registry.Batch{Revision: 1}
	source <- registry.Batch{Revision: 2}
	// The old backends rest for a moment: the second service gets in when they are over it.
	for {
		err := l.Wait(t.Context(), 2)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrIncomplete) {
			t.Fatal(err)
		}
		_, changed, _ := l.progress.state(2)
		<-changed
	}
	mustBeClean(t, l)
}

func TestRunEndsWithItsSource(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options())
	source := make(channel)
	close(source)
	if err := l.Run(t.Context(), source, &updates{}); err == nil {
		t.Error("run ends without an error when its source does")
	}
}

// TestMetrics lints what is exported and looks for what operators alert on.
func TestMetrics(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options())
	if err := l.Attach(n.veth(1)); err != nil {
		t.Fatal(err)
	}
	u := someServices()
	u.Set[1].Backends[0].Draining = true
	mustSync(t, l, u)
	fill(t, l, 16)
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(l.Collector())
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, label := range m.Label {
				name += " " + label.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"sluice_service_connections_total default http TCP web": 77,
		"sluice_service_packets_total default http TCP web":     0,
		"sluice_drops_total spoofed":                            0,
		"sluice_map_entries services":                           6,
		"sluice_map_entries flows":                              16,
		"sluice_map_entries endpoints":                          2,
		"sluice_map_limit_entries slots":                        256,
		"sluice_sync_duration_seconds":                          1,
		"sluice_sync_errors_total":                              0,
		"sluice_sync_lag_seconds":                               0,
		"sluice_sync_pending_frontends":                         0,
		"sluice_sync_revision":                                  3,
		"sluice_draining_backends":                              1,
		"sluice_sync_writes_total slots":                        4,
		"sluice_sync_writes_total backends":                     5,
		"sluice_sync_writes_total services":                     6,
		"sluice_sync_writes_total service_stats":                3,
		"sluice_attached_interfaces":                            1,
		"sluice_closed_identities":                              0,
		"sluice_map_entries subjects":                           4,
		"sluice_scrape_errors":                                  0,
	} {
		got, there := values[name]
		if !there || got != want {
			t.Errorf("%s is %v (there: %v), want %v", name, got, there, want)
		}
	}
	for _, m := range []string{"flows", "services", "backends"} {
		if values["sluice_map_memory_bytes "+m] == 0 {
			t.Errorf("map %s takes no memory", m)
		}
	}
}
