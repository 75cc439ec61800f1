package nstest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupRoot finds where cgroup2 is mounted: /sys/fs/cgroup, or below it beside the v1 controllers.
func cgroupRoot() (string, error) {
	dirs, err := hierarchies("cgroup2")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	if len(dirs) == 0 {
		return "", errors.New("find cgroup2: it is not mounted")
	}
	return dirs[0], nil
}

// hierarchies lists the mounts of these types: cgroup2, cgroup (v1).
func hierarchies(types ...string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 2 && slices.Contains(types, fields[2]) {
			dirs = append(dirs, fields[1])
		}
	}
	return dirs, nil
}

// endCgroup kills the processes in dir and below, and removes it.
func endCgroup(dir string) error {
	dirs := tree(dir)
	deadline := time.Now().Add(10 * time.Second)
	for {
		var pids []int
		for _, d := range dirs {
			pids = append(pids, processesIn(d)...)
		}
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end processes of %s: %v stay", dir, pids)
		}
		time.Sleep(time.Millisecond)
	}
	for _, d := range slices.Backward(dirs) {
		if err := rmdir(d, deadline); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// rmdir tries again while the kernel is still letting go of a process that has ended.
func rmdir(dir string, deadline time.Time) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY || time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", dir, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// tree lists dir and the directories below, parents first.
func tree(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

func processesIn(cgroup string) []int {
	data, _ := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}
