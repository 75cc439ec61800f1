package part

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process takes: CPU time so far, and memory in bytes.
type Usage struct {
	CPU      time.Duration // in user and kernel mode
	Resident float64
	Files    float64 // of Resident: files that are mapped, such as the program
	Peak     float64 // the most that Resident ever was
}

// UsageOf asks the kernel: /proc counts CPU time in ticks of 10 ms, the process's own clock in nanoseconds
// (proc_pid_status(5), clock_getcpuclockid(3)).
func UsageOf(pid int) (u Usage, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err == nil {
		u, err = parseStatus(string(status))
	}
	if err != nil {
		return u, fmt.Errorf("read usage of process %d: %w", pid, err)
	}
	var t unix.Timespec
	if err := unix.ClockGettime(clockOf(pid), &t); err != nil {
		return u, fmt.Errorf("read CPU time of process %d: %w", pid, err)
	}
	u.CPU = time.Duration(t.Nano())
	return u, nil
}

// clockOf is the clock of a process: its number inverted, shifted by three bits, and CPUCLOCK_SCHED (include/linux/posix-timers_types.h).
func clockOf(pid int) int32 { return int32(^pid<<3 | 2) }

func parseStatus(status string) (u Usage, err error) {
	into := map[string]*float64{"VmRSS": &u.Resident, "RssFile": &u.Files, "VmHWM": &u.Peak}
	for line := range strings.Lines(status) {
		key, text, _ := strings.Cut(line, ":")
		if value := into[key]; value != nil {
			number, _, _ := strings.Cut(strings.TrimSpace(text), " ")
			kib, err := strconv.ParseFloat(number, 64)
			if err != nil {
				return u, err
			}
			*value = kib * 1024
		}
	}
	return u, nil
}

// restful is for how long the resident memory of a process that is at rest has not sunk.
const restful = 2 * time.Second

// AtRest is UsageOf once the process's memory sinks no more: an agent gives back what its start took when it is over.
func AtRest(ctx context.Context, pid int) (Usage, error) {
	look := time.NewTicker(restful / 20)
	defer look.Stop()
	u, err := UsageOf(pid)
	for least, since := u.Resident, time.Now(); err == nil && time.Since(since) < restful; {
		select {
		case <-ctx.Done():
			return u, ctx.Err()
		case <-look.C:
		}
		if u, err = UsageOf(pid); u.Resident < least {
			least, since = u.Resident, time.Now()
		}
	}
	return u, err
}
