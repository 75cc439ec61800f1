package etcd

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestPageOut reads a mapped file, and has it paged out: it is not in RAM then, and reads as before.
func TestPageOut(t *testing.T) {
	const pages = 1024 // 4 MiB: the kernel aligns such a mapping, and cannot drop large pages that two page tables share
	size := pages * os.Getpagesize()
	dir := filepath.Join(t.TempDir(), "a b") // the kernel writes the path as it is
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "db")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := bytes.Repeat([]byte("sluice-"), size/7+1)[:size]
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil { // only what is on disk can go
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("the temporary directory is in RAM itself")
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	if !bytes.Equal(mapped, content) {
		t.Fatal("the mapping is not the file")
	}
	if n := inRAM(t, mapped); n != pages {
		t.Fatalf("%d of %d pages are in RAM after they were read", n, pages)
	}
	link := filepath.Join(t.TempDir(), "link") // as a state directory may be one
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := pageOut(filepath.Join(link, "db")); err != nil {
		t.Fatal(err)
	}
	if n := inRAM(t, mapped); n > pages/4 { // the kernel passes by a page that something else holds at the moment
		t.Errorf("%d of %d pages are in RAM still", n, pages)
	}
	if !bytes.Equal(mapped, content) {
		t.Error("it reads otherwise than before")
	}
	if err := pageOut(filepath.Join(dir, "other")); err == nil {
		t.Error("a file that is not there was paged out")
	}
}

// inRAM counts the pages of a mapping that are.
func inRAM(t *testing.T, mapped []byte) (n int) {
	t.Helper()
	there := make([]byte, len(mapped)/os.Getpagesize())
	// mincore(2); x/sys has no function for it.
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)),
		uintptr(unsafe.Pointer(&there[0]))); e != 0 {
		t.Fatal(e)
	}
	for _, b := range there {
		n += int(b & 1)
	}
	return n
}

func TestMappingOf(t *testing.T) {
	for line, want := range map[string][2]uintptr{
		"7f00-8f00 r--s 00000000 fe:00 10789674                   /state/a b/db\n":  {0x7f00, 0x8f00},
		"7f00-8f00 r--s 00000000 fe:00 10789674                   /state/a b/db2\n": {},
		"7f00-8f00 rw-p 00000000 00:00 0 \n":                                        {},
		"":                                                                          {},
	} {
		from, to, ok := mappingOf(line, "/state/a b/db")
		if ok != (want != [2]uintptr{}) || ok && [2]uintptr{from, to} != want {
			t.Errorf("%q is %x-%x %v", line, from, to, ok)
		}
	}
}

func TestStorePagesOut(t *testing.T) {
	s := open(t, defaultCIDRs...)
	put(t, s, web("web"))
	if err := s.PageOut(); err != nil {
		t.Fatal(err)
	}
	put(t, s, web("next"))
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCompactions(t *testing.T) {
	var c compactions
	c.over(1) // as found
	c.over(1)
	for i, look := range []struct {
		first int64
		over  bool
	}{{1, false}, {7, false}, {7, true}, {7, false}, {9, false}, {12, false}, {12, true}, {12, false}} {
		if got := c.over(look.first); got != look.over {
			t.Errorf("look %d: first revision %d: %v", i, look.first, got)
		}
	}
}
