package nstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// dialogue is a process that is told something by lines, and answers each with a line of JSON.
type dialogue struct {
	process *process
	stdin   io.WriteCloser
	pipe    *os.File
	stdout  *bufio.Reader // of pipe
	stderr  bytes.Buffer  // may be read when the process has ended
}

func converse(cmd *exec.Cmd, netns, cgroup string) (*dialogue, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not StdoutPipe, whose end is lost when the process is waited for before it was read.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	d := &dialogue{stdin: stdin, pipe: r, stdout: bufio.NewReader(r)}
	cmd.Stdout, cmd.Stderr = w, &d.stderr
	if d.process, err = start(cmd, netns, cgroup); err != nil {
		r.Close()
		return nil, err
	}
	return d, nil
}

// ready waits for the line that says so.
func (d *dialogue) ready() error {
	if line, err := d.stdout.ReadString('\n'); line != "ready\n" {
		return d.failed(fmt.Errorf("start probe: said %q: %w", line, err))
	}
	return nil
}

// say tells one line.
func (d *dialogue) say(line []byte) error {
	if _, err := d.stdin.Write(append(line, '\n')); err != nil {
		return d.failed(fmt.Errorf("tell probe: %w", err))
	}
	return nil
}

func (d *dialogue) hear(into any) error {
	line, err := d.stdout.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, into)
	}
	if err != nil {
		return d.failed(fmt.Errorf("read report: %w", err))
	}
	return nil
}

// failed adds what the process said, if it has ended.
func (d *dialogue) failed(err error) error {
	select {
	case <-d.process.done:
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(d.stderr.Bytes()))
	case <-time.After(time.Second): // its output may end before it does
		return err
	}
}

// end closes the process' standard input, hears its last words, if it is to have some, and waits.
func (d *dialogue) end(into any) error {
	d.stdin.Close()
	var err error
	if into != nil {
		err = d.hear(into)
	}
	d.pipe.Close()
	<-d.process.done
	return errors.Join(err, d.process.err)
}
