package nstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// Direct is what to compare a node with: two containers and a node between them that has none of
// our programs and routes, as every Linux does, from one veth to the other.
//
//	client 10.9.0.1 fd09::1 ---- router ---- server 10.9.0.2 fd09::2
type Direct struct {
	ServerV4, ServerV6 netip.Addr

	name   string
	bin    Binaries
	cgroup string
	client string // path of the namespace
}

// Direct makes one; its server answers on Port, on the CPU (counted from 1; 0: any).
func (l *Lab) Direct(ctx context.Context, cpu int) (d *Direct, err error) {
	d = &Direct{
		ServerV4: netip.MustParseAddr("10.9.0.2"), ServerV6: netip.MustParseAddr("fd09::2"),
		name: fmt.Sprintf("%s%d-%d", Prefix, os.Getpid(), l.nodes.Add(1)), bin: l.Binaries,
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make direct pair: %w", err), d.Close())
		}
	}()
	root, err := cgroupRoot()
	if err != nil {
		return d, err
	}
	d.cgroup = filepath.Join(root, d.name)
	if err := os.Mkdir(d.cgroup, 0o755); err != nil {
		return d, err
	}
	router := filepath.Join(netnsDir, d.name)
	d.client = router + "-client"
	server := router + "-server"
	for _, path := range []string{router, d.client, server} {
		if err := newNetns(path); err != nil {
			return d, err
		}
		if err := loopback(path); err != nil {
			return d, err
		}
	}
	if err := inNetns(router, forward); err != nil {
		return d, err
	}
	if err := wire(router, d.client, "client", "10.9.0.1", "fd09::1"); err != nil {
		return d, err
	}
	if err := wire(router, server, "server", d.ServerV4.String(), d.ServerV6.String()); err != nil {
		return d, err
	}
	return d, d.serve(server, cpu)
}

func forward() error {
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	return nil
}

// wire joins a namespace to the router: addresses of its own alone, and a default route.
func wire(router, path, device, v4, v6 string) error {
	inside, err := os.Open(path)
	if err != nil {
		return err
	}
	defer inside.Close()
	gateways := []string{"169.254.9.1", "fe80::9"}
	err = inNetns(router, func() error {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: device}, PeerName: "eth0",
			PeerNamespace: netlink.NsFd(inside.Fd()),
		})
		if err != nil {
			return err
		}
		return configure(device, []string{v4, v6}, []string{gateways[0] + "/32", gateways[1] + "/128"})
	})
	if err != nil {
		return fmt.Errorf("wire %s: %w", device, err)
	}
	err = inNetns(path, func() error {
		return configure("eth0", gateways, []string{v4 + "/32", v6 + "/128"}, "0.0.0.0/0", "::/0")
	})
	if err != nil {
		return fmt.Errorf("configure %s: %w", device, err)
	}
	return nil
}

// configure sets a device up with addresses, on-link neighbours, and routes by those neighbours.
func configure(device string, onlink, addrs []string, routes ...string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for i, text := range onlink {
		ip := netip.MustParseAddr(text)
		host := netlink.NewIPNet(ip.AsSlice())
		err := netlink.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: host, Scope: netlink.SCOPE_LINK,
		})
		if err != nil {
			return err
		}
		if i >= len(routes) {
			continue
		}
		dst, err := netlink.ParseIPNet(routes[i])
		if err != nil {
			return err
		}
		err = netlink.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: dst, Gw: ip.AsSlice(),
			Flags: int(netlink.FLAG_ONLINK),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *Direct) serve(netns string, cpu int) error {
	port := strconv.Itoa(Port)
	cmd := exec.Command(d.bin.Probe, "serve", "--name", "direct", "--tcp", port, "--udp", port,
		"--stay", "--cpu", strconv.Itoa(cpu-1))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if _, err := start(cmd, netns, d.cgroup); err != nil {
		return err
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		return fmt.Errorf("start probe: said %q: %w", line, err)
	}
	return nil
}

// Call makes calls from the client.
func (d *Direct) Call(ctx context.Context, call Call) (report.Report, error) {
	return calls(ctx, exec.Command(d.bin.Probe, call.args()...), d.client, d.cgroup)
}

// Close ends the processes and removes the namespaces.
func (d *Direct) Close() error { return clean(d.name) }
