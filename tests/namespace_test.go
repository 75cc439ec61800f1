package tests

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// TestNamespaceNotEntered: sockets are looked for whose backend is gone, and the network namespace of a
// container cannot be entered. Status, metric and log say which; the others' sockets are ended.
func TestNamespaceNotEntered(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	client := addContainer(t, n, "client", nil)
	lost := addContainer(t, n, "lost", nil)
	backend := addContainer(t, n, "web-1", map[string]string{"app": "web"})
	vip := apply(t, n, "web", web("web", "web"))[0]
	hand, err := client.Hand(false)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := hand.Do(report.Act{Do: report.Open, Net: "udp", To: netip.AddrPortFrom(vip, 80)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hand.Do(report.Act{Do: report.Ask, Socket: socket.Socket}); err != nil {
		t.Fatal(err)
	}

	netns, err := os.Open(lost.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer netns.Close()
	if err := unix.Unmount(lost.Netns, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	defer func() { // for who cleans up
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", netns.Fd()), lost.Netns, "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
		}
	}()
	if _, err := n.Sluice(t.Context(), "", "unready", backend.ID); err != nil {
		t.Fatal(err)
	}
	if did, err := hand.Do(report.Act{Do: report.Receive, Socket: socket.Socket, Patience: soon}); err == nil || did.Took >= soon {
		t.Errorf("the socket whose backend is gone: %+v, %v", did, err)
	}
	says := func() string {
		status, err := n.API().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !status.Ready {
			t.Errorf("the node is not ready: %+v", status.Conditions)
		}
		for _, c := range status.Conditions {
			if c.Name == "sockets" {
				return c.Message
			}
		}
		return ""
	}
	err = nstest.Await(t.Context(), "status", func() (bool, error) { return strings.Contains(says(), lost.Netns), nil })
	if err != nil {
		t.Errorf("%v: %s", err, says())
	}
	if !strings.Contains(n.Log(1000), lost.Netns) {
		t.Errorf("the log does not tell of %s:\n%s", lost.Netns, n.Log(20))
	}
	if metrics := string(scrape(t, n)); strings.Contains(metrics, "sluice_sweep_errors_total 0\n") ||
		!strings.Contains(metrics, "sluice_sweep_errors_total ") {
		t.Error("the metric sluice_sweep_errors_total does not count it")
	}
}
