package nstest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Interface is the name of the one that containers get.
const Interface = "eth0"

// nodeExec runs plugins inside a node's namespace, where a runtime on a real node runs.
type nodeExec struct {
	version.PluginDecoder
	raw   invoke.RawExec
	netns string
}

func (e *nodeExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) (out []byte, err error) {
	err = inNetns(e.netns, func() error {
		out, err = e.raw.ExecPlugin(ctx, path, stdin, env)
		return err
	})
	return out, err
}

func (e *nodeExec) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// CNI is the library that runtimes use, set up for this node.
func (n *Node) CNI() *libcni.CNIConfig {
	bin := []string{filepath.Dir(n.bin.Plugin)}
	return libcni.NewCNIConfigWithCacheDir(bin, filepath.Join(n.Dir, "cni"), &nodeExec{netns: n.Netns})
}

// Conflist is the network's configuration of a CNI version, with a container's labels.
func (n *Node) Conflist(version string, labels map[string]string) (*libcni.NetworkConfigList, error) {
	return n.conflist(version, Spec{Labels: labels})
}

func (n *Node) conflist(version string, spec Spec) (*libcni.NetworkConfigList, error) {
	type label struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	list := []label{}
	for key, value := range spec.Labels {
		list = append(list, label{key, value})
	}
	args := map[string]any{"labels": list}
	if spec.Ports != nil {
		args["ports"] = spec.Ports
	}
	if spec.Addresses != nil {
		args["ips"] = spec.Addresses
	}
	data, err := json.Marshal(map[string]any{
		"cniVersion": version,
		"name":       cmp.Or(spec.Network, "sluice"),
		"plugins": []any{map[string]any{
			"type":   "sluice-cni",
			"socket": n.Socket(),
			"mtu":    spec.MTU, // 0: the agent's choice
			"args":   map[string]any{"cni": args},
		}},
	})
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(data)
}

// Runtime is what a runtime knows of the container.
func (c *Container) Runtime() *libcni.RuntimeConf {
	conf := &libcni.RuntimeConf{ContainerID: c.ID, NetNS: c.Netns, IfName: Interface}
	if c.spec.Namespace != "" {
		conf.Args = append(conf.Args, [2]string{"K8S_POD_NAMESPACE", c.spec.Namespace})
	}
	if c.spec.Pod != "" {
		conf.Args = append(conf.Args, [2]string{"K8S_POD_NAME", c.spec.Pod})
	}
	return conf
}

// Add wires the container.
func (c *Container) Add(ctx context.Context) error {
	list, err := c.node.conflist("1.0.0", c.spec)
	if err != nil {
		return err
	}
	got, err := c.node.CNI().AddNetworkList(ctx, list, c.Runtime())
	if err != nil {
		return fmt.Errorf("add %s: %w", c.Name, err)
	}
	result, err := types100.NewResultFromResult(got)
	if err != nil {
		return fmt.Errorf("add %s: %w", c.Name, err)
	}
	for _, ip := range result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return fmt.Errorf("add %s: address %v", c.Name, ip.Address)
		}
		if addr = addr.Unmap(); addr.Is4() {
			c.V4 = addr
		} else {
			c.V6 = addr
		}
	}
	return nil
}

// Del takes the container's wire away.
func (c *Container) Del(ctx context.Context) error {
	list, err := c.node.conflist("1.0.0", c.spec)
	if err != nil {
		return err
	}
	if err := c.node.CNI().DelNetworkList(ctx, list, c.Runtime()); err != nil {
		return fmt.Errorf("del %s: %w", c.Name, err)
	}
	return nil
}

// Plugin runs sluice-cni with this standard input and environment, as a runtime's mistakes would.
func (n *Node) Plugin(ctx context.Context, stdin string, env ...string) ([]byte, error) {
	cmd := exec.Command(n.bin.Plugin)
	cmd.Env = env
	cmd.Stdin = strings.NewReader(stdin)
	return run(ctx, cmd, n.Netns, n.Cgroup)
}
