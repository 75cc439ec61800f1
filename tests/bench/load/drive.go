package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
)

// load is what a batch of a kind does.
type load interface {
	// open makes what all operations of a batch use.
	open(o batch.Order) error
	// run does operations for a time, until the first fails, and counts those that it did.
	run(length time.Duration, count int, latency *batch.Histogram) (batch.Result, unix.Errno)
	// close ends what open made, as far as it did.
	close()
}

func newLoad(k batch.Kind) (load, error) {
	switch k {
	case batch.TCPRR:
		return repeated{&requests{kind: unix.SOCK_STREAM}}, nil
	case batch.UDPRR:
		return repeated{&requests{kind: unix.SOCK_DGRAM}}, nil
	case batch.TCPCRR:
		return repeated{&connections{}}, nil
	case batch.TCPConnect:
		return repeated{&connections{silent: true}}, nil
	case batch.TCPStream, batch.TCPStreams:
		return &streams{}, nil
	case batch.UDPConnectReused:
		return repeated{&reconnects{}}, nil
	case batch.UDPConnectNew:
		return repeated{&sockets{}}, nil
	}
	return nil, fmt.Errorf("kind %q: there is none", k)
}

// operation is what most kinds do, again and again.
type operation interface {
	open(o batch.Order) error
	// once does one, without a check of the stack or an allocation.
	once() unix.Errno
	close()
}

// repeated is the load of one operation after the other, each of them timed.
type repeated struct{ op operation }

func (r repeated) open(o batch.Order) error { return r.op.open(o) }
func (r repeated) close()                   { r.op.close() }

func (r repeated) run(length time.Duration, count int, latency *batch.Histogram) (batch.Result, unix.Errno) {
	n, elapsed, errno := repeat(r.op, length, count, latency)
	return batch.Result{N: n, Elapsed: elapsed}, errno
}

// patience is how much longer than it should a batch may take: the calls themselves have no deadline, which
// would cost a system call a connection.
const patience = 10 * time.Second

func drive(cpu int) error {
	if err := pin(cpu); err != nil {
		return err
	}
	d := &driver{}
	out := json.NewEncoder(os.Stdout)
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o batch.Order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		if err := out.Encode(d.do(o)); err != nil {
			return err
		}
	}
	return lines.Err()
}

type driver struct{ latency batch.Histogram }

// do does one batch. The garbage of the one before goes first: nothing is collected while something is timed.
func (d *driver) do(o batch.Order) batch.Result {
	runtime.GC()
	watchdog := time.AfterFunc(o.Warm+o.For+patience, func() {
		fmt.Fprintf(os.Stderr, "load: %s to %s: no answer for %s\n", o.Kind, o.To, patience)
		os.Exit(1)
	})
	defer watchdog.Stop()
	r, err := d.measure(o)
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (d *driver) measure(o batch.Order) (r batch.Result, err error) {
	l, err := newLoad(o.Kind)
	if err != nil {
		return r, err
	}
	defer l.close()
	if err := l.open(o); err != nil {
		return r, err
	}
	clocks, err := cpuClocks(o.PIDs)
	if err != nil {
		return r, err
	}
	if o.Count == 0 {
		o.Count = math.MaxInt
	}
	if o.Warm > 0 {
		warmed, errno := l.run(o.Warm, o.Count/4, &d.latency)
		if errno != 0 {
			return r, fmt.Errorf("warm up: %w", errno)
		}
		o.Count -= warmed.N
	}
	d.latency.Reset()
	before := cpuTime(clocks)
	r, errno := l.run(o.For, o.Count, &d.latency)
	r.CPU = cpuTime(clocks) - before
	if d.latency.N() > 0 {
		r.Latency = &d.latency
	}
	if errno != 0 {
		return r, fmt.Errorf("operation %d: %w", r.N+1, errno)
	}
	return r, nil
}

// repeat takes the end of one operation for the begin of the next, so that nothing falls between them.
//
//go:nosplit
func repeat(op operation, length time.Duration, count int, latency *batch.Histogram) (
	n int, elapsed time.Duration, errno unix.Errno,
) {
	start := now()
	for begin := start; n < count && begin-start < length; n++ {
		if errno = op.once(); errno != 0 {
			break
		}
		end := now()
		latency.Add(end - begin)
		begin = end
		elapsed = end - start
	}
	return n, elapsed, errno
}

// cpuClocks are those of this process and of others (clock_getcpuclockid(3)).
func cpuClocks(pids []int) ([]int32, error) {
	clocks := []int32{unix.CLOCK_PROCESS_CPUTIME_ID}
	for _, pid := range pids {
		clock := int32(^pid<<3 | 2)
		var ts unix.Timespec
		if err := unix.ClockGettime(clock, &ts); err != nil {
			return nil, fmt.Errorf("read CPU time of process %d: %w", pid, err)
		}
		clocks = append(clocks, clock)
	}
	return clocks, nil
}

// cpuTime is what the processes have used; one that has ended meanwhile counts for nothing.
func cpuTime(clocks []int32) (sum time.Duration) {
	for _, clock := range clocks {
		var ts unix.Timespec
		if unix.ClockGettime(clock, &ts) == nil {
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}
