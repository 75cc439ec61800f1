package nstest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script writes an executable.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// TestNewFails: a node whose agent does not come up leaves nothing behind.
func TestNewFails(t *testing.T) {
	needRoot(t)
	lab := Lab{Binaries: Binaries{Agent: script(t, "echo no luck >&2; exit 3"), CLI: script(t, "exit 1")}}
	if _, err := lab.New(t.Context(), Settings{}); err == nil || !strings.Contains(err.Error(), "await agent") {
		t.Errorf("new: %v", err)
	}
	if left, err := Leaks(Owner()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestLeaks: what a node makes is found, processes in its cgroup included, until Close.
func TestLeaks(t *testing.T) {
	needRoot(t)
	// It does not end on SIGTERM, and its child is not the test's.
	agent := script(t, "trap '' TERM; sleep 1000 & wait; wait")
	lab := Lab{Binaries: Binaries{Agent: agent, CLI: script(t, "exit 0")}}
	n, err := lab.New(t.Context(), Settings{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.NewContainer(Spec{Name: "c", Empty: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(n.BPFFS, 0o700); err != nil {
		t.Fatal(err)
	}
	left, err := Leaks(n.Name)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(left, "\n")
	for _, want := range []string{n.Netns, c.Netns, n.Cgroup, n.Dir, n.BPFFS, "process"} {
		if !strings.Contains(all, want) {
			t.Errorf("%s was not found in:\n%s", want, all)
		}
	}
	if err := n.KillAgent(); err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if left, err := Leaks(n.Name); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestSweep: what a killed test left is removed, what a living one has stays.
func TestSweep(t *testing.T) {
	needRoot(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	root, err := cgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	leave := func(pid int) []string {
		name := nodeName(pid, 1)
		ns, group := filepath.Join(netnsDir, name+"-c"), filepath.Join(root, name)
		if err := errors.Join(newNetns(ns), os.Mkdir(group, 0o755)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = clean(name) })
		return []string{ns, group}
	}
	gone, stays := leave(dead.Process.Pid), leave(os.Getpid())
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	for _, path := range gone {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s stays: %v", path, err)
		}
	}
	for _, path := range stays {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s has gone: %v", path, err)
		}
	}
}

// TestAwait: the error of a condition that never holds says what was awaited, and why no longer.
func TestAwait(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	err := Await(ctx, "spring", func() (bool, error) { return false, nil })
	if err == nil || err.Error() != "await spring: enough" {
		t.Errorf("await: %v", err)
	}
}
