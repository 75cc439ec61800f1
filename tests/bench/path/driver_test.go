package path

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// routedWays makes the ways without Sluice, with a load generator and nothing else.
func routedWays(t *testing.T) []Way {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	binary := filepath.Join(t.TempDir(), "load")
	if said, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../load").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, said)
	}
	ways, err := Routed(&nstest.Lab{Binaries: nstest.Binaries{Load: binary}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeAll(ways); err != nil {
			t.Error(err)
		}
		if left, err := nstest.Leaks(nstest.Owner()); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return ways
}

// Every kind by every way over both families does what its order says, and a driver outlives what fails.
func TestDriver(t *testing.T) {
	ways := routedWays(t)
	for _, w := range ways {
		for _, f := range []Family{IPv4, IPv6} {
			for _, k := range Kinds() {
				doBatch(t, w, f, k)
			}
		}
	}
	direct := ways[slices.IndexFunc(ways, func(w Way) bool { return w.Name() == Direct })]
	refuse(t, direct)
	doBatch(t, direct, IPv4, batch.TCPRR)
}

func doBatch(t *testing.T, w Way, f Family, k batch.Kind) {
	t.Helper()
	o := Plan{Rounds: 1, Batch: 2 * time.Millisecond}.order(k)
	o.To, o.PIDs, o.Count = netip.AddrPortFrom(w.To(f), k.Port()), w.PIDs(), 50
	o.For = time.Minute // the count ends it
	if k.Stream() {
		o.For = 2 * time.Millisecond
	} else {
		o.Warm = 0
	}
	r, err := w.Driver().Do(o)
	switch {
	case err != nil:
		t.Errorf("%s, %s over %s: %v", w.Name(), k, f, err)
	case r.Elapsed <= 0 || r.CPU <= 0:
		t.Errorf("%s, %s over %s: %d took %s and %s of CPU time", w.Name(), k, f, r.N, r.Elapsed, r.CPU)
	case k.Stream() && (r.N < 1024 || r.N%1024 != 0 || r.Latency != nil):
		t.Errorf("%s, %s over %s: %d KiB arrived", w.Name(), k, f, r.N)
	case !k.Stream() && (r.N != 50 || r.Latency.N() != 50):
		t.Errorf("%s, %s over %s: %d done, %d timed", w.Name(), k, f, r.N, r.Latency.N())
	case !k.Stream() && r.Latency.Quantile(1) > 1.002*float64(r.Elapsed):
		t.Errorf("%s, %s over %s: one of them took %.0f ns of %s", w.Name(), k, f, r.Latency.Quantile(1), r.Elapsed)
	}
}

// refuse gives orders that fail.
func refuse(t *testing.T, w Way) {
	t.Helper()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	good := batch.Order{
		Kind: batch.TCPCRR, To: netip.AddrPortFrom(w.To(IPv4), batch.Echo), For: time.Millisecond, Bytes: 1,
	}
	for want, spoil := range map[string]func(*batch.Order){
		"connection refused": func(o *batch.Order) { o.To = netip.AddrPortFrom(o.To.Addr(), 1) },
		"there is none":      func(o *batch.Order) { o.Kind = "TCP" },
		"requests of 0":      func(o *batch.Order) { o.Bytes = 0 },
		"requests of 1025":   func(o *batch.Order) { o.Bytes = batch.MaxBytes + 1 },
		"99 streams":         func(o *batch.Order) { o.Kind, o.Streams = batch.TCPStreams, 99 },
		"CPU time":           func(o *batch.Order) { o.PIDs = []int{dead.Process.Pid} },
	} {
		o := good
		spoil(&o)
		if r, err := w.Driver().Do(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: did %d, error %v", want, r.N, err)
		}
	}
}

// lost is a way to where nobody answers.
type lost struct{ Way }

func (l lost) Name() string         { return "lost" }
func (l lost) To(Family) netip.Addr { return netip.IPv6Loopback() }

// A way that fails costs its own figures, and no other's.
func TestFailingWay(t *testing.T) {
	ways := routedWays(t)
	s := &sheet.Sheet{}
	plan := Plan{
		Kinds: []batch.Kind{batch.TCPRR, batch.TCPStream}, Families: []Family{IPv6}, Services: []int{1, 2}, Rounds: 2,
		Batch: time.Millisecond, Log: t.Logf,
	}
	err := Measure(t.Context(), s, plan, append(ways, lost{ways[0]})...)
	if err == nil || !strings.Contains(err.Error(), "by lost") || strings.Count(err.Error(), "refused") != 1 {
		t.Errorf("measured: %v", err)
	}
	if n := s.Notes(Name); len(n) != 1 || !strings.Contains(n[0].Text, "lost") {
		t.Errorf("notes: %v", n)
	}
	for _, n := range plan.Services {
		for _, k := range plan.Kinds {
			for _, w := range ways {
				if got := len(s.Samples(Case(k, IPv6, n, w.Name()))); got != 2 {
					t.Errorf("%s, %s, %d services: %d rounds", w.Name(), k, n, got)
				}
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Measure(ctx, s, plan, ways...); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
