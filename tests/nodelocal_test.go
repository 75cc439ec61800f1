package tests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/tests/nstest"
)

// nodeLocal are the addresses by which containers reach their own node's agent.
func nodeLocal() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(cni.NodeLocalV4), netip.MustParseAddr(cni.NodeLocalV6)}
}

// onLoopback returns which of the node-local addresses lo of a node has.
func onLoopback(n *nstest.Node) (found []netip.Addr, err error) {
	err = n.InNetns(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
		for _, a := range list {
			if addr, ok := netip.AddrFromSlice(a.IP); ok && slices.Contains(nodeLocal(), addr.Unmap()) {
				found = append(found, addr.Unmap())
			}
		}
		return err
	})
	slices.SortFunc(found, netip.Addr.Compare)
	return found, err
}

func awaitOnLoopback(t *testing.T, n *nstest.Node, want ...netip.Addr) {
	t.Helper()
	err := nstest.Await(t.Context(), fmt.Sprintf("%v on lo", want), func() (bool, error) {
		found, err := onLoopback(n)
		return slices.Equal(found, want), err
	})
	if err != nil {
		t.Error(err)
	}
}

// echo answers on TCP and UDP at a port of an address of the node.
func echo(t *testing.T, n *nstest.Node, at netip.AddrPort) {
	t.Helper()
	err := n.InNetns(func() error {
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		p, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		go func() {
			buf := make([]byte, 1500)
			for {
				n, from, err := p.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				_, _ = p.WriteToUDPAddrPort(buf[:n], from)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask sends to an echo from inside a namespace and wants it back, from the address that it sent to.
func ask(in func(func() error) error, network string, at netip.AddrPort) error {
	return in(func() error {
		c, err := net.DialTimeout(network, at.String(), 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		buf := make([]byte, 5)
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if string(buf) != "hello" {
			return fmt.Errorf("heard %q", buf)
		}
		return nil
	})
}

// closedEgress lets no container send anything.
const closedEgress = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {}, policyTypes: [Egress, Ingress]}
`

// TestNodeLocal: every container reaches the node-local addresses of its node, in both families, by UDP and TCP,
// whatever policies and networks say; they come back when they are lost, and --detach takes them away.
func TestNodeLocal(t *testing.T) {
	for _, settings := range []nstest.Settings{{Attach: "clsact"}, {Attach: "tcx"}, {NoSocketTranslation: true}} {
		t.Run(settings.Attach, func(t *testing.T) { testNodeLocal(t, newNode(t, settings)) })
	}
}

func testNodeLocal(t *testing.T, n *nstest.Node) {
	awaitOnLoopback(t, n, nodeLocal()...)
	web := addContainer(t, n, "web", nil)
	other, err := n.AddContainer(t.Context(), nstest.Spec{Name: "other", Network: "blue"})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range nodeLocal() {
		echo(t, n, netip.AddrPortFrom(a, 5300))
	}
	reached := func(when string) {
		t.Helper()
		for _, a := range nodeLocal() {
			for _, network := range []string{"tcp", "udp"} {
				for name, in := range map[string]func(func() error) error{"web": web.InNetns, "other": other.InNetns, "node": n.InNetns} {
					if err := ask(in, network, netip.AddrPortFrom(a, 5300)); err != nil {
						t.Errorf("%s: from %s by %s to %s: %v", when, name, network, a, err)
					}
				}
			}
		}
	}
	reached("without policies")
	if _, err := n.Sluice(t.Context(), closedEgress, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	reached("under a policy that allows nothing")
	loseNodeLocal(t, n)
	awaitOnLoopback(t, n, nodeLocal()...)
	reached("after they were lost")
	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	reached("without an agent")
	if _, err := n.Exec(t.Context(), exec.Command(lab.Binaries.Agent, "--config", n.Config, "--detach")); err != nil {
		t.Fatal(err)
	}
	awaitOnLoopback(t, n)
	if err := n.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func loseNodeLocal(t *testing.T, n *nstest.Node) {
	t.Helper()
	err := n.InNetns(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		var errs []error
		for _, a := range nodeLocal() {
			addr, err := netlink.ParseAddr(netip.PrefixFrom(a, a.BitLen()).String())
			if err != nil {
				return err
			}
			errs = append(errs, netlink.AddrDel(lo, addr))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNodeLocalIsNoSource: what the node itself says to containers does not come from a node-local address.
func TestNodeLocalIsNoSource(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	c := addContainer(t, n, "web", nil)
	for _, to := range []netip.Addr{c.V4, c.V6} {
		err := n.InNetns(func() error {
			conn, err := net.Dial("udp", netip.AddrPortFrom(to, 9).String())
			if err != nil {
				return err
			}
			defer conn.Close()
			from := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
			if slices.Contains(nodeLocal(), from) {
				return fmt.Errorf("to %s the node speaks from %s", to, from)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
