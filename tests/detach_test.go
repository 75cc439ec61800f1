package tests

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/tests/nstest"
)

// TestDetach: sluiced --detach leaves neither programs nor pins nor interfaces, refuses while an
// agent runs, and an agent started afterwards finds its way.
func TestDetach(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	before := wires(t, n)
	apply(t, n, "web", web("web", "web"))
	c := addContainer(t, n, "web-1", map[string]string{"app": "web"})
	detach := func() error {
		_, err := n.Exec(t.Context(), exec.Command(lab.Binaries.Agent, "--config", n.Config, "--detach"))
		return err
	}
	if err := detach(); err == nil || !strings.Contains(err.Error(), "another sluiced") {
		t.Errorf("detach while the agent runs: %v", err)
	}
	if err := n.StopAgent(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if err := detach(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(n.BPFFS); !os.IsNotExist(err) {
		t.Errorf("pins are left: %v", err)
	}
	if err := n.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	vips(t, n, "web")
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := wires(t, n); len(after) != len(before) {
		t.Errorf("wired before: %v, after: %v", before, after)
	}
}
