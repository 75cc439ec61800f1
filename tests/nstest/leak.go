package nstest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Leaks lists what is left on the machine of nodes whose name begins with prefix: namespaces, pins,
// cgroups, processes, mounts and files. Give it a node's name, or Owner of a process.
func Leaks(prefix string) ([]string, error) {
	found := append(processes(prefix), mounts(prefix)...)
	dirs, err := parents()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		found = append(found, entries(dir, prefix)...)
	}
	return found, nil
}

// Owner begins the names of this process's nodes.
func Owner() string { return fmt.Sprintf("%s%d-", Prefix, os.Getpid()) }

// Sweep removes what test processes have left behind that were killed before they could clean up.
func Sweep() error {
	dirs, err := parents()
	if err != nil {
		return err
	}
	name := regexp.MustCompile(`/` + Prefix + `(\d+)-\d+`)
	var errs []error
	dead := map[string]bool{}
	for _, dir := range dirs {
		for _, path := range entries(dir, Prefix) {
			m := name.FindStringSubmatch(path)
			if m == nil {
				continue
			}
			pid, err := strconv.Atoi(m[1])
			if err == nil && unix.Kill(pid, 0) == unix.ESRCH {
				dead[m[0][1:]] = true
			}
		}
	}
	for node := range dead {
		errs = append(errs, clean(node))
	}
	return errors.Join(errs...)
}

// clean ends the processes of a node and removes all that bears its name.
func clean(node string) error {
	cgroups, err := hierarchies("cgroup2", "cgroup") // runc uses the v1 ones as well
	errs := []error{err}
	for _, dir := range cgroups {
		errs = append(errs, endCgroup(filepath.Join(dir, node)), endCgroup(filepath.Join(dir, node+outside)))
	}
	for _, path := range entries(netnsDir, node) {
		if owns(node, path) {
			errs = append(errs, removeNetns(path))
		}
	}
	for _, path := range []string{filepath.Join(bpffsDir, node), filepath.Join(os.TempDir(), node)} {
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// owns tells node slt1-1 from slt1-10.
func owns(node, path string) bool {
	rest := strings.TrimPrefix(filepath.Base(path), node)
	return rest == "" || rest[0] == '-'
}

// parents are the directories that nodes make something in.
func parents() ([]string, error) {
	dirs, err := hierarchies("cgroup2", "cgroup")
	return append(dirs, netnsDir, bpffsDir, os.TempDir()), err
}

func entries(dir, prefix string) []string {
	found, _ := filepath.Glob(filepath.Join(dir, prefix) + "*")
	return found
}

// processes finds those with the prefix in their command line or cgroup.
func processes(prefix string) []string {
	var found []string
	dirs, _ := fs.Glob(os.DirFS("/proc"), "[0-9]*")
	for _, pid := range dirs {
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		if len(cmdline) == 0 {
			continue // ended, and not yet taken note of by its parent; or a thread of the kernel
		}
		cgroup, _ := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
		text := strings.ReplaceAll(string(cmdline), "\x00", " ")
		if strings.Contains(text, prefix) || strings.Contains(string(cgroup), "/"+prefix) {
			found = append(found, fmt.Sprintf("process %s: %s", pid, text))
		}
	}
	return found
}

func mounts(prefix string) []string {
	data, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(data), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, prefix) })
}
