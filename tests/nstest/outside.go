package nstest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// Outside makes a host beyond the node, which routes to and from it: what policies call the world. It
// goes with the node.
func (n *Node) Outside(name string, v4, v6 netip.Addr) (*Container, error) {
	full := n.Name + "-" + name
	c := &Container{
		Name: name, ID: full, node: n, V4: v4, V6: v6,
		Netns:  filepath.Join(netnsDir, full),
		Cgroup: filepath.Join(n.Cgroup, name),
	}
	if err := newNetns(c.Netns); err != nil {
		return nil, err
	}
	if err := loopback(c.Netns); err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.Cgroup, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	return c, wire(n.Netns, c.Netns, name, v4.String(), v6.String())
}
