package server

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain runs the tests once more in a network namespace of their own, without a way out: the server
// works on the namespace of its process. Without root, those that need one skip themselves.
func TestMain(m *testing.M) {
	const marker, plugin = "SLUICE_TEST_NETNS", "SLUICE_TEST_PLUGIN"
	if os.Geteuid() != 0 || os.Getenv(marker) != "" {
		os.Exit(m.Run())
	}
	code, err := runIsolated(marker, plugin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runIsolated(marker, plugin string) (code int, err error) {
	dir, err := os.MkdirTemp("", "sluice-cni-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	// Built here, where the module proxy and caches are as for any build.
	bin := filepath.Join(dir, "sluice-cni")
	build := exec.Command("go", "build", "-o", bin, "../../cmd/sluice-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build sluice-cni: %w", err)
	}
	signal.Ignore(os.Interrupt) // the tests end by it, and then this process
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), marker+"=1", plugin+"="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// pluginPath returns the built plugin.
func pluginPath(t testing.TB) string {
	t.Helper()
	path := os.Getenv("SLUICE_TEST_PLUGIN")
	if path == "" {
		t.Skip("needs root")
	}
	return path
}
