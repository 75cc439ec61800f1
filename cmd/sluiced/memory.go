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

// giveBack returns to the kernel what the process does not need any more. Reading a whole registry at start leaves
// as much garbage as there is in use, which Go would give back bit by bit only.
func giveBack() { debug.FreeOSMemory() }
