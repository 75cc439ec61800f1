package main

import (
	"os"
	"runtime/debug"
)

// garbage is how much the agent's memory may grow beyond what is in use before it is collected, in percent. Most of
// that lives long, the copy of the registry above all: at Go's default of 100 the agent of a large one would take
// twice what it needs.
const garbage = 50

// saveMemory bounds the agent's garbage, unless the environment says how.
func saveMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
}
