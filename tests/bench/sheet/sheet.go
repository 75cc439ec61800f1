// Package sheet holds what benchmarks measured: samples in the terms of Go's benchmark format, the
// distributions of latencies, and where all of it was measured.
//
// Every figure is measured in rounds, and what is compared is measured in the same rounds, in turn:
// so a comparison is one of ratios within a round, and what drifts between rounds falls out of it.
package sheet

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/perf/benchfmt"
)

// Sheet is what one run measured. Its methods may be called from several goroutines.
type Sheet struct {
	// About says where and of what: keys and values of the benchmark format's configuration lines.
	About []About

	mu        sync.Mutex
	samples   []Sample
	latencies []Latency
	notes     []Note
	aims      []Aim
}

// About is one line of configuration, such as {"kernel", "6.18.0"}.
type About struct{ Key, Value string }

// Sample is one round's figures of one case: a line of the benchmark format.
type Sample struct {
	Case   Case
	Round  int // samples of the same round may be compared one by one
	N      int // operations that the figures are of
	Values []Value
}

// Value is a figure with its unit, as benchstat wants it: "ns/op", "p99-ns", "insns/op", "B". Units
// whose larger values are better end in "/s".
type Value struct {
	Unit  string
	Value float64
}

// Case names what was measured, as in Path/kind=TCP_RR/family=IPv4/services=100/way=direct. Cases are
// equal if their texts are.
type Case string

// Of makes a case of a part (Kernel, Path, Scale, Control) and alternating keys and values. Neither may hold
// '/', '=' or white space, which the format gives a meaning; they are replaced.
func Of(part string, keyValues ...any) Case {
	if len(keyValues)%2 != 0 {
		panic("sheet.Of: a key without a value")
	}
	var b strings.Builder
	b.WriteString(clean(part))
	for i := 0; i < len(keyValues); i += 2 {
		fmt.Fprintf(&b, "/%s=%s", clean(fmt.Sprint(keyValues[i])), clean(fmt.Sprint(keyValues[i+1])))
	}
	return Case(b.String())
}

// clean replaces what separates the parts of a case. A number at the end of a benchmark's name behind a '-'
// is the number of CPUs, so there is none of those either.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '/', '=', ' ', '\t', '\n', '-':
			return '_'
		}
		return r
	}, s)
}

// Part is the first word of a case.
func (c Case) Part() string {
	part, _, _ := strings.Cut(string(c), "/")
	return part
}

// Get returns the value of a key; "": the case has none.
func (c Case) Get(key string) string {
	for field := range strings.SplitSeq(string(c), "/") {
		if k, v, _ := strings.Cut(field, "="); k == key {
			return v
		}
	}
	return ""
}

// With returns the case with another value of one of its keys, such as the one to compare it with.
func (c Case) With(key, value string) Case {
	fields := strings.Split(string(c), "/")
	for i, field := range fields {
		if k, _, _ := strings.Cut(field, "="); k == key {
			fields[i] = k + "=" + clean(value)
		}
	}
	return Case(strings.Join(fields, "/"))
}

// Without returns the case without a key: what it has in common with those it is compared with.
func (c Case) Without(key string) Case {
	fields := strings.Split(string(c), "/")
	return Case(strings.Join(slices.DeleteFunc(fields, func(field string) bool {
		k, _, _ := strings.Cut(field, "=")
		return k == key
	}), "/"))
}

// Latency is how long the operations of a case took, over all rounds.
type Latency struct {
	Case Case
	// Quantiles are the shares of operations, from 0 to 1, that took at most so many nanoseconds; they rise.
	Quantiles []Quantile
}

// Quantile is one point of a distribution.
type Quantile struct{ Share, Nanoseconds float64 }

// Note explains a figure, above all a bend, a missed aim, or what could not be measured here.
type Note struct {
	Part string
	Text string
}

// Add enters one round of a case.
func (s *Sheet) Add(c Case, round, n int, values ...Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples = append(s.samples, Sample{c, round, n, values})
}

// AddLatency enters the distribution of a case.
func (s *Sheet) AddLatency(l Latency) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latencies = append(s.latencies, l)
}

// Note enters an explanation, which the report shows beside the part's figures.
func (s *Sheet) Note(part, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, Note{part, fmt.Sprintf(format, args...)})
}

// Cases returns those of a part, in the order in which they were first measured; "": of all parts.
func (s *Sheet) Cases(part string) (list []Case) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[Case]bool{}
	for _, sample := range s.samples {
		if !seen[sample.Case] && (part == "" || sample.Case.Part() == part) {
			seen[sample.Case] = true
			list = append(list, sample.Case)
		}
	}
	return list
}

// Samples returns the rounds of a case.
func (s *Sheet) Samples(c Case) (list []Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sample := range s.samples {
		if sample.Case == c {
			list = append(list, sample)
		}
	}
	return list
}

// Latencies returns the distributions of a part; "": of all.
func (s *Sheet) Latencies(part string) (list []Latency) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.latencies {
		if part == "" || l.Case.Part() == part {
			list = append(list, l)
		}
	}
	return list
}

// Notes returns those of a part; "": of all.
func (s *Sheet) Notes(part string) (list []Note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.notes {
		if part == "" || n.Part == part {
			list = append(list, n)
		}
	}
	return list
}

// Value returns a figure of the sample, and whether it has it.
func (s Sample) Value(unit string) (float64, bool) {
	for _, v := range s.Values {
		if v.Unit == unit {
			return v.Value, true
		}
	}
	return 0, false
}

// ofTheRun are the facts that two runs differ in although their results are to be compared.
var ofTheRun = []string{"commit", "go", "date", "rounds", "quick", "load-start", "load-end"}

// WriteBenchmarks writes all samples in Go's benchmark format, for benchstat
// (https://go.dev/design/14313-benchmark-format). It compares only results whose configuration is the same: so that
// is what is known of the machine, and what is of the run stands in lines that the format passes over.
func (s *Sheet) WriteBenchmarks(w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var machine []About
	for _, about := range s.About {
		if !slices.Contains(ofTheRun, about.Key) {
			machine = append(machine, about)
		} else if _, err := fmt.Fprintf(w, "# %s: %s\n", about.Key, about.Value); err != nil {
			return fmt.Errorf("write benchmarks: %w", err)
		}
	}
	out := benchfmt.NewWriter(w)
	for _, sample := range s.samples {
		r := benchfmt.Result{Name: benchfmt.Name(sample.Case), Iters: max(1, sample.N)}
		for _, about := range machine {
			r.SetConfig(about.Key, about.Value)
			r.Config[len(r.Config)-1].File = true
		}
		for _, v := range sample.Values {
			r.Values = append(r.Values, benchfmt.Value{Value: v.Value, Unit: v.Unit})
		}
		if err := out.Write(&r); err != nil {
			return fmt.Errorf("write benchmarks: %w", err)
		}
	}
	return nil
}

// stored is a sheet's form in JSON.
type stored struct {
	About     []About
	Samples   []Sample
	Latencies []Latency
	Notes     []Note
	Aims      []Aim
}

// Save writes all of the sheet as JSON, from which Load makes it again.
func (s *Sheet) Save(w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := json.NewEncoder(w).Encode(stored{s.About, s.samples, s.latencies, s.notes, s.aims}); err != nil {
		return fmt.Errorf("save results: %w", err)
	}
	return nil
}

// Load reads what Save wrote.
func Load(r io.Reader) (*Sheet, error) {
	var all stored
	if err := json.NewDecoder(r).Decode(&all); err != nil {
		return nil, fmt.Errorf("load results: %w", err)
	}
	return &Sheet{About: all.About, samples: all.Samples, latencies: all.Latencies, notes: all.Notes, aims: all.Aims}, nil
}
