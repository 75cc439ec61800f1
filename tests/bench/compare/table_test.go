package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"

	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// measured is a sheet in which vip_tc has become 10 % faster, container not, and CNI's ADD 20 % slower. All drifts
// from round to round, and a little between the sides of one.
func measured(rounds int) *sheet.Sheet {
	s := &sheet.Sheet{}
	for round := range rounds {
		drift := 1 + 0.02*float64(round*7%rounds)
		shake := 1 + 0.001*[]float64{1, -2, 3, -1, 2, -3}[round%6]
		for way, ns := range map[string]float64{
			"direct_old": 100, "direct_new": 100 * shake, "container_old": 95, "container_new": 95 / shake,
			"vip_tc_old": 100, "vip_tc_new": 90, "loopback": 50,
		} {
			s.Add(sheet.Of("Path", "kind", "TCP_RR", "way", way), round, 10,
				sheet.Value{Unit: "p50-ns", Value: ns * drift}, sheet.Value{Unit: "ns/op", Value: ns * drift * 1.1})
		}
		s.Add(sheet.Of("CNI", "step", "ADD_old"), round, 5, sheet.Value{Unit: "ns/op", Value: 10 * drift})
		s.Add(sheet.Of("CNI", "step", "ADD_new"), round, 5, sheet.Value{Unit: "ns/op", Value: 12 * drift})
	}
	return s
}

func TestRows(t *testing.T) {
	want := map[string]string{
		"Path/kind=TCP_RR/way=direct p50-ns": "~", "Path/kind=TCP_RR/way=container p50-ns": "~",
		"Path/kind=TCP_RR/way=vip_tc p50-ns": "-10.00%", "CNI/step=ADD ns/op": "+20.00%",
	}
	for _, r := range split(measured(10)).rows() {
		name := r.name + " " + r.unit
		if got := r.change(); got != want[name] {
			t.Errorf("%s changed by %q, want %q (p=%v)", name, got, want[name], r.p)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s is not compared", name)
	}
}

// Few rounds prove nothing, however large the difference is.
func TestFewRounds(t *testing.T) {
	for _, r := range split(measured(3)).rows() {
		if got := r.change(); got != "~" {
			t.Errorf("%s %s: %q after three rounds", r.name, r.unit, got)
		}
	}
}

// A drift that is larger than the change does not hide it: both sides of a round have it.
func TestRatio(t *testing.T) {
	s := &sheet.Sheet{}
	for round := range 10 {
		drift := 100 * float64(1+round)
		s.Add(sheet.Of("CNI", "step", "ADD_old"), round, 1, sheet.Value{Unit: "ns/op", Value: drift})
		s.Add(sheet.Of("CNI", "step", "ADD_new"), round, 1, sheet.Value{Unit: "ns/op", Value: 0.95 * drift})
	}
	rows := split(s).rows()
	if len(rows) != 1 || rows[0].change() != "-5.00%" || rows[0].interval() != "[-5.00%, -5.00%]" {
		t.Errorf("%+v", rows)
	}
}

// named is a way of which only the name is there.
type named struct {
	path.Way
	name string
}

func (n named) Name() string { return n.name }

// Each side's ways are measured by the kinds that they are for: those without an answer apart from the others.
func TestKindsOfSides(t *testing.T) {
	var all []path.Way
	for _, name := range []string{path.Direct, path.Container, path.VIPSocket, path.VIPTC, path.NoHook} {
		for _, side := range sides(0) {
			all = append(all, sided{named{name: name}, name + side})
		}
	}
	for _, k := range kinds() {
		var got []string
		for _, w := range path.WaysOf(k, all) {
			if name, ok := strings.CutSuffix(w.Name(), oldSide); ok {
				got = append(got, name)
			} else if !strings.HasSuffix(w.Name(), newSide) {
				t.Errorf("%s: %s is of no side", k, w.Name())
			}
		}
		want := []string{path.Direct, path.Container, path.VIPSocket, path.VIPTC}
		if k.Silent() {
			want = []string{path.NoHook, path.Container, path.VIPSocket}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v of each side, want %v", k, got, want)
		}
	}
}

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	if err := split(measured(10)).print(&out, "v1", "v1-3-gabc-dirty"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"v1-3-gabc-dirty", "109 ns ± 6%", "-10.00%", "[-10.00%, -10.00%]", "p=0.0020 n=10", "2 of 4 figures have changed", "way=direct has no Sluice"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "_old") || strings.Contains(out.String(), "loopback") {
		t.Errorf("the table has what is of no side:\n%s", out.String())
	}
}

// benchstat finds the same names in both files.
func TestSave(t *testing.T) {
	dir := t.TempDir()
	p := split(measured(6))
	p.old.About, p.new.About = about("v1"), about("v2")
	if err := p.save(dir); err != nil {
		t.Fatal(err)
	}
	names := map[string]map[string]int{}
	for _, file := range []string{"old.txt", "new.txt"} {
		f, err := os.Open(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		names[file] = map[string]int{}
		for r := benchfmt.NewReader(f, file); r.Scan(); {
			result, ok := r.Result().(*benchfmt.Result)
			if !ok {
				t.Fatalf("%s: %v", file, r.Result())
			}
			names[file][string(result.Name)]++
		}
	}
	if len(names["old.txt"]) != 4 {
		t.Errorf("%d names", len(names["old.txt"]))
	}
	for name, n := range names["old.txt"] {
		if n != 6 || names["new.txt"][name] != n {
			t.Errorf("%s: %d results in old.txt, %d in new.txt", name, n, names["new.txt"][name])
		}
	}
}
