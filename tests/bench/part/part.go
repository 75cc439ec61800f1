// Package part is what every part of the benchmark is given.
package part

import (
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// Env is where a part measures, how much, and where it writes what it measured.
type Env struct {
	Sheet *sheet.Sheet
	Lab   *nstest.Lab
	// Rounds are how often that which is compared is measured, in turn.
	Rounds int
	// Quick leaves out what takes long: the largest sizes, and cases that differ from others in the IP version
	// or the number of services only.
	Quick bool
	// Attach is how agents attach programs: auto, tcx or clsact.
	Attach string
	// CPU is what all that is timed runs on, counted from 1.
	CPU int
	// Peers is the directory of programs that Sluice is measured beside, as make bench fills it.
	Peers string
	// Log tells whoever waits how far the part is.
	Log func(format string, args ...any)
}

// LongRounds are the rounds of what takes seconds each: enough for an interval of 95 %, and in a quick run for a median.
func (e Env) LongRounds() int {
	if e.Quick {
		return min(e.Rounds, 3)
	}
	return min(e.Rounds, 6)
}
