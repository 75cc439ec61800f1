package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/loader"
)

// Each dataplane that is measured lives in a process of its own, with its own network namespace and its own heap, so
// that memory can be told apart. All those that are compared live at once, and are asked in turn.

const variable = "SLUICE_BENCH_DATAPLANE"

// Main is for the main function of a command that calls Run: it does not return in the process of a dataplane.
func Main() {
	text := os.Getenv(variable)
	if text == "" {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, "bench: dataplane:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve answers its parent until that closes the pipe, or has gone.
func serve(text string) (err error) {
	signal.Ignore(os.Interrupt, syscall.SIGTERM) // the parent's: it ends this process by the pipe
	w := &World{}
	if err := json.Unmarshal([]byte(text), &w.plan); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.plan.pin(); err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.Register(w); err != nil {
		return err
	}
	server.ServeCodec(jsonrpc.NewServerCodec(pipe{os.Stdin, os.Stdout}))
	return nil
}

// pin keeps the process on the CPU that all is timed on.
func (p plan) pin() error {
	if p.CPU == 0 {
		return nil
	}
	var set unix.CPUSet
	set.Set(p.CPU - 1)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads { // those to come inherit it
		var id int
		if _, err := fmt.Sscan(thread.Name(), &id); err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("pin to CPU %d: %w", p.CPU, err)
		}
	}
	return nil
}

// pipe is one connection of two ends.
type pipe struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipe) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipe) Close() error                { return errors.Join(p.ReadCloser.Close(), p.w.Close()) }

// child is a dataplane in a process of its own, as seen from the parent.
type child struct {
	plan plan
	cmd  *exec.Cmd
	rpc  *rpc.Client
}

// childPatience is how long a dataplane may take to clean up.
const childPatience = 20 * time.Second

// start starts one. It holds nothing yet.
func start(ctx context.Context, p plan) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p.BPFFS = filepath.Join("/sys/fs/bpf", fmt.Sprintf("sluice-bench-%d-%s-%d", os.Getpid(), p.Grow, p.N))
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), variable+"="+string(text), "GOGC=50") // as the agent
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Cancel = in.Close
	cmd.WaitDelay = childPatience
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a dataplane: %w", err)
	}
	return &child{plan: p, cmd: cmd, rpc: jsonrpc.NewClient(pipe{out, in})}, nil
}

// call asks the dataplane for something.
func (c *child) call(method string, args, reply any) error {
	if err := c.rpc.Call("World."+method, args, reply); err != nil {
		return fmt.Errorf("%s of %d %s: %w", method, c.plan.N, c.plan.Grow, err)
	}
	return nil
}

// close ends the process, which takes away what it made; if it could not, the pins at least go.
func (c *child) close() error {
	err := c.rpc.Close()
	if errors.Is(err, rpc.ErrShutdown) || errors.Is(err, os.ErrClosed) {
		err = nil // who ended the run has closed it
	}
	timer := time.AfterFunc(childPatience, func() { c.cmd.Process.Kill() })
	defer timer.Stop()
	ended := c.cmd.Wait()
	if errors.Is(ended, context.Canceled) {
		ended = nil // what the run's own error says
	}
	return errors.Join(err, ended, loader.Detach(c.plan.BPFFS))
}
