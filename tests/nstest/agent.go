package nstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/sluice-net/sluice/registry/api"
)

// configuration is the agent's.
const configuration = `
node: {name: {{.S.Node}}, zone: "{{.S.Zone}}"{{if not .S.FoundAddresses}}, addresses: [{{.S.Address}}, "2001:db8::1"]{{end}}}
paths: {state: {{.N.State}}, run: {{.N.Run}}, bpffs: {{.N.BPFFS}}, cgroup: {{.N.Cgroup}}}
registry: { {{- if .S.Etcd}}etcd: [{{range .S.Etcd}}"{{.}}", {{end}}]{{else}}embedded: {}{{end}}{{with .S.Expiry}}, expiry: {{.}}{{end -}} }
containers: {cidrs: [{{range .S.Containers}}"{{.}}", {{end}}]}
services: {cidrs: [{{range .S.Services}}"{{.}}", {{end}}]}
datapath: {socketTranslation: {{not .S.NoSocketTranslation}}, mapScale: {{.S.MapScale}}, attach: {{.S.Attach}}}
metrics: {listen: "127.0.0.1:9464"}
policy: {audit: {{.S.Audit}}}
dns: {upstreams: [{{range .S.Upstreams}}"{{.}}", {{end}}]}
{{with .S.Flows}}flows: {{.}}{{end}}
{{.S.More}}
`

func (s Settings) filled() Settings {
	if s.Node == "" {
		s.Node = "n1"
	}
	if s.Address == "" {
		s.Address = "192.0.2.1"
	}
	if s.Containers == nil {
		s.Containers = []string{"10.244.1.0/24", "fd00:10:244:1::/64"}
	}
	if s.Services == nil {
		s.Services = []string{"10.96.0.0/16", "fd00:10:96::/112"}
	}
	if s.Attach == "" {
		s.Attach = "auto"
	}
	if s.MapScale == 0 {
		s.MapScale = 0.02
	}
	return s
}

// Restart ends the agent, if one runs, gracefully, and starts one with these settings.
func (n *Node) Restart(ctx context.Context, settings Settings) error {
	if err := n.StopAgent(); err != nil {
		return err
	}
	n.settings = settings.filled()
	var text bytes.Buffer
	data := struct {
		N *Node
		S Settings
	}{n, n.settings}
	if err := template.Must(template.New("").Parse(configuration)).Execute(&text, data); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	if err := os.WriteFile(n.Config, text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	return n.StartAgent(ctx)
}

// StartAgent starts an agent and waits until it is ready.
func (n *Node) StartAgent(ctx context.Context) error {
	if err := n.LaunchAgent(); err != nil {
		return err
	}
	return n.Ready(ctx)
}

// LaunchAgent starts an agent and does not wait.
func (n *Node) LaunchAgent() error {
	log, err := os.OpenFile(n.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(n.bin.Agent, "--config", n.Config)
	cmd.Stdout, cmd.Stderr = log, log
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agent != nil && !n.agent.ended() {
		return errors.New("start agent: one runs")
	}
	n.agent, err = start(cmd, n.Netns, n.Cgroup)
	return err
}

// Ready waits until the agent serves.
func (n *Node) Ready(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	agent := n.running()
	if agent == nil {
		return errors.New("await agent: none was started")
	}
	go func() {
		select {
		case <-agent.done:
			cancel(fmt.Errorf("the agent ended: %v\n%s", agent.err, n.Log(20)))
		case <-ctx.Done():
		}
	}()
	if _, err := n.Sluice(ctx, "", "status", "--wait", "30s"); err != nil {
		return fmt.Errorf("await agent: %w\n%s", err, n.Log(20))
	}
	return nil
}

// KillAgent ends the agent with SIGKILL.
func (n *Node) KillAgent() error {
	agent := n.running()
	if agent == nil || agent.ended() {
		return errors.New("kill agent: none runs")
	}
	agent.kill()
	return nil
}

// StopAgent ends the agent with SIGTERM; none running is fine.
func (n *Node) StopAgent() error {
	agent := n.running()
	if agent == nil || agent.ended() {
		return nil
	}
	if err := agent.end(10 * time.Second); err != nil {
		return fmt.Errorf("%w\n%s", err, n.Log(20))
	}
	return nil
}

// AgentPID is the process id of the agent; 0: none runs.
func (n *Node) AgentPID() int {
	agent := n.running()
	if agent == nil || agent.ended() {
		return 0
	}
	return agent.cmd.Process.Pid
}

func (n *Node) running() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.agent
}

func (n *Node) log() string { return filepath.Join(n.Dir, "sluiced.log") }

// Log returns the last lines that the node's agents wrote.
func (n *Node) Log(lines int) string {
	data, _ := os.ReadFile(n.log())
	all := strings.SplitAfter(string(data), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}

// Sluice runs the command-line tool against the node's agent, and returns what it printed.
func (n *Node) Sluice(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	args = append([]string{"--socket", n.Socket()}, args...)
	cmd := exec.CommandContext(ctx, n.bin.CLI, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return out, fmt.Errorf("sluice %s: %w: %s%s", strings.Join(args[2:], " "), err, said.Bytes(), out)
	}
	return out, nil
}

// Metrics returns what the agent tells of itself and of its programs, in Prometheus's text format.
func (n *Node) Metrics(ctx context.Context) (string, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.Socket())
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sluiced/v1/metrics", nil)
	if err != nil {
		return "", err
	}
	res, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return "", fmt.Errorf("ask for metrics: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("ask for metrics: %s: %s", res.Status, text)
	}
	return string(text), err
}

// API is a client of the node's agent.
func (n *Node) API() *api.Client { return n.api }
