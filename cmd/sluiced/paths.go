package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/cni/ipam"
)

const (
	bpffsRoot = "/sys/fs/bpf" // where every distribution mounts it
	lockName  = "sluiced.lock"
)

// lockState makes the state directory and takes it for this agent alone, until the process ends or
// the file is closed. The file says which network namespace the state is about: an agent that came up
// in another one would take every container of this one for gone.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make paths.state: %w", err)
	}
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock paths.state: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		if err = claimNetns(f); err == nil {
			return f, nil
		}
		f.Close()
		return nil, err
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: another sluiced runs on this state; give each its own paths.state", path)
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// claimNetns writes this boot's id and this network namespace to the lock file, unless it names another
// namespace of the same boot.
func claimNetns(f *os.File) error {
	boot, err := ipam.BootID()
	if err != nil {
		return err
	}
	netns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("read network namespace: %w", err)
	}
	old, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	mine := boot + " " + netns + "\n"
	if oldBoot, oldNetns, _ := strings.Cut(strings.TrimSpace(string(old)), " "); oldBoot == boot && oldNetns != netns {
		return fmt.Errorf("%s: the containers of this state are in network namespace %s, and this is %s; "+
			"start sluiced there, or remove the file when that one is gone", f.Name(), oldNetns, netns)
	}
	if string(old) == mine {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	if _, err := f.WriteAt([]byte(mine), 0); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return nil
}

// mountBPFFS sees to it that dir lies on a bpf filesystem; it mounts one at /sys/fs/bpf when dir is
// below that and there is none.
func mountBPFFS(dir string) error {
	parent := dir
	kind, err := filesystem(parent)
	for errors.Is(err, os.ErrNotExist) && parent != "/" {
		parent = filepath.Dir(parent)
		kind, err = filesystem(parent)
	}
	if err != nil {
		return fmt.Errorf("find bpf filesystem: %w", err)
	}
	if kind == unix.BPF_FS_MAGIC {
		return nil
	}
	if dir != bpffsRoot && !strings.HasPrefix(dir, bpffsRoot+"/") {
		return fmt.Errorf("paths.bpffs: %s is not on a bpf filesystem: mount one there, or use a directory below %s", dir, bpffsRoot)
	}
	if err := unix.Mount("bpf", bpffsRoot, "bpf", 0, "mode=700"); err != nil {
		return fmt.Errorf("mount bpf filesystem at %s: %w", bpffsRoot, err)
	}
	return nil
}

// cgroupDir returns dir when it is on a cgroup2 filesystem, else the cgroup2 mount below it: with
// the v1 controllers mounted as well, /sys/fs/cgroup itself is none.
func cgroupDir(dir string) (string, error) {
	kind, err := filesystem(dir)
	if err != nil {
		return "", fmt.Errorf("find paths.cgroup: %w", err)
	}
	if kind == unix.CGROUP2_SUPER_MAGIC {
		return dir, nil
	}
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 2 && fields[2] == "cgroup2" && strings.HasPrefix(fields[1], dir+"/") {
			return fields[1], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	return "", fmt.Errorf("paths.cgroup: no cgroup2 filesystem at or below %s", dir)
}

// filesystem returns the magic number of the one that path is on.
func filesystem(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Type), nil
}
