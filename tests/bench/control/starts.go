package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/sluice-net/sluice/tests/bench/crowd"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

const (
	startBackends   = 4   // of each service
	startContainers = 100 // wired, but where it has to be quick
	startCaller     = "caller"
	startServer     = "called"
	startCalls      = 50 // made before and after what is timed
	startLook       = time.Millisecond
	startGap        = 2 * time.Millisecond // between calls: leaves the CPU to the agent
)

// calledService is what is called all the time; what the crowd registers are other services.
const calledService = `{apiVersion: v1, kind: Service, metadata: {name: called}, spec: {selector: {app: called},
  ports: [{name: tcp, port: 80, targetPort: 8080, protocol: TCP}]}}`

// starts measures how long an agent takes to be ready: on an empty node, and on one whose maps its predecessor has left
// full, ended by SIGTERM or by SIGKILL; and what callers through a VIP feel of it, who must not.
func (b *bench) starts(ctx context.Context) (err error) {
	if err := b.emptyStarts(ctx); err != nil {
		return fmt.Errorf("empty node: %w", err)
	}
	node, err := b.Lab.New(ctx, nstest.Settings{MapScale: 1, Attach: b.Attach})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	s := &starts{bench: b, node: node}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	sizes, containers := []int{few, 1000, 10_000}, startContainers
	if b.Quick {
		sizes, containers = []int{1000}, 2
	}
	for _, services := range sizes {
		if err := s.fill(ctx, services, containers); err != nil {
			return err
		}
		for round := range b.LongRounds() {
			if err := s.round(ctx, round); err != nil {
				return fmt.Errorf("at %d services: %w", services, err)
			}
		}
		if err := s.rest(ctx, node, s.of("rest")); err != nil {
			return err
		}
		if _, err := node.Sluice(ctx, "", "check"); err != nil {
			return err
		}
	}
	return nil
}

// emptyStarts starts agents on a node without pins and without state.
func (b *bench) emptyStarts(ctx context.Context) (err error) {
	node, err := b.Lab.New(ctx, nstest.Settings{MapScale: 1, Attach: b.Attach})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	for round := range b.LongRounds() {
		if err := node.StopAgent(); err != nil {
			return err
		}
		if _, err := node.Exec(ctx, exec.Command(b.Lab.Binaries.Agent, "--config", node.Config, "--detach")); err != nil {
			return err
		}
		if err := os.RemoveAll(node.State); err != nil {
			return err
		}
		values, err := launch(ctx, node)
		if err != nil {
			return err
		}
		b.Sheet.Add(of("kind", "start_empty", "step", "start"), round, 1, values...)
	}
	return b.rest(ctx, node, of("kind", "start_empty", "step", "rest"))
}

// rest enters the memory of a node's agent, once: until it is at rest takes longer than its start.
func (b *bench) rest(ctx context.Context, node *nstest.Node, c sheet.Case) error {
	usage, err := part.AtRest(ctx, node.AgentPID())
	if err != nil {
		return err
	}
	b.Sheet.Add(c, 0, 1, sheet.Value{Unit: "rss-B", Value: usage.Resident})
	return nil
}

// starts is a node that is filled step by step, and whose agent is ended and started again.
type starts struct {
	*bench
	node                 *nstest.Node
	caller               *nstest.Container
	to                   netip.AddrPort
	services, containers int // that there are
}

// prepare adds who calls and who is called.
func (s *starts) prepare(ctx context.Context) (err error) {
	if s.caller, err = s.node.AddContainer(ctx, nstest.Spec{Name: startCaller, Empty: true}); err != nil {
		return err
	}
	if _, err := s.node.AddContainer(ctx, nstest.Spec{Name: startServer, Labels: map[string]string{"app": startServer}}); err != nil {
		return err
	}
	s.containers = 2
	if _, err := s.node.Sluice(ctx, calledService, "apply", "-f", "-"); err != nil {
		return err
	}
	vip, err := frontend(ctx, s.node, startServer)
	s.to = netip.AddrPortFrom(vip.Addr(), 80)
	return err
}

// fill brings so many services, and wires so many containers.
func (s *starts) fill(ctx context.Context, services, containers int) error {
	took, err := crowd.Apply(ctx, s.node, s.services, services, startBackends)
	if err != nil {
		return err
	}
	s.Log("control: %d services applied in %.1f s", services-s.services, took.Seconds())
	s.services = services
	for ; s.containers < containers; s.containers++ {
		if _, err := s.node.AddContainer(ctx, nstest.Spec{Name: fmt.Sprint("more", s.containers), Empty: true}); err != nil {
			return err
		}
	}
	return nil
}

// round ends and starts the agent in each way, and once leaves it alone: what callers feel then is the machine's doing.
func (s *starts) round(ctx context.Context, round int) error {
	var lasts time.Duration // a restart
	for _, way := range []struct {
		step string
		do   func() ([]sheet.Value, error)
	}{
		{"restart", func() ([]sheet.Value, error) {
			start := time.Now()
			if err := s.node.StopAgent(); err != nil {
				return nil, err
			}
			stopped := time.Since(start)
			values, err := launch(ctx, s.node)
			lasts = time.Since(start)
			return append(values, sheet.Value{Unit: "stop-s", Value: stopped.Seconds()}), err
		}},
		{"kill", func() ([]sheet.Value, error) {
			if err := s.node.KillAgent(); err != nil {
				return nil, err
			}
			return launch(ctx, s.node)
		}},
		{"none", func() ([]sheet.Value, error) {
			select {
			case <-ctx.Done():
			case <-time.After(lasts):
			}
			return nil, ctx.Err()
		}},
	} {
		values, err := s.underCalls(ctx, way.do)
		if err != nil {
			return fmt.Errorf("%s: %w", way.step, err)
		}
		s.Sheet.Add(s.of(way.step), round, 1, values...)
	}
	return nil
}

// of is the case of a way to start, at the node's size.
func (s *starts) of(step string) sheet.Case {
	return of("kind", "start", "step", step, "services", s.services, "wired", s.containers)
}

// underCalls does something while connections through a VIP come and go and one stays, and adds what their
// callers felt. A call that fails is an error.
func (s *starts) underCalls(ctx context.Context, do func() ([]sheet.Value, error)) (values []sheet.Value, err error) {
	var callers []*nstest.Caller
	for _, keep := range []bool{false, true} {
		c, err := s.caller.Caller(nstest.Call{Net: "tcp", To: s.to, Keep: keep, Gap: startGap})
		if err != nil {
			return nil, err
		}
		callers = append(callers, c)
	}
	if err = nstest.More(ctx, startCalls, callers...); err == nil {
		values, err = do()
	}
	if err == nil {
		err = nstest.More(ctx, startCalls, callers...)
	}
	for i, name := range []string{"connecting", "connected"} {
		r, e := callers[i].Stop()
		if err = errors.Join(err, e); err != nil {
			continue
		}
		if r.Failed > 0 {
			err = fmt.Errorf("%d of %d calls failed, the first: %v", r.Failed, r.Calls, r.Failures[0])
		}
		values = append(values, sheet.Value{Unit: name + "-p50-ns", Value: float64(r.P50)},
			sheet.Value{Unit: name + "-worst-ns", Value: float64(r.Max)})
	}
	return values, err
}

// launch starts an agent and waits until all of the registry is in the maps and it is ready.
func launch(ctx context.Context, node *nstest.Node) ([]sheet.Value, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	if err := node.LaunchAgent(); err != nil {
		return nil, err
	}
	// The agent listens once the maps hold what the registry does, and then tells whether all else holds, too. One that
	// was killed has left its socket, which refuses.
	looks := time.NewTicker(startLook)
	defer looks.Stop()
	for {
		if status, err := node.API().Status(ctx); err == nil && status.Ready {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("await agent: %w\n%s", context.Cause(ctx), node.Log(20))
		case <-looks.C:
		}
	}
	ready := time.Since(start)
	usage, err := part.UsageOf(node.AgentPID())
	if err != nil {
		return nil, err
	}
	return []sheet.Value{{Unit: "ready-s", Value: ready.Seconds()}, {Unit: "cpu-s", Value: usage.CPU.Seconds()}}, nil
}
