package part

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process takes: CPU time so far, and memory in bytes.
type Usage struct {
	CPU      time.Duration // in user and kernel mode; counted in ticks of 10 ms
	Resident float64
	Files    float64 // of Resident: files that are mapped, such as the program
	Peak     float64 // the most that Resident ever was
}

// UsageOf reads /proc (proc_pid_stat(5), proc_pid_status(5)).
func UsageOf(pid int) (u Usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	return parseUsage(string(stat), string(status))
}

const tick = 10 * time.Millisecond // of /proc's clock: 1/USER_HZ

func parseUsage(stat, status string) (u Usage, err error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return u, fmt.Errorf("read /proc: %q", stat)
	}
	for _, f := range fields[11:13] { // utime and stime
		ticks, err := strconv.Atoi(f)
		if err != nil {
			return u, fmt.Errorf("read /proc: %w", err)
		}
		u.CPU += time.Duration(ticks) * tick
	}
	into := map[string]*float64{"VmRSS": &u.Resident, "RssFile": &u.Files, "VmHWM": &u.Peak}
	for line := range strings.Lines(status) {
		key, text, _ := strings.Cut(line, ":")
		if value := into[key]; value != nil {
			number, _, _ := strings.Cut(strings.TrimSpace(text), " ")
			kib, err := strconv.ParseFloat(number, 64)
			if err != nil {
				return u, fmt.Errorf("read /proc: %w", err)
			}
			*value = kib * 1024
		}
	}
	return u, nil
}
