// Package report is what tests/probe prints about the calls that it made.
package report

import (
	"slices"
	"time"
)

// Most is how many failures are kept, the latest; earlier ones are only counted.
const Most = 1000

// Report sums up calls.
type Report struct {
	// Calls that were answered, or failed.
	Calls  int `json:"calls"`
	Failed int `json:"failed"`
	// Answers counts by the name that the server gave.
	Answers map[string]int `json:"answers"`
	// Last is when the latest call began that each name answered.
	Last     map[string]time.Time `json:"last"`
	Failures []Failure            `json:"failures,omitempty"`
	// Round-trip times: of a call on a new connection from connect to close.
	P50 time.Duration `json:"p50"`
	P99 time.Duration `json:"p99"`
	Max time.Duration `json:"max"`
}

// Failure is one call that did not get a right answer.
type Failure struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	Error string    `json:"error"`
}

// FailedSince returns the kept failures of calls that began at or after start.
func (r *Report) FailedSince(start time.Time) []Failure {
	var out []Failure
	for _, f := range r.Failures {
		if !f.Start.Before(start) {
			out = append(out, f)
		}
	}
	return out
}

// SetTimes fills P50, P99 and Max; it sorts times.
func (r *Report) SetTimes(times []time.Duration) {
	if len(times) == 0 {
		return
	}
	slices.Sort(times)
	r.P50 = times[len(times)/2]
	r.P99 = times[len(times)*99/100]
	r.Max = times[len(times)-1]
}
