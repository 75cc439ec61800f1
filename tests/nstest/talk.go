package nstest

import (
	"encoding/json"
	"os/exec"
)

// Talk is a program that is told by lines of JSON what to do, and answers each of them with one. It says "ready"
// first.
type Talk struct{ dialogue *dialogue }

// Talk starts a program inside the container; the node's Close ends it.
func (c *Container) Talk(cmd *exec.Cmd) (*Talk, error) { return talk(cmd, c.Netns, c.Cgroup) }

// TalkOutside starts a program inside the container but outside the node's cgroup, where no socket hook sees
// what it does.
func (c *Container) TalkOutside(cmd *exec.Cmd) (*Talk, error) {
	cgroup, err := c.cgroup(true)
	if err != nil {
		return nil, err
	}
	return talk(cmd, c.Netns, cgroup)
}

func talk(cmd *exec.Cmd, netns, cgroup string) (*Talk, error) {
	d, err := converse(cmd, netns, cgroup)
	if err != nil {
		return nil, err
	}
	return &Talk{d}, d.ready()
}

// Do gives an order and waits for the answer.
func (t *Talk) Do(order, answer any) error {
	line, err := json.Marshal(order)
	if err == nil {
		err = t.dialogue.say(line)
	}
	if err == nil {
		err = t.dialogue.hear(answer)
	}
	return err
}

// Stop ends the program.
func (t *Talk) Stop() error { return t.dialogue.end(nil) }
