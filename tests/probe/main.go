// Command probe is the process inside the containers of tests: a server that answers with its name,
// a caller that counts who answered, a member of a mesh that is both for many ports and peers, a source
// of packets that never ends, and a hand that does with sockets what it is told.
//
//	probe serve --name NAME [--tcp PORT]... [--udp PORT]... [--sctp PORT]...
//	probe call --addr ADDR:PORT [--net udp] [--count N] [--keep] ...
//	probe mesh --name NAME --addr ADDR... --port PORT... [--sniff DEVICE]
//	probe flood --to ADDR:PORT... [--gap DURATION]
//	probe hand [--odd]
//
// serve prints "ready" once it listens and ends when its standard input closes, so that it never
// outlives the test that started it; so do mesh and flood. call without a count goes on until its
// standard input closes; for each line that it reads there it prints a report of the calls so far.
// mesh reads orders and prints outcomes, in JSON; so does hand with acts.
package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want serve, call, mesh, flood or hand")
	}
	switch args[0] {
	case "serve":
		return serve(args[1:])
	case "call":
		return call(args[1:])
	case "mesh":
		return mesh(args[1:])
	case "flood":
		return flood(args[1:])
	case "hand":
		return hand(args[1:])
	}
	return fmt.Errorf("%q: want serve, call, mesh, flood or hand", args[0])
}

// pinned is set in the environment of a process that pin has started over.
const pinned = "PROBE_PINNED"

// pin binds every thread of the process to one CPU: it binds this thread and starts the program
// over, because the runtime has threads already. A negative cpu does nothing.
func pin(cpu int) error {
	if cpu < 0 || os.Getenv(pinned) != "" {
		return nil
	}
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("bind to cpu %d: %w", cpu, err)
	}
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), pinned+"=1"))
	return fmt.Errorf("start over: %w", err)
}
