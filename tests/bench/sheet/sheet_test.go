package sheet

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

func TestCase(t *testing.T) {
	c := Of("Path", "kind", "TCP_RR", "services", 100, "way", "VIP by tc")
	if want := Case("Path/kind=TCP_RR/services=100/way=VIP_by_tc"); c != want {
		t.Fatalf("%s, want %s", c, want)
	}
	if c.Part() != "Path" || c.Get("services") != "100" || c.Get("none") != "" {
		t.Errorf("%s: part %q, services %q, none %q", c, c.Part(), c.Get("services"), c.Get("none"))
	}
	if got, want := c.With("way", "direct"), Case("Path/kind=TCP_RR/services=100/way=direct"); got != want {
		t.Errorf("with another way: %s, want %s", got, want)
	}
	if got, want := c.Without("way"), Case("Path/kind=TCP_RR/services=100"); got != want {
		t.Errorf("without a way: %s, want %s", got, want)
	}
}

// What is written, benchstat's own reader reads back.
func TestWriteBenchmarks(t *testing.T) {
	s := &Sheet{About: []About{{"kernel", "6.18.0 SMP"}, {"commit", "abc"}}}
	c := Of("Kernel", "program", "from_pod", "services", 10)
	s.Add(c, 0, 1000, Value{"ns/op", 81.5}, Value{"insns/op", 240})
	s.Add(c, 1, 2000, Value{"ns/op", 79})
	var out bytes.Buffer
	if err := s.WriteBenchmarks(&out); err != nil {
		t.Fatal(err)
	}
	r := benchfmt.NewReader(&out, "test")
	var got []*benchfmt.Result
	for r.Scan() {
		switch rec := r.Result().(type) {
		case *benchfmt.Result:
			got = append(got, rec.Clone())
		case *benchfmt.SyntaxError:
			t.Fatal(rec)
		}
	}
	if len(got) != 2 || string(got[0].Name) != string(c) || got[1].Iters != 2000 || got[0].GetConfig("kernel") != "6.18.0 SMP" {
		t.Fatalf("read back %+v", got)
	}
	if v, _ := got[0].Value("insns/op"); v != 240 {
		t.Errorf("insns/op is %v", v)
	}
}

// benchstat compares only what has the same configuration: of two runs on one machine, all has.
func TestWriteBenchmarksOfTwoRuns(t *testing.T) {
	configs := map[string]bool{}
	for _, commit := range []string{"abc", "def"} {
		s := &Sheet{About: []About{{"kernel", "6.18.0"}, {"commit", commit}, {"date", "of " + commit}, {"load-start", commit}}}
		s.Add(Of("Path", "way", "direct"), 0, 1, Value{"ns/op", 1})
		var out bytes.Buffer
		if err := s.WriteBenchmarks(&out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "commit: "+commit+"\n") {
			t.Errorf("the commit is not told:\n%s", out.String())
		}
		for r := benchfmt.NewReader(&out, commit); r.Scan(); {
			result, ok := r.Result().(*benchfmt.Result)
			if !ok {
				t.Fatalf("%s: %v", commit, r.Result())
			}
			var config strings.Builder
			for _, c := range result.Config {
				if c.File {
					fmt.Fprintf(&config, "%s=%s ", c.Key, c.Value)
				}
			}
			configs[config.String()] = true
		}
	}
	if len(configs) != 1 || !configs["kernel=6.18.0 "] {
		t.Errorf("configurations %v", configs)
	}
}

func TestSaveLoad(t *testing.T) {
	s := &Sheet{About: []About{{"kernel", "6.18"}}}
	c := Of("Path", "way", "direct")
	s.Add(c, 3, 7, Value{"p50-ns", 22000})
	s.AddLatency(Latency{c, []Quantile{{0.5, 22000}, {0.99, 40000}}})
	s.Note("Path", "%d rounds", 10)
	var out bytes.Buffer
	if err := s.Save(&out); err != nil {
		t.Fatal(err)
	}
	l, err := Load(&out)
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := l.Samples(c)[0].Value("p50-ns"); v != 22000 || l.About[0].Value != "6.18" ||
		l.Latencies("Path")[0].Quantiles[1].Nanoseconds != 40000 || l.Notes("Path")[0].Text != "10 rounds" {
		t.Errorf("loaded %+v", l)
	}
	if _, err := Load(strings.NewReader("{")); err == nil {
		t.Error("half a file was loaded")
	}
}

// A drift that both ways share does not show in their ratio, and a true difference does.
func TestRatio(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := &Sheet{}
	base, other := Of("Path", "way", "direct"), Of("Path", "way", "socket")
	again := base.With("way", "direct"+Again)
	for round := range 20 {
		drift := 100 * (1 + random.Float64())
		jitter := func() float64 { return 1 + 0.01*(random.Float64()-0.5) }
		s.Add(base, round, 1, Value{"ns", drift * jitter()})
		s.Add(again, round, 1, Value{"ns", drift * jitter()})
		s.Add(other, round, 1, Value{"ns", 0.9 * drift * jitter()})
	}
	noise := s.Noise(base, "way", "ns")
	if noise <= 0 || noise > 0.02 {
		t.Errorf("noise %v", noise)
	}
	if e := s.Ratio(other, base, "ns"); math.Abs(e.Center-0.9) > 0.01 || !e.Shows(noise) || e.Lo > 0.9 || e.Hi < 0.9 {
		t.Errorf("ratio %s", e)
	}
	if e := s.Ratio(again, base, "ns"); e.Shows(noise) {
		t.Errorf("direct against itself shows: %s with noise %v", e, noise)
	}
	if e := s.Ratio(other, base, "none"); e.Rounds != 0 || e.Shows(0) || e.String() != "-" {
		t.Errorf("a figure that was not measured: %s", e)
	}
}

// What few rounds of each of several cases do not show, all of them together do.
func TestRatioOfAll(t *testing.T) {
	s := &Sheet{}
	var cases []Case
	for services := range 4 {
		c := Of("Path", "services", services, "way", "socket")
		cases = append(cases, c)
		for round := range 3 {
			s.Add(c, round, 1, Value{"ns", 0.9 * float64(1+services) * float64(100+round)})
			s.Add(c.With("way", "direct"), round, 1, Value{"ns", float64(1+services) * float64(100+round)})
		}
	}
	base := func(c Case) Case { return c.With("way", "direct") }
	if e := s.RatioOfAll(cases, base, "ns"); e.Rounds != 12 || math.Abs(e.Center-0.9) > 1e-9 || !e.Shows(0.09) || math.Abs(e.Strays()-0.1) > 1e-9 {
		t.Errorf("%d rounds: %s, strays %v", e.Rounds, e, e.Strays())
	}
	if e := s.RatioOfAll(nil, base, "ns"); e.Rounds != 0 || e.Strays() != 0 {
		t.Errorf("of nothing: %s", e)
	}
}

// Few rounds prove nothing.
func TestFewRounds(t *testing.T) {
	s := &Sheet{}
	for round := range 3 {
		s.Add("A/way=a", round, 1, Value{"ns", 100})
		s.Add("A/way=b", round, 1, Value{"ns", 200})
	}
	if e := s.Ratio("A/way=b", "A/way=a", "ns"); e.Center != 2 || e.Shows(0) {
		t.Errorf("three rounds show %s", e)
	}
}
