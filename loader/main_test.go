package loader

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// TestMain lets any subset of the tests make maps. Before Linux 5.11 these count against the locked memory
// that the process may have (kernel commit 3d8dabe "bpf: memcg-based memory accounting"); many tests load
// programs without New, which lifts the limit. It also removes what
// tests that were killed have left.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if err := errors.Join(rlimit.RemoveMemlock(), sweepOrphans()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	m.Run()
}

// ownPrefix begins the names of the cgroups and the directories of bpffs mounts that tests make. The process's id
// follows it, so that the next run knows whose they are. (Linux 5.10 forgets what a bpffs was mounted as.)
const ownPrefix = "sluice-loader-test-"

func owner() string { return fmt.Sprintf("%s%d-", ownPrefix, os.Getpid()) }

// orphaned reports whether a name is that of a test process that is no more.
func orphaned(name string) bool {
	rest, ours := strings.CutPrefix(name, ownPrefix)
	text, _, _ := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(text)
	return ours && err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// sweepOrphans removes what tests left that were killed: the pins in a mounted bpffs hold programs and links.
func sweepOrphans() error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	for lines := bufio.NewScanner(f); lines.Scan(); {
		at, what, ok := strings.Cut(lines.Text(), " - ") // proc_pid_mountinfo(5)
		place, fs := strings.Fields(at), strings.Fields(what)
		if !ok || len(place) < 5 || len(fs) < 1 || fs[0] != "bpf" || !orphaned(filepath.Base(place[4])) {
			continue
		}
		if err := unix.Unmount(place[4], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // another run's sweep
			errs = append(errs, fmt.Errorf("unmount %s: %w", place[4], err))
		}
		_ = os.Remove(place[4])
	}
	for _, root := range cgroupRoots() {
		dirs, _ := filepath.Glob(filepath.Join(root, ownPrefix+"*"))
		for _, dir := range dirs {
			if orphaned(filepath.Base(dir)) {
				_ = os.Remove(dir) // one with processes in it stays
			}
		}
	}
	return errors.Join(errs...)
}

// TestSweepOrphans: what a process left that is no more goes, what one has that is at work stays.
func TestSweepOrphans(t *testing.T) {
	n := newNode(t)
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s%d-", ownPrefix, child.Process.Pid)
	dead := filepath.Join(filepath.Dir(n.cgroup), name+"x")
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	mount := filepath.Join(t.TempDir(), name+"x")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", mount, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) }) // of a test that fails
	if err := sweepOrphans(); err != nil {
		t.Error(err)
	}
	for _, path := range []string{dead, mount} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(n.bpffs), &fs); err != nil || fs.Type != unix.BPF_FS_MAGIC {
		t.Errorf("the bpffs of a living test was unmounted: %v", err)
	}
	if _, err := os.Stat(n.cgroup); err != nil {
		t.Error(err)
	}
}
