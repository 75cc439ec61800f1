package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the process that dials: it then prints how that went.
func TestMain(m *testing.M) {
	path := os.Getenv("SLUICED_TEST_DIAL")
	if path == "" {
		os.Exit(m.Run())
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		os.Stdout.WriteString(err.Error())
		os.Exit(0)
	}
	answer, _ := io.ReadAll(conn)
	os.Stdout.WriteString("answer:" + string(answer))
}

// dial connects as another user and returns what came of it.
func dial(t *testing.T, path string, uid uint32) string {
	t.Helper()
	// A copy, because the test binary lies in a directory that only root can enter.
	program := filepath.Join(filepath.Dir(path), "dial")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = []string{"SLUICED_TEST_DIAL=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("dial as %d: %v: %s", uid, err, out)
	}
	return string(out)
}

// TestSocketIsRoots: the socket's mode keeps other users out, and so does who they are when the mode
// was changed.
func TestSocketIsRoots(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "sluiced")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	// What a killed agent leaves.
	for _, stale := range []string{path, path + ".new"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	var log bytes.Buffer
	l, err := listenSocket(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "welcome")
			conn.Close()
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := dial(t, path, 0); got != "answer:welcome" {
		t.Errorf("root: %s", got)
	}
	if got := dial(t, path, 65534); !strings.Contains(got, "permission denied") {
		t.Errorf("another user: %s", got)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := dial(t, path, 65534); got != "answer:" {
		t.Errorf("another user, with the mode open: %s", got)
	}
	l.Close()
	<-done
	if !strings.Contains(log.String(), "uid=65534") {
		t.Errorf("the log does not name who was refused: %s", log.String())
	}
}

func TestLockState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state directory: %v, %v", info.Mode(), err)
	}
	if _, err := lockState(dir); err == nil || !strings.Contains(err.Error(), "another sluiced") {
		t.Errorf("second agent: %v", err)
	}
	first.Close()
	second, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
	if os.Geteuid() != 0 {
		return
	}
	elsewhere := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine, and its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			_, err = lockState(dir)
		}
		elsewhere <- err
	}()
	if err := <-elsewhere; err == nil || !strings.Contains(err.Error(), "network namespace") {
		t.Errorf("agent in another network namespace: %v", err)
	}
}

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notify("READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := l.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("systemd was told %q, %v", buf[:n], err)
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // in the error, or printed
	}{
		{[]string{"--version"}, "dev\n"},
		{[]string{"--bogus"}, "bogus"},
		{[]string{"extra"}, `unexpected argument "extra"`},
		{[]string{"--log-level", "loud"}, "log-level"},
		{[]string{"--log-format", "xml"}, "want text or json"},
		{[]string{"--config", "/nonexistent"}, "open config"},
		{[]string{"--config", "testdata/errors/mtu.yaml"}, "mtu.yaml:1: containers.mtu"},
		{[]string{"-h"}, "--detach"},
	} {
		var out bytes.Buffer
		err := run(context.Background(), c.args, &out, io.Discard)
		if got := errors.Join(err, errors.New(out.String())).Error(); !strings.Contains(got, c.want) {
			t.Errorf("%v: %s, want %s", c.args, got, c.want)
		}
	}
}
