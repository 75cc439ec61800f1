package part

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// The distribution of the numbers to n is a line, and its tail ends where samples do.
func TestLatencies(t *testing.T) {
	s := &sheet.Sheet{}
	l := NewLatencies(s)
	c := sheet.Of("Control", "step", "registered")
	for round := range 2 {
		var took []time.Duration
		for i := range 1000 {
			took = append(took, time.Duration(1000-i)*time.Microsecond)
		}
		l.Round(c, round, took, sheet.Value{Unit: "ops/s", Value: 5})
	}
	l.Round(c, 2, nil)
	l.Done()
	l.Done()
	samples := s.Samples(c)
	if len(samples) != 2 || samples[1].N != 1000 {
		t.Fatalf("samples %+v", samples)
	}
	for unit, want := range map[string]float64{"p50-ns": 501e3, "p99-ns": 991e3, "ops/s": 5} {
		if got, _ := samples[0].Value(unit); got != want {
			t.Errorf("%s is %v, want %v", unit, got, want)
		}
	}
	all := s.Latencies("Control")
	if len(all) != 1 {
		t.Fatalf("%d distributions", len(all))
	}
	last := all[0].Quantiles[0]
	shares := map[float64]float64{last.Share: last.Nanoseconds}
	for _, q := range all[0].Quantiles[1:] {
		if q.Share <= last.Share || q.Nanoseconds < last.Nanoseconds {
			t.Errorf("%+v stands after %+v", q, last)
		}
		shares[q.Share], last = q.Nanoseconds, q
	}
	if shares[0] != 1e3 || shares[0.5] != 501e3 || shares[0.99] != 991e3 || shares[1] != 1e6 {
		t.Errorf("quantiles %v", shares)
	}
	if _, there := shares[0.9999]; there {
		t.Error("2000 samples have no 0.9999 quantile")
	}
}

func TestLongRounds(t *testing.T) {
	for want, e := range map[int]Env{6: {Rounds: 10}, 3: {Rounds: 6, Quick: true}, 2: {Rounds: 2}, 1: {Rounds: 1, Quick: true}} {
		if got := e.LongRounds(); got != want {
			t.Errorf("%+v: %d rounds, want %d", e, got, want)
		}
	}
}

func TestUsageOf(t *testing.T) {
	before, err := UsageOf(os.Getpid())
	if err != nil || before.Resident <= 0 || before.Peak < before.Resident || before.Files <= 0 {
		t.Errorf("this test uses %+v: %v", before, err)
	}
	var own unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &own); err != nil {
		t.Fatal(err)
	}
	after, err := UsageOf(os.Getpid())
	if at := time.Duration(own.Nano()); err != nil || before.CPU <= 0 || before.CPU > at || at > after.CPU {
		t.Errorf("CPU time %v, then by this process's clock %v, then %v: %v", before.CPU, at, after.CPU, err)
	}
	if _, err := UsageOf(1 << 30); err == nil {
		t.Error("a process that is not there takes something")
	}
}

func TestParseStatus(t *testing.T) {
	u, err := parseStatus("Name:\ta\nVmHWM:\t  30 kB\nVmRSS:\t 20 kB\nRssFile:\t 10 kB\n")
	if want := (Usage{Resident: 20480, Files: 10240, Peak: 30720}); u != want || err != nil {
		t.Errorf("parsed %+v, want %+v: %v", u, want, err)
	}
	if _, err := parseStatus("VmRSS: much\n"); err == nil {
		t.Error("what is no number was parsed")
	}
}
