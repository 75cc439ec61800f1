package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespaces calls f in the home namespace and in each that the paths lead to, once, on a thread that
// ends with it: no other goroutine is ever in a foreign one. It returns the cookies of those that it was
// in, and why it was not in others. When ctx ends it goes into no more of them. A path that leads nowhere any more is left out: what the kernel has no
// file of is found by another path, or is gone.
func inNamespaces(ctx context.Context, home *os.File, paths []string, f func(*sockDiag) error) (map[uint64]bool, []error) {
	visited, seen := map[uint64]bool{}, map[[2]uint64]bool{}
	var problems []error
	visit := func(ns *os.File) error {
		var stat unix.Stat_t
		if err := unix.Fstat(int(ns.Fd()), &stat); err != nil {
			return err
		}
		id := [2]uint64{uint64(stat.Dev), stat.Ino}
		if seen[id] {
			return nil
		}
		seen[id] = true
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter: %w", err)
		}
		d, err := openDiag()
		if err != nil {
			return err
		}
		defer d.close()
		if err := f(d); err != nil {
			return err
		}
		visited[d.cookie] = true
		return nil
	}
	onOwnThread(func() {
		if ctx.Err() != nil {
			return
		}
		if err := visit(home); err != nil {
			problems = append(problems, fmt.Errorf("own network namespace: %w", err))
		}
		for _, path := range paths {
			if ctx.Err() != nil {
				return
			}
			if err := visitPath(path, visit); err != nil {
				problems = append(problems, fmt.Errorf("network namespace %s: %w", path, err))
			}
		}
	})
	return visited, problems
}

func visitPath(path string, visit func(*os.File) error) error {
	ns, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	return visit(ns)
}

// onOwnThread calls f on a thread that ends with it. The process's first thread cannot end: should it be
// chosen, another one is.
func onOwnThread(f func()) {
	done := make(chan struct{})
	var run func()
	run = func() {
		runtime.LockOSThread() // never unlocked, see above
		if unix.Gettid() == unix.Getpid() {
			go run()
			runtime.UnlockOSThread()
			return
		}
		f()
		close(done)
	}
	go run()
	<-done
}
