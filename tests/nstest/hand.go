package nstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// Hand is a process that does with sockets what it is told, several things at a time.
type Hand struct {
	dialogue *dialogue

	mu      sync.Mutex
	acts    int
	waiting map[int]chan report.Did // by act
	err     error                   // why there are no answers any more
}

// Hand starts one inside the container, or in its network namespace but outside the node's cgroup, where no
// socket hook sees it, so that tc has to translate. The node's Close ends it.
func (c *Container) Hand(outside bool) (*Hand, error) {
	cgroup, err := c.cgroup(outside)
	if err != nil {
		return nil, err
	}
	// The two kinds keep apart by their source ports.
	return startHand(exec.Command(c.node.bin.Probe, "hand", fmt.Sprintf("--odd=%t", outside)), c.Netns, cgroup)
}

// Hand starts one on the node itself.
func (n *Node) Hand() (*Hand, error) {
	return startHand(exec.Command(n.bin.Probe, "hand"), n.Netns, n.Cgroup)
}

func startHand(cmd *exec.Cmd, netns, cgroup string) (*Hand, error) {
	d, err := converse(cmd, netns, cgroup)
	if err != nil {
		return nil, err
	}
	if err := d.ready(); err != nil {
		return nil, err
	}
	h := &Hand{dialogue: d, waiting: map[int]chan report.Did{}}
	go h.hear()
	return h, nil
}

// hear hands out the answers until there are no more.
func (h *Hand) hear() {
	for {
		var did report.Did
		err := h.dialogue.hear(&did)
		h.mu.Lock()
		if err != nil {
			h.err = err
			for _, answer := range h.waiting {
				close(answer)
			}
			h.waiting = nil
			h.mu.Unlock()
			return
		}
		answer := h.waiting[did.ID]
		delete(h.waiting, did.ID)
		h.mu.Unlock()
		answer <- did
	}
}

// Do does one thing. What the kernel says no to is an error that holds its unix.Errno.
func (h *Hand) Do(a report.Act) (report.Did, error) {
	answer := make(chan report.Did, 1)
	h.mu.Lock()
	if h.err != nil {
		defer h.mu.Unlock()
		return report.Did{}, h.err
	}
	h.acts++
	a.ID = h.acts
	h.waiting[a.ID] = answer
	line, err := json.Marshal(a)
	if err == nil {
		err = h.dialogue.say(line)
	}
	h.mu.Unlock()
	if err != nil {
		return report.Did{}, err
	}
	did, ok := <-answer
	switch {
	case !ok:
		return did, errors.New("the probe has ended")
	case did.Errno != 0:
		return did, fmt.Errorf("%s: %w (%s)", a.Do, unix.Errno(did.Errno), did.Error)
	case did.Error != "":
		return did, fmt.Errorf("%s: %s", a.Do, did.Error)
	}
	return did, nil
}
