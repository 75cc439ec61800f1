// Package tests holds the tests of the whole system: the built binaries on test nodes.
package tests

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
	"github.com/sluice-net/sluice/tests/nstest"
)

// lab is set by TestMain, which builds the binaries once.
var lab *nstest.Lab

func TestMain(m *testing.M) {
	etcdtest.Main()
	os.Exit(func() int {
		if os.Geteuid() != 0 {
			return m.Run() // each test skips
		}
		dir, err := os.MkdirTemp("", "sluice-bin")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binaries, err := nstest.Build(context.Background(), dir)
		if err == nil {
			err = nstest.Sweep()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		lab = &nstest.Lab{Binaries: binaries}
		return m.Run()
	}())
}

// newNode makes a test node, and at the test's end checks that maps and registry are equal, and that
// nothing stays behind.
func newNode(t *testing.T, settings nstest.Settings) *nstest.Node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	n, err := lab.New(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if out, err := n.Sluice(ctx, "", "check"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if t.Failed() {
			t.Logf("the agent's log ends:\n%s", n.Log(40))
		}
		if err := n.Close(); err != nil {
			t.Errorf("close node: %v", err)
		}
		left, err := nstest.Leaks(n.Name)
		if err != nil {
			t.Error(err)
		}
		if len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	return n
}

func addContainer(t *testing.T, n *nstest.Node, name string, labels map[string]string) *nstest.Container {
	t.Helper()
	c, err := n.AddContainer(t.Context(), nstest.Spec{Name: name, Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// web is a service manifest of both families and protocols, port 80 to the probe's.
func web(name, app string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: %s}
  ports:
  - {name: web, protocol: TCP, port: 80, targetPort: %d}
  - {name: web-udp, protocol: UDP, port: 80, targetPort: %[3]d}
`, name, app, nstest.Port)
}

// apply writes a manifest and returns the VIPs of the service of that name.
func apply(t *testing.T, n *nstest.Node, name, manifest string) []netip.Addr {
	t.Helper()
	if _, err := n.Sluice(t.Context(), manifest, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	return vips(t, n, name)
}

func vips(t *testing.T, n *nstest.Node, name string) []netip.Addr {
	t.Helper()
	svc, err := n.API().Service(t.Context(), registry.Name{Namespace: "default", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if len(svc.VIPs) != 2 {
		t.Fatalf("service %s has VIPs %v, want one of each family", name, svc.VIPs)
	}
	return svc.VIPs
}

func check(t *testing.T, n *nstest.Node) {
	t.Helper()
	if out, err := n.Sluice(t.Context(), "", "check"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// kinds are the calls of every protocol and family to port 80 of some VIPs, each on a new socket.
func kinds(vips []netip.Addr) []nstest.Call {
	var calls []nstest.Call
	for _, vip := range vips {
		to := netip.AddrPortFrom(vip, 80)
		calls = append(calls, nstest.Call{Net: "tcp", To: to}, nstest.Call{Net: "udp", To: to},
			nstest.Call{Net: "udp", To: to, Connect: true})
	}
	return calls
}

func title(c nstest.Call) string {
	text := c.Net
	switch {
	case c.Keep:
		text += " lasting"
	case c.Connect:
		text += " connected"
	}
	if c.To.Addr().Is4() {
		return text + " IPv4"
	}
	if c.To.Addr().Is4In6() {
		return text + " IPv4-mapped"
	}
	return text + " IPv6"
}

// wires lists all that the agent and the plugin have made for containers.
func wires(t *testing.T, n *nstest.Node) []string {
	t.Helper()
	var found []string
	err := n.InNetns(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				found = append(found, "link "+l.Attrs().Name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{
		n.BPFFS + "/links/*_pod", n.State + "/attachments/*.json", n.Run + "/spool/*", n.Dir + "/cni/results/*",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, files...)
	}
	endpoints, err := n.API().Endpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		found = append(found, "endpoint "+e.String())
	}
	return found
}
