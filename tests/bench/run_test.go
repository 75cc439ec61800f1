package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

func TestChoose(t *testing.T) {
	for names, want := range map[string][]string{
		"":               {"Kernel", "Path", "Scale", "Control"},
		"path":           {"Path"},
		"control kernel": {"Kernel", "Control"},
		"Scale,,path":    {"Path", "Scale"},
	} {
		chosen, err := choose(names)
		var got []string
		for _, p := range chosen {
			got = append(got, p.name)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q chooses %v: %v", names, got, err)
		}
	}
	if _, err := choose("path,speed"); err == nil || !strings.Contains(err.Error(), `"speed"`) {
		t.Errorf("a part that there is not: %v", err)
	}
}

// The repository's summary is of whole runs only.
func TestSummaryFile(t *testing.T) {
	for _, tt := range []struct {
		o        options
		measured int
		err      error
		want     string
	}{
		{options{}, 4, nil, summaryFile},
		{options{quick: true}, 4, nil, ""},
		{options{}, 1, nil, ""},
		{options{}, 4, errors.New("a part failed"), ""},
		{options{quick: true, summary: "x.md"}, 1, nil, "x.md"},
	} {
		if got := summary(tt.o, tt.measured, tt.err); got != tt.want {
			t.Errorf("%+v, %d parts, error %v: %q, want %q", tt.o, tt.measured, tt.err, got, tt.want)
		}
	}
}

func TestMayMeasure(t *testing.T) {
	if err := mayMeasure(0); err != nil {
		t.Error(err)
	}
	if err := mayMeasure(65534); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("nobody may measure: %v", err)
	}
}

// What a run has saved makes the same report again.
func TestAgain(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	s := &sheet.Sheet{About: []sheet.About{{Key: "kernel", Value: "6.18"}}}
	for round := range 6 {
		for _, way := range []string{"direct", "vip_tc"} {
			s.Add(sheet.Of("Path", "kind", "TCP_RR", "way", way), round, 1, sheet.Value{Unit: "p50-ns", Value: float64(100 + round)})
		}
	}
	s.Note("Path", "A note.")
	if err := save(s, options{out: first, summary: filepath.Join(first, "RESULTS.md")}); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), options{report: filepath.Join(first, "results.json"), out: second, summary: filepath.Join(second, "RESULTS.md")}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"report.html", "RESULTS.md"} {
		a, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(second, name)); err != nil || string(a) != string(b) {
			t.Errorf("%s is another one: %v", name, err)
		}
	}
	if err := run(t.Context(), options{report: filepath.Join(first, "results.txt"), out: second}); err == nil {
		t.Error("what is no JSON made a report")
	}
}
