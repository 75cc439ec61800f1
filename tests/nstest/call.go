package nstest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// Call says what calls to make.
type Call struct {
	Net     string // tcp or udp
	To      netip.AddrPort
	Count   int
	Keep    bool // all on one socket; otherwise each on a new one
	Connect bool // UDP: on a connected socket
	CPU     int  // to run on, counted from 1; 0: any
	Gap     time.Duration
	Timeout time.Duration // of each step; 0: 5 s
	// Outside makes the calls from outside the node's cgroup, where no socket hook sees them, so
	// that tc has to translate.
	Outside bool
}

func (c Call) args() []string {
	args := []string{"call", "--net", c.Net, "--addr", c.To.String(),
		"--count", strconv.Itoa(c.Count), "--cpu", strconv.Itoa(c.CPU - 1), "--gap", c.Gap.String()}
	if c.Keep {
		args = append(args, "--keep")
	}
	if c.Connect {
		args = append(args, "--connect")
	}
	if c.Timeout > 0 {
		args = append(args, "--timeout", c.Timeout.String())
	}
	return args
}

// outside ends the name of the cgroup for calls that are made outside the node's.
const outside = "-outside"

// Call makes the calls from inside the container and returns what came of them.
func (c *Container) Call(ctx context.Context, call Call) (report.Report, error) {
	cgroup, err := c.cgroup(call.Outside)
	if err != nil {
		return report.Report{}, err
	}
	return calls(ctx, exec.Command(c.node.bin.Probe, call.args()...), c.Netns, cgroup)
}

// cgroup is where a process is that calls from the container, or from outside the node's cgroup.
func (c *Container) cgroup(away bool) (string, error) {
	if !away {
		return c.Cgroup, nil
	}
	path := c.node.Cgroup + outside
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make cgroup: %w", err)
	}
	return path, nil
}

// Call makes the calls from a process of the node itself.
func (n *Node) Call(ctx context.Context, call Call) (report.Report, error) {
	return calls(ctx, exec.Command(n.bin.Probe, call.args()...), n.Netns, n.Cgroup)
}

// CallIn makes the calls from a process in a namespace and a cgroup that something else made, such
// as a container runtime.
func (n *Node) CallIn(ctx context.Context, netns, cgroup string, call Call) (report.Report, error) {
	return calls(ctx, exec.Command(n.bin.Probe, call.args()...), netns, cgroup)
}

func calls(ctx context.Context, cmd *exec.Cmd, netns, cgroup string) (r report.Report, err error) {
	out, err := run(ctx, cmd, netns, cgroup)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("read report: %w", err)
	}
	return r, nil
}

// Caller is a process that makes calls until it is stopped.
type Caller struct{ dialogue *dialogue }

// Caller starts calls from inside the container that go on until they are stopped; their count is
// ignored.
func (c *Container) Caller(call Call) (*Caller, error) {
	call.Count = 0
	cgroup, err := c.cgroup(call.Outside)
	if err != nil {
		return nil, err
	}
	d, err := converse(exec.Command(c.node.bin.Probe, call.args()...), c.Netns, cgroup)
	if err != nil {
		return nil, err
	}
	return &Caller{d}, nil
}

// Report returns what came of the calls so far.
func (c *Caller) Report() (r report.Report, err error) {
	if err = c.dialogue.say(nil); err == nil {
		err = c.dialogue.hear(&r)
	}
	return r, err
}

// More waits until each of the callers has made that many calls after now.
func More(ctx context.Context, calls int, callers ...*Caller) error {
	var want []int
	for _, c := range callers {
		r, err := c.Report()
		if err != nil {
			return err
		}
		want = append(want, r.Calls+calls)
	}
	for i, c := range callers {
		err := Await(ctx, fmt.Sprintf("%d more calls", calls), func() (bool, error) {
			now, err := c.Report()
			return now.Calls >= want[i], err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Stop ends the calls and returns what came of all of them.
func (c *Caller) Stop() (r report.Report, err error) {
	err = c.dialogue.end(&r)
	return r, err
}
