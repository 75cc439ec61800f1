package nstest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a command that runs inside a namespace and a cgroup.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; err is set then
	err  error
}

// start starts cmd; a thread of Go's runtime inside the namespace becomes its parent.
func start(cmd *exec.Cmd, netns, cgroup string) (*process, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	defer dir.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := inNetns(netns, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Exec runs a command inside the node's namespace and cgroup and returns what it printed.
func (n *Node) Exec(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	return run(ctx, cmd, n.Netns, n.Cgroup)
}

// Start starts a command inside the node's namespace and cgroup; Close ends it.
func (n *Node) Start(cmd *exec.Cmd) error {
	_, err := start(cmd, n.Netns, n.Cgroup)
	return err
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// end asks the process to end, and kills it when it has not within patience: that is an error.
func (p *process) end(patience time.Duration) error {
	if p.ended() {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("end %s: did not within %s", p.cmd.Path, patience)
	}
	if p.err != nil {
		return fmt.Errorf("end %s: %w", p.cmd.Path, p.err)
	}
	return nil
}

// ended tells whether the process is no more.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// run runs a command to its end and returns what it printed; the error holds what it said.
func run(ctx context.Context, cmd *exec.Cmd, netns, cgroup string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	p, err := start(cmd, netns, cgroup)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return nil, fmt.Errorf("run %s: %w", cmd.Path, context.Cause(ctx))
	}
	if p.err != nil {
		said := strings.TrimSpace(stderr.String())
		return stdout.Bytes(), fmt.Errorf("run %s: %w: %s", filepath.Base(cmd.Path), p.err, said)
	}
	return stdout.Bytes(), nil
}
