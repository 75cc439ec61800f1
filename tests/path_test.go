package tests

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// TestPath: the benchmark measures every kind of call by every way of Sluice's and the kernel's, also when there
// are services besides, and leaves nothing behind. What the figures are is not the matter.
func TestPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ways, err := path.Routed(lab, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := path.Sluice(t.Context(), lab, nstest.Settings{}, 0)
	ways = append(ways, ours...)
	t.Cleanup(func() {
		for _, w := range ways {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
		if left, err := nstest.Leaks(nstest.Owner()); err != nil || len(left) > 0 {
			t.Errorf("%v, left behind:\n%s", err, strings.Join(left, "\n"))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &sheet.Sheet{}
	both := []path.Family{path.IPv4, path.IPv6}
	for _, plan := range []path.Plan{
		{Kinds: path.Kinds(), Families: both, Services: []int{1}},
		{Kinds: []batch.Kind{batch.TCPRR}, Families: both, Services: []int{300}},
	} {
		plan.Rounds, plan.Batch, plan.Log = 2, 2*time.Millisecond, t.Logf
		if err := path.Measure(t.Context(), s, plan, ways...); err != nil {
			t.Fatal(err)
		}
		for _, f := range plan.Families {
			for _, k := range plan.Kinds {
				for _, w := range path.WaysOf(k, ways) {
					sane(t, s, path.Case(k, f, plan.Services[0], w.Name()))
				}
			}
		}
	}
}

// sane wants a case to have the figures of its kind, in both rounds.
func sane(t *testing.T, s *sheet.Sheet, c sheet.Case) {
	t.Helper()
	units := []string{"p50-ns", "p90-ns", "p99-ns", "p99.9-ns", "ns/op", "cpu-ns/op"}
	if batch.Kind(c.Get("kind")).Stream() {
		units = []string{"B/s", "cpu-ns/op"}
	}
	samples := s.Samples(c)
	if len(samples) != 2 {
		t.Errorf("%s: %d rounds", c, len(samples))
	}
	for _, sample := range samples {
		for _, unit := range units {
			if v, ok := sample.Value(unit); !ok || v <= 0 || sample.N == 0 {
				t.Errorf("%s: %s of %d is %v", c, unit, sample.N, v)
			}
		}
		p50, _ := sample.Value("p50-ns")
		if p999, _ := sample.Value("p99.9-ns"); p50 > p999 {
			t.Errorf("%s: p50 is %v, p99.9 %v", c, p50, p999)
		}
	}
}
