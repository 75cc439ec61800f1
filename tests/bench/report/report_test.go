package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// wellFormed fails unless every element of a document is closed, and returns how many of each there are.
func wellFormed(t *testing.T, name string, text []byte, strict bool) map[string]int {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(text))
	if !strict {
		d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	}
	elements := map[string]int{}
	var open []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			elements[e.Name.Local]++
			open = append(open, e.Name.Local)
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != e.Name.Local {
				t.Fatalf("%s: </%s> closes %v", name, e.Name.Local, open)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Fatalf("%s: %v stay open", name, open)
	}
	return elements
}

func write(t *testing.T, s *sheet.Sheet) (dir, html string) {
	t.Helper()
	dir = t.TempDir()
	if err := Write(s, dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	return dir, string(text)
}

// A sheet goes in; a page comes out that is whole by itself, and every plot of it also as two files.
func TestWrite(t *testing.T) {
	dir, html := write(t, sample(6))
	elements := wellFormed(t, "report.html", []byte(html), false)
	svgs, err := filepath.Glob(filepath.Join(dir, plots, "*.svg"))
	if err != nil || len(svgs) == 0 || len(svgs) != elements["svg"] || elements["figure"] != elements["svg"] {
		t.Errorf("%d SVG files beside %d in the page: %v", len(svgs), elements["svg"], err)
	}
	for _, name := range svgs {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := wellFormed(t, name, text, true); n["text"] < 4 || n["path"] < 4 {
			t.Errorf("%s shows nothing: %v", name, n)
		}
		f, err := os.Open(strings.TrimSuffix(name, ".svg") + ".png")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := png.Decode(f); err != nil {
			t.Errorf("%s: %v", f.Name(), err)
		}
		f.Close()
	}
	for _, want := range []string{
		"VIP by socket hook", "kube-proxy, nftables", "10\u00a0000 services", "p99.9, µs", "CPU per operation, µs", "AMD EPYC", "abc1234",
		"vip_tc misses its aim in 2 of 12 cases.", "established VIP", "load time, ms", "latencies", "ADD",
	} {
		if !strings.Contains(html, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, part := range []string{"path", "kernel", "scale", "control"} {
		if !strings.Contains(html, `href="#`+part+`"`) || !strings.Contains(html, `id="`+part+`"`) {
			t.Errorf("%s is not in the table of contents, or not in the page", part)
		}
	}
	if found := regexp.MustCompile(`(?i)src=|<link|url\(|@import|<script`).FindString(html); found != "" {
		t.Errorf("the page needs something beside it: %q", found)
	}
}

// Plots of an earlier run do not stand beside those of this one, and what is not a plot stays.
func TestWriteAgain(t *testing.T) {
	dir, _ := write(t, small(6))
	before, err := filepath.Glob(filepath.Join(dir, plots, "*"))
	if err != nil || len(before) == 0 {
		t.Fatalf("%d files: %v", len(before), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "results.json"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(&sheet.Sheet{}, dir); err != nil {
		t.Fatal(err)
	}
	if after, err := filepath.Glob(filepath.Join(dir, plots, "*")); err != nil || len(after) > 0 {
		t.Errorf("%v of the earlier run are there: %v", after, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "results.json")); err != nil {
		t.Error(err)
	}
}

// Every place that the page points at is there, once.
func TestLinks(t *testing.T) {
	_, html := write(t, small(6))
	var ids []string
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		if slices.Contains(ids, m[1]) {
			t.Errorf("%s is there twice", m[1])
		}
		ids = append(ids, m[1])
	}
	links := regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(html, -1)
	if len(links) < 3 {
		t.Errorf("%d links", len(links))
	}
	for _, m := range links {
		if !slices.Contains(ids, m[1]) {
			t.Errorf("%s leads nowhere", m[1])
		}
	}
}

// small is a sheet of one family of ways.
func small(rounds int) *sheet.Sheet {
	s := &sheet.Sheet{}
	for round := range rounds {
		jitter := []float64{0.99, 1.01, 1, 1.005, 0.995, 1.008, 0.992}[round%7]
		for way, factor := range map[string]float64{
			"direct": 1, "direct_again": 1 * jitter, "container": 0.9 * jitter, "vip_socket": 1.2 * jitter, "vip_tc": 1.004 * jitter, "nginx": 1.009,
		} {
			s.Add(sheet.Of("Path", "kind", "TCP_RR", "family", "IPv4", "services", 100, "way", way), round, 1,
				sheet.Value{Unit: "p50-ns", Value: 20000 * factor}, sheet.Value{Unit: "B/s", Value: 1e9 / factor})
		}
	}
	return s
}

// A ratio says that it is within the noise where its interval holds 1, or where it is no further from 1 than
// direct is from itself, and nowhere else.
func TestWithinNoise(t *testing.T) {
	r := reporter{s: small(7)}
	groups, err := r.wayGroups(r.s.Cases("Path"))
	if err != nil || len(groups) != 1 {
		t.Fatalf("%d groups: %v", len(groups), err)
	}
	want := map[string]string{
		"direct with Sluice": better, "VIP by socket hook": worse,
		"VIP by tc":                noise, // its interval holds 1
		"nginx, a userspace proxy": noise, // its interval does not, but the noise is ± 1 %
	}
	seen := 0
	for _, row := range groups[0].Blocks[0].Table.Rows {
		way, ratio := row[1].Text, row[2]
		if ratio.Class != want[way] || strings.Contains(ratio.Text, "within noise") != (want[way] == noise) {
			t.Errorf("%s: %q is %q, want %q", way, ratio.Text, ratio.Class, want[way])
		}
		seen++
	}
	if seen != 5 {
		t.Errorf("%d ways are compared", seen)
	}
}

// Where more is better, a larger ratio is.
func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		e    sheet.Estimate
		unit string
		want string
	}{
		{sheet.Estimate{Center: 0.9, Lo: 0.89, Hi: 0.91, Rounds: 10}, "p50-ns", better},
		{sheet.Estimate{Center: 0.9, Lo: 0.89, Hi: 0.91, Rounds: 10}, "B/s", worse},
		{sheet.Estimate{Center: 1.1, Lo: 1.09, Hi: 1.11, Rounds: 10}, "ops/s", better},
		{sheet.Estimate{Center: 1.1, Lo: 0.99, Hi: 1.21, Rounds: 10}, "ops/s", noise},
		{sheet.Estimate{Center: 1.02, Lo: 1.01, Hi: 1.03, Rounds: 10}, "p50-ns", noise},
		{sheet.Estimate{}, "p50-ns", unknown},
	} {
		if got := verdict(tt.e, 0.03, tt.unit); got != tt.want {
			t.Errorf("%s in %s is %q, want %q", tt.e, tt.unit, got, tt.want)
		}
	}
}

// Three rounds have no interval, and say so instead of guessing.
func TestFewRounds(t *testing.T) {
	_, html := write(t, small(3))
	if strings.Contains(html, "within noise</td>") || !strings.Contains(html, "too few rounds to tell</td>") {
		t.Error("few rounds are judged")
	}
	if strings.Contains(html, "NaN") || strings.Contains(html, "Inf") {
		t.Error("the page shows what is no number")
	}
}

// Names and notes are what a benchmark says they are, and never markup.
func TestHostile(t *testing.T) {
	const evil = `"><script>alert('x')</script>`
	s := small(6)
	s.About = []sheet.About{{Key: "cpu" + evil, Value: evil + " | `x`"}}
	s.Note("Path", "%s", evil+" | [x](javascript:y)")
	s.Note("Ev"+evil, "%s", evil)
	s.Judge(sheet.Aim{Part: evil, What: evil + " | [x](javascript:y)", Unit: evil, Met: 1})
	for _, way := range []string{"direct", evil} {
		for round := range 6 {
			s.Add(sheet.Of("Path", "kind", evil, "services", 10, "way", way), round, 1, sheet.Value{Unit: "p50-ns", Value: 1})
		}
		s.AddLatency(sheet.Latency{Case: sheet.Of("Path", "kind", evil, "services", 10, "way", way), Quantiles: quantiles(100, 0.1)})
	}
	for _, services := range []int{1, 10, 100} {
		s.Add(sheet.Of("Scale", "step", evil, "services", services), 0, 1, sheet.Value{Unit: evil + "-s", Value: 1})
	}
	s.Add(sheet.Of("Kernel", "class", evil), 0, 1, sheet.Value{Unit: "ns/op", Value: 1})
	dir, html := write(t, s)
	wellFormed(t, "report.html", []byte(html), false)
	if strings.Contains(strings.ToLower(html), "<script") {
		t.Error("a name became a script")
	}
	svgs, err := filepath.Glob(filepath.Join(dir, plots, "*.svg"))
	if err != nil || len(svgs) == 0 {
		t.Fatalf("%d plots: %v", len(svgs), err)
	}
	for _, name := range svgs {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := wellFormed(t, name, text, true); n["script"] > 0 {
			t.Errorf("%s holds a script", name)
		}
	}
	var out strings.Builder
	if err := Summary(s, &out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "<script") || strings.Contains(strings.ReplaceAll(out.String(), `\](`, ""), "](") {
		t.Error("a name became markup of the summary")
	}
}

// A part of which nothing is known is shown as a table, and one that only says why it has no figures is there.
func TestUnknownPart(t *testing.T) {
	s := &sheet.Sheet{}
	s.Add(sheet.Of("Moon", "phase", "full", "tide", "high"), 0, 1, sheet.Value{Unit: "craters/op", Value: 4321})
	s.Add(sheet.Of("Moon", "phase", "new", "tide", "low"), 0, 1, sheet.Value{Unit: "craters/op", Value: 1234567})
	s.Add(sheet.Of("Moon"), 0, 1, sheet.Value{Unit: "lonely", Value: 5})
	s.Note("Sun", "It was too bright.")
	_, html := write(t, s)
	for _, want := range []string{"phase", "full", "low", "craters", "4321", "1\u00a0234\u00a0567", "lonely", "Sun", "It was too bright."} {
		if !strings.Contains(html, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// Figures that have no place in a plot keep no other from being shown, nor does a sheet without any.
func TestOddFigures(t *testing.T) {
	write(t, &sheet.Sheet{})
	for _, odd := range []float64{0, -3, math.NaN(), math.Inf(1), 1e300, 1e-300} {
		s := small(6)
		for round := range 6 {
			for i, c := range []sheet.Case{
				sheet.Of("Path", "kind", "X", "way", "direct"), sheet.Of("Path", "kind", "X", "way", "vip_tc"),
				sheet.Of("Path", "kind", "TCP_RR", "family", "IPv4", "services", 100, "way", "odd"),
				sheet.Of("Kernel", "class", "a", "flows", 1), sheet.Of("Kernel", "class", "b", "flows", 2),
				sheet.Of("Scale", "flows", 0), sheet.Of("Scale", "flows", 1), sheet.Of("Scale", "flows", 10), sheet.Of("Scale", "flows", 100),
				sheet.Of("Control", "step", "a"),
			} {
				s.Add(c, round, 1, sheet.Value{Unit: "p50-ns", Value: odd}, sheet.Value{Unit: "lookups/op", Value: odd},
					sheet.Value{Unit: "fine/op", Value: 7000 + float64(i)})
			}
		}
		s.AddLatency(sheet.Latency{Case: "Control/step=a", Quantiles: []sheet.Quantile{{Share: 0.5, Nanoseconds: odd}, {Share: 0.9, Nanoseconds: odd}}})
		_, html := write(t, s)
		for i := range 10 {
			if !strings.Contains(html, fmt.Sprintf(">%d<", 7000+i)) {
				t.Errorf("with %v, figure %d is not in the page", odd, 7000+i)
			}
		}
	}
}

// Nothing that was measured is left out of the page.
func TestNothingIsLost(t *testing.T) {
	s := small(6)
	for i, c := range []sheet.Case{
		sheet.Of("Scale", "services", 10, "backends", 40), sheet.Of("Scale", "services", 100, "backends", 400),
		sheet.Of("Scale", "services", 1000, "backends", 4000), sheet.Of("Scale", "services", 1000, "backends", 8000),
		sheet.Of("Scale", "flows", 0), sheet.Of("Scale", "flows", 10), sheet.Of("Scale", "flows", 100),
		sheet.Of("Kernel", "class", "denied"), sheet.Of("Kernel", "class", "reply", "flows", 10),
		sheet.Of("Scale", "way", "alone"),
	} {
		s.Add(c, 0, 1, sheet.Value{Unit: "ns/op", Value: float64(501 + i)})
	}
	_, html := write(t, s)
	for i := range 10 {
		if !strings.Contains(html, ">"+number(float64(501+i))+"<") {
			t.Errorf("figure %d is not in the page", 501+i)
		}
	}
}
