package scale

import (
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// TestDataplane measures small ones once, in processes of their own as the benchmark does.
func TestDataplane(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	env := part.Env{Sheet: &sheet.Sheet{}, Rounds: 1, Log: t.Logf}
	for _, a := range axes() {
		if a.grow != "services" && a.grow != "containers" && a.grow != "flows" {
			continue // they differ in what a dataplane is filled with only
		}
		a.sizes = a.sizes[:1]
		if err := a.run(t.Context(), env); err != nil {
			t.Errorf("%s: %v", a.grow, err)
		}
	}
	figures := 0
	for _, c := range env.Sheet.Cases(Name) {
		for _, sample := range env.Sheet.Samples(c) {
			for _, v := range sample.Values {
				if math.IsNaN(v.Value) || v.Value <= 0 && v.Unit != "entries" {
					t.Errorf("%s: %g %s", c, v.Value, v.Unit)
				}
				figures++
			}
		}
	}
	if figures < 40 {
		t.Errorf("%d figures: %v", figures, env.Sheet.Cases(Name))
	}
}

// TestAddresses: no two of what there are many of have the same.
func TestAddresses(t *testing.T) {
	seen := map[netip.AddrPort]string{}
	add := func(a netip.AddrPort, what string) {
		if was := seen[a]; was != "" {
			t.Fatalf("%s is of %s and of %s", a, was, what)
		}
		seen[a] = what
	}
	for i := range 20_000 {
		add(netip.AddrPortFrom(stallVIP(i), 0), "a service")
		for _, e := range stallSlice(i, i%6).Endpoints {
			add(netip.AddrPortFrom(e.Addresses[0], 0), "a backend")
		}
	}
	for _, c := range probeServices(100_000) {
		if c.Slice != nil {
			for _, e := range c.Slice.Endpoints {
				if e.Addresses[0] != serverAddr {
					add(netip.AddrPortFrom(e.Addresses[0], 0), "a probe's backend")
				}
			}
		}
	}
	for i := range 10_000 {
		add(netip.AddrPortFrom(crewAddr(i), 0), "a container")
	}
	for i := range crowdSize {
		add(netip.AddrPortFrom(crowdAddr(i), 0), "one of the crowd")
	}
	clear(seen)
	for i := range 200_000 {
		from, to := flow(i)
		if from.Port() < 1<<14 || to.Port() != servicePort {
			t.Fatalf("flow %d is from %s to %s", i, from, to)
		}
		add(netip.AddrPortFrom(to.Addr(), from.Port()), "a flow")
	}
}

// TestChanges: each change of a crowd's backends is one.
func TestChanges(t *testing.T) {
	for _, n := range []int{10, 1000} {
		w := &World{plan: plan{Grow: "services", N: n}}
		is := map[string]netip.Addr{}
		for range 5 * n {
			s := w.changedService(registry.AlgorithmRandom).Slice
			now := s.Endpoints[0].Addresses[0]
			if is[s.Service] == now {
				t.Fatalf("of %d: %s stays as it is", n, s.Service)
			}
			is[s.Service] = now
		}
	}
}

func TestMapScale(t *testing.T) {
	for _, c := range []struct {
		grow string
		n    int
		want float64
	}{
		{"services", 10_000, 1}, {"services", 100_000, 2}, {"backends", 100_000, 1}, {"flows", 100_000, 1},
		{"flows", 1_000_000, 4}, {"policies", 10_000, 1}, {"containers", 10_000, 1},
	} {
		got := mapScale(c.grow, c.n)
		if got != c.want {
			t.Errorf("%d %s: %g, want %g", c.n, c.grow, got, c.want)
		}
		if s := loader.DefaultSizes().Scale(got); c.grow == "services" && int(s.Services) < c.n {
			t.Errorf("%d services do not fit into %d", c.n, s.Services)
		}
	}
}

func TestMiddle(t *testing.T) {
	if got := middle([]float64{1000, 10, 20, 30, 40, 20, 30, 0}); got != 25 {
		t.Errorf("%g, want the mean of 20, 20, 30, 30", got)
	}
}

func TestMoved(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1"), netip.MustParseAddrPort("10.0.0.3:1")
	if got := moved([]netip.AddrPort{a, b, c, b, c}, []netip.AddrPort{b, b, c, b, b}, a); got != 0.25 {
		t.Errorf("%g, want one of four", got)
	}
}

// TestTell: what is flat or straight is not told of, what bends is.
func TestTell(t *testing.T) {
	a := axis{grow: "services", changes: []string{"random"}, packets: []string{"new_random", "new_all_in_turn"}}
	worlds := []*child{{plan: plan{Grow: "services", N: 10, Scale: 1}}, {plan: plan{Grow: "services", N: 100_000, Scale: 1}}}
	for _, bend := range []float64{1.1, 3} {
		s := &sheet.Sheet{}
		for i, c := range worlds {
			by := []float64{1, bend}[i]
			s.Add(a.name(c, "step", "load"), 0, 1, sheet.Value{Unit: "load-s", Value: by * float64(c.plan.N)},
				sheet.Value{Unit: "sync-s", Value: by * float64(c.plan.N) / 4}, sheet.Value{Unit: "heap-B", Value: 2e6})
			s.Add(a.name(c, "step", "change", "kind", "random"), 0, 1, sheet.Value{Unit: "p50-ns", Value: by}, sheet.Value{Unit: "writes/op", Value: 13})
			for _, kind := range a.packets {
				s.Add(a.name(c, "step", "packet", "kind", kind), 0, 1, sheet.Value{Unit: "ns/op", Value: by})
			}
		}
		a.tell(s, worlds)
		want := map[bool]int{true: 4}[bend > straight]
		if notes := s.Notes(Name); len(notes) != want {
			t.Errorf("bent by %g: %q, want %d", bend, notes, want)
		}
		if bend > straight && !slices.ContainsFunc(s.Notes(Name), func(n sheet.Note) bool {
			return strings.Contains(n.Text, "the maps 25 %; what all of them hold is a heap of 2 MB")
		}) {
			t.Errorf("no word of what loading consists of: %q", s.Notes(Name))
		}
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int]string{7: "7", 1000: "1 000", 65521: "65 521", 1_000_000: "1 000 000"} {
		if got := grouped(n); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestTellAims: what is told of aims depends on what was measured.
func TestTellAims(t *testing.T) {
	for want, told := range map[string]float64{"are met and missed": 0.1, "are missed and missed": 0.6} {
		s := &sheet.Sheet{}
		s.Add(agentCase(aimServices, "told"), 0, 1, sheet.Value{Unit: "load-s", Value: told})
		s.Add(agentCase(aimServices, "agent_start"), 0, 1, sheet.Value{Unit: "rss-B", Value: 121e6})
		tellAims(s, aimServices)
		if notes := s.Notes(Name); len(notes) != 3 || !strings.Contains(notes[0].Text, want) {
			t.Errorf("%+v, want %q", notes, want)
		}
	}
}
