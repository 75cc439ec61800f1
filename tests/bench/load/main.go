// Command load loads a path between two namespaces and measures it.
//
//	load serve --cpu N     answers at the ports of package batch, over IPv4 and IPv6
//	load drive --cpu N     does the batches that it reads from standard input, one a line
//
// Both print "ready" first, and end when their standard input closes. What is timed runs on one CPU, in
// threads of its own that make raw system calls: neither Go's poller nor its scheduler, which would take a
// thread away every 10 ms, nor its garbage collector shows in what is measured. Package batch has the
// protocol.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// unsignalled has Go's runtime send no signals to threads that run for long: each would end a system call.
const unsignalled = "asyncpreemptoff=1"

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want serve or drive")
	}
	if settings := os.Getenv("GODEBUG"); !strings.Contains(settings, unsignalled) {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		// The runtime reads it at the start only.
		os.Setenv("GODEBUG", strings.TrimPrefix(settings+","+unsignalled, ","))
		return syscall.Exec(self, os.Args, os.Environ())
	}
	fs := flag.NewFlagSet(args[0], flag.ExitOnError)
	cpu := fs.Int("cpu", -1, "CPU to run on, from 0; -1: any")
	fs.Parse(args[1:])
	debug.SetGCPercent(-1)
	switch args[0] {
	case "serve":
		// Its threads never let go of what the runtime gave them to run on: one each, and some for the rest.
		runtime.GOMAXPROCS(2*batch.Sets*(3+sinks) + 4)
		return serve(*cpu)
	case "drive":
		runtime.GOMAXPROCS(4) // one is the driving thread's
		return drive(*cpu)
	}
	return fmt.Errorf("%q: want serve or drive", args[0])
}

// pin binds the thread, which the goroutine keeps, to a CPU.
func pin(cpu int) error {
	runtime.LockOSThread()
	if cpu < 0 {
		return nil
	}
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("bind to cpu %d: %w", cpu, err)
	}
	return nil
}
