package nstest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Direct is what to compare a node with: two containers and a node between them that has none of
// our programs and routes, as every Linux does, from one veth to the other. The router is the gateway of
// both, also to addresses that nobody has.
//
//	client 10.9.0.1 fd09::1 ---- router ---- server 10.9.0.2 fd09::2
type Direct struct {
	ClientV4, ClientV6 netip.Addr
	ServerV4, ServerV6 netip.Addr

	name   string
	cgroup string
}

// Place is one of the namespaces of a Direct.
type Place string

const (
	AtClient Place = "-client"
	AtRouter Place = ""
	AtServer Place = "-server"
)

// Direct makes one, with no process in it.
func (l *Lab) Direct() (d *Direct, err error) {
	d = &Direct{
		ClientV4: netip.MustParseAddr("10.9.0.1"), ClientV6: netip.MustParseAddr("fd09::1"),
		ServerV4: netip.MustParseAddr("10.9.0.2"), ServerV6: netip.MustParseAddr("fd09::2"),
		name: nodeName(os.Getpid(), int(l.nodes.Add(1))),
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make direct pair: %w", err), d.Close())
			d = nil
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
	for _, place := range []Place{AtRouter, AtClient, AtServer} {
		if err := newNetns(d.netns(place)); err != nil {
			return d, err
		}
		if err := loopback(d.netns(place)); err != nil {
			return d, err
		}
	}
	if err := d.InNetns(AtRouter, forward); err != nil {
		return d, err
	}
	if err := wire(d.netns(AtRouter), d.netns(AtClient), "client", d.ClientV4.String(), d.ClientV6.String()); err != nil {
		return d, err
	}
	return d, wire(d.netns(AtRouter), d.netns(AtServer), "server", d.ServerV4.String(), d.ServerV6.String())
}

func (d *Direct) netns(p Place) string { return filepath.Join(netnsDir, d.name+string(p)) }

// InNetns runs f on a thread inside one of the namespaces.
func (d *Direct) InNetns(p Place, f func() error) error { return inNetns(d.netns(p), f) }

// Exec runs a command inside one of the namespaces to its end and returns what it printed.
func (d *Direct) Exec(ctx context.Context, p Place, cmd *exec.Cmd) ([]byte, error) {
	return run(ctx, cmd, d.netns(p), d.cgroup)
}

// Start starts a command inside one of the namespaces; Close ends it.
func (d *Direct) Start(p Place, cmd *exec.Cmd) error {
	_, err := start(cmd, d.netns(p), d.cgroup)
	return err
}

// Talk starts a program inside one of the namespaces; Close ends it.
func (d *Direct) Talk(p Place, cmd *exec.Cmd) (*Talk, error) { return talk(cmd, d.netns(p), d.cgroup) }

// Dir makes a directory for what programs need; Close removes it.
func (d *Direct) Dir() (string, error) {
	dir := filepath.Join(os.TempDir(), d.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
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

// Close ends the processes and removes the namespaces.
func (d *Direct) Close() error { return clean(d.name) }
