package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// databaseFile is where etcd's database is in its directory.
func databaseFile(dir string) string { return filepath.Join(dir, "member", "snap", "db") }

// PageOut gives the RAM back that holds what was read of the embedded database. bbolt reads its file by mapping it, and
// the start of an agent and each compaction read all of it: without this it would stay in RAM, as large as it is on disk,
// until the node runs out of memory. What is read again comes from the disk again.
func (s *Store) PageOut() error {
	if s.server == nil {
		return nil
	}
	if err := pageOut(databaseFile(s.server.Config().Dir)); err != nil {
		return fmt.Errorf("page out registry: %w", err)
	}
	return nil
}

// pageOut has the kernel drop the pages of a file that this process has mapped. The advice changes no contents, so it
// does no harm when bbolt puts another mapping in the place of one meanwhile (madvise(2), MADV_PAGEOUT: Linux 5.4).
func pageOut(file string) error {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		from, to, ok := mappingOf(line, file)
		if !ok {
			continue
		}
		_, _, e := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_PAGEOUT)
		if e != 0 && !errors.Is(e, unix.ENOMEM) { // ENOMEM: the mapping has gone meanwhile
			return fmt.Errorf("madvise: %w", e)
		}
	}
	return nil
}

// mappingOf reads a line of /proc/self/maps; false: it is not of that file (proc_pid_maps(5)).
func mappingOf(line, file string) (from, to uintptr, ok bool) {
	fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 6) // the path is padded, and may hold spaces
	if len(fields) < 6 || strings.TrimLeft(fields[5], " ") != file {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to)
	return from, to, n == 2 && err == nil
}
