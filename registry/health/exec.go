package health

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	maxOutput = 128 // bytes of a command's output that are told
	// outputWait is how long a command's pipes may stay open after its end: a child of its own may hold them.
	outputWait = 100 * time.Millisecond
)

// probeExec runs a command, without a shell, and wants it to exit with 0. It finds the instance in SLUICE_ADDRESSES and SLUICE_PORT.
func probeExec(ctx context.Context, t *task) error {
	var addrs []string
	port := uint16(0)
	for _, a := range t.subject.addrs {
		addrs, port = append(addrs, a.Addr().String()), a.Port()
	}
	var out head
	cmd := exec.CommandContext(ctx, t.check.Command[0], t.check.Command[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"SLUICE_ADDRESSES=" + strings.Join(addrs, " "), "SLUICE_PORT=" + strconv.Itoa(int(port)),
	}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with all that it has started
	cmd.WaitDelay = outputWait
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay):
		cmd.Cancel() // what it has left behind: the process group is not empty, so its number is still its own
		return nil
	case err == nil:
		return nil
	case len(out) > 0:
		return fmt.Errorf("%w: %s", err, out)
	}
	return err
}

// head keeps the first bytes of what is written to it.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), maxOutput-len(*h))]...)
	return len(p), nil
}
