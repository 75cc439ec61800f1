package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

// garbage is how much the agent's memory may grow beyond what is in use before it is collected, in percent. Most of
// that lives long, the copy of the registry above all: at Go's default of 100 the agent of a large one would take
// twice what it needs.
const garbage = 50

// saveMemory bounds the agent's garbage, unless the environment says how. Nobody can ask for a profile of its memory, so
// none is kept: the table alone takes 1.5 MB.
func saveMemory() {
	runtime.MemProfileRate = 0
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
}

// startOver is how long after it is ready the agent counts as started: by then all that follow the registry have read it.
const startOver = time.Second

// giveBack returns to the kernel what the process does not need any more once it has started. Reading a whole registry
// leaves as much garbage as there is in use, which Go would give back bit by bit only. What is in a sync.Pool outlives
// one collection, so it takes two. And the file that it was read from need not stay in RAM.
func (a *agent) giveBack(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(startOver):
	}
	a.hub.Rest()
	debug.FreeOSMemory()
	debug.FreeOSMemory()
	if err := a.store.PageOut(); err != nil {
		a.log.Debug("what was read of the registry stays in RAM", "error", err)
	}
}
