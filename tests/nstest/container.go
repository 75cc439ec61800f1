package nstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/sluice-net/sluice/registry"
)

// Port is where containers answer, over TCP and UDP.
const Port = 8080

// Spec says what container to add.
type Spec struct {
	Name   string
	Labels map[string]string
	CPU    int  // to run on, counted from 1; 0: any
	Empty  bool // no process inside

	Namespace string // as Kubernetes would say; "": the agent's default
	Pod       string // its name there; "": the agent's choice
	Network   string // CNI name; "": sluice
	Ports     []registry.EndpointPort
	// Serve lists ports to answer on over TCP, UDP and SCTP; none: Port over TCP and UDP.
	Serve     []int
	MTU       int          // 0: the agent's choice
	Addresses []netip.Addr // to ask for; none: whatever is free
}

// Container is a network namespace wired by the plugin, with a probe in it.
type Container struct {
	Name   string
	ID     string
	Netns  string
	Cgroup string
	V4, V6 netip.Addr

	node   *Node
	spec   Spec
	holder *process
	stdin  io.Closer // closing it ends the holder
}

// AddContainer makes a container and wires it; on an error nothing of it stays.
func (n *Node) AddContainer(ctx context.Context, spec Spec) (*Container, error) {
	c, err := n.NewContainer(spec)
	if err != nil {
		return nil, err
	}
	if err := c.Add(ctx); err != nil {
		return nil, errors.Join(err, c.Del(ctx), c.remove())
	}
	return c, nil
}

// NewContainer makes a container that is not wired yet.
func (n *Node) NewContainer(spec Spec) (c *Container, err error) {
	name := n.Name + "-" + spec.Name
	c = &Container{
		Name: spec.Name, ID: name, node: n, spec: spec,
		Netns:  filepath.Join(netnsDir, name),
		Cgroup: filepath.Join(n.Cgroup, spec.Name),
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make container %s: %w", spec.Name, err), c.remove())
			c = nil
		}
	}()
	if err := newNetns(c.Netns); err != nil {
		return c, err
	}
	if err := loopback(c.Netns); err != nil {
		return c, err
	}
	if err := os.Mkdir(c.Cgroup, 0o755); err != nil {
		return c, err
	}
	if !spec.Empty {
		if err := c.hold(); err != nil {
			return c, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.containers[spec.Name] = c
	return c, nil
}

// hold starts the container's process and waits until it serves.
func (c *Container) hold() (err error) {
	args := serving(c.Name, c.spec.Serve)
	if len(c.spec.Serve) == 0 {
		port := strconv.Itoa(Port)
		args = []string{"serve", "--name", c.Name, "--tcp", port, "--udp", port}
	}
	args = append(args, "--cpu", strconv.Itoa(c.spec.CPU-1))
	c.holder, c.stdin, err = serve(exec.Command(c.node.bin.Probe, args...), c.Netns, c.Cgroup)
	return err
}

// Serve answers at these ports over TCP, UDP and SCTP, until the container or the node ends.
func (c *Container) Serve(ports ...int) (err error) {
	c.holder, c.stdin, err = serve(exec.Command(c.node.bin.Probe, serving(c.Name, ports)...), c.Netns, c.Cgroup)
	return err
}

// Serve answers with a name on the node itself, at these ports over TCP, UDP and SCTP, until Close.
func (n *Node) Serve(name string, ports ...int) error {
	_, _, err := serve(exec.Command(n.bin.Probe, append(serving(name, ports), "--stay")...), n.Netns, n.Cgroup)
	return err
}

func serving(name string, ports []int) []string {
	args := []string{"serve", "--name", name}
	for _, port := range ports {
		for _, network := range []string{"tcp", "udp", "sctp"} {
			args = append(args, "--"+network, strconv.Itoa(port))
		}
	}
	return args
}

// serve starts a server and waits until it serves. Closing its standard input ends it.
func serve(cmd *exec.Cmd, netns, cgroup string) (*process, io.Closer, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	p, err := start(cmd, netns, cgroup)
	if err != nil {
		return nil, nil, err
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		return p, stdin, fmt.Errorf("start probe: said %q: %w", line, err)
	}
	return p, stdin, nil
}

// Quit ends what serves in the container, at once. The container stays.
func (c *Container) Quit() {
	c.stdin.Close()
	c.holder.kill()
}

// Delete ends the container as a runtime does: its process, DEL, its namespace.
func (c *Container) Delete(ctx context.Context) error {
	return errors.Join(c.Del(ctx), c.remove())
}

// remove takes away all but the wire.
func (c *Container) remove() error {
	var errs []error
	if c.holder != nil {
		c.stdin.Close()
		c.holder.kill()
	}
	errs = append(errs, endCgroup(c.Cgroup), removeNetns(c.Netns))
	c.node.mu.Lock()
	delete(c.node.containers, c.Name)
	c.node.mu.Unlock()
	return errors.Join(errs...)
}
