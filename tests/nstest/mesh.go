package nstest

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os/exec"
	"strconv"
	"time"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// Member says what process of a mesh to start.
type Member struct {
	Name  string       // what it answers
	Addrs []netip.Addr // its own; none: it only counts what arrives
	Ports []int        // to serve, over TCP, UDP and SCTP
	// Sniff is the interface on which arrivals are counted; "": none, "any": also such as come later.
	Sniff string
}

func (m Member) args() []string {
	args := []string{"mesh", "--name", m.Name}
	for _, a := range m.Addrs {
		args = append(args, "--addr", a.String())
	}
	for _, p := range m.Ports {
		args = append(args, "--port", strconv.Itoa(p))
	}
	if m.Sniff != "" {
		args = append(args, "--sniff", m.Sniff)
	}
	return args
}

// Mesh is a running member.
type Mesh struct{ dialogue *dialogue }

// Mesh starts a member inside the container; the node's Close ends it.
func (c *Container) Mesh(m Member) (*Mesh, error) {
	return startMesh(exec.Command(c.node.bin.Probe, m.args()...), c.Netns, c.Cgroup)
}

// Mesh starts a member on the node itself.
func (n *Node) Mesh(m Member) (*Mesh, error) {
	return startMesh(exec.Command(n.bin.Probe, m.args()...), n.Netns, n.Cgroup)
}

func startMesh(cmd *exec.Cmd, netns, cgroup string) (*Mesh, error) {
	d, err := converse(cmd, netns, cgroup)
	if err != nil {
		return nil, err
	}
	return &Mesh{d}, d.ready()
}

// Do gives an order and waits for what comes of it.
func (m *Mesh) Do(order report.Order) (o report.Outcome, err error) {
	line, err := json.Marshal(order)
	if err == nil {
		err = m.dialogue.say(line)
	}
	if err == nil {
		err = m.dialogue.hear(&o)
	}
	if err == nil && o.Error != "" {
		err = errors.New(o.Error)
	}
	return o, err
}

// Stop ends the member.
func (m *Mesh) Stop() error { return m.dialogue.end(nil) }

// Flood is a process that sends datagrams until it is stopped.
type Flood struct{ dialogue *dialogue }

// Flood starts one inside the container, with a pause after each round of the addresses. It may start
// before there is a way to them. Without a pause it is as dense as one CPU can make it.
func (c *Container) Flood(gap time.Duration, to ...netip.AddrPort) (*Flood, error) {
	args := []string{"flood", "--gap", gap.String()}
	if gap == 0 {
		args = append(args, "--dense")
	}
	for _, a := range to {
		args = append(args, "--to", a.String())
	}
	d, err := converse(exec.Command(c.node.bin.Probe, args...), c.Netns, c.Cgroup)
	if err != nil {
		return nil, err
	}
	return &Flood{d}, nil
}

// Report returns what has been sent so far.
func (f *Flood) Report() (r report.Flood, err error) {
	if err = f.dialogue.say(nil); err == nil {
		err = f.dialogue.hear(&r)
	}
	return r, err
}

// Stop ends the flood and returns what it has sent.
func (f *Flood) Stop() (r report.Flood, err error) {
	err = f.dialogue.end(&r)
	return r, err
}
