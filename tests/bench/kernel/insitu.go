package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// situ is a node with traffic, and its programs, by name.
type situ struct {
	node           *nstest.Node
	client, server *nstest.Container
	programs       map[string]*ebpf.Program
	vips           place
}

// request is a kind of traffic: netperf's names, and datagrams from a socket that is not connected.
type request struct {
	kind string
	call nstest.Call
}

func requests() []request {
	return []request{
		{"TCP_RR", nstest.Call{Net: "tcp", Keep: true, Count: 1000}},
		{"TCP_CRR", nstest.Call{Net: "tcp", Count: 200}},
		{"UDP_RR", nstest.Call{Net: "udp", Keep: true, Connect: true, Count: 1000}},
		{"UDP_RR_unconnected", nstest.Call{Net: "udp", Keep: true, Count: 1000}},
	}
}

// manifest is the service of the server.
const manifest = `apiVersion: v1
kind: Service
metadata: {name: bench}
spec:
  clusterIPs: [10.96.0.10, "fd00:10:96::10"]
  clusterIP: 10.96.0.10
  ipFamilyPolicy: RequireDualStack
  selector: {app: bench}
  ports:
  - {name: tcp, port: 80, targetPort: 8080, protocol: TCP}
  - {name: udp, port: 80, targetPort: 8080, protocol: UDP}
`

// inSitu measures what programs take under real traffic, by the kernel's own statistics.
func inSitu(ctx context.Context, env part.Env) (err error) {
	s, err := newSitu(ctx, env)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	executed, err := s.countSockets(ctx, env)
	if err != nil {
		return err
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("have the kernel time programs: %w", err)
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	if err := overhead(env); err != nil {
		return err
	}
	for round := range min(env.Rounds, situRounds) {
		err := s.each(ctx, env, func(class, family string, requests int, before map[string]ebpf.ProgramStats) error {
			return s.enter(env.Sheet, round, class, family, requests, before, executed)
		})
		if err != nil {
			return err
		}
		env.Log("kernel: traffic, round %d of %d", round+1, min(env.Rounds, situRounds))
	}
	return nil
}

// situRounds are enough for an interval: what differs here are kinds of traffic, and not by little.
const situRounds = 6

func newSitu(ctx context.Context, env part.Env) (s *situ, err error) {
	s = &situ{programs: map[string]*ebpf.Program{}, vips: place{
		netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10"),
	}}
	// Maps as large as they are by default: their misses in the CPU's caches are part of the cost.
	if s.node, err = env.Lab.New(ctx, nstest.Settings{MapScale: 1, Attach: env.Attach}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.client, err = s.node.AddContainer(ctx, nstest.Spec{Name: client, CPU: env.CPU}); err != nil {
		return nil, err
	}
	labels := map[string]string{"app": "bench"}
	if s.server, err = s.node.AddContainer(ctx, nstest.Spec{Name: server, CPU: env.CPU, Labels: labels}); err != nil {
		return nil, err
	}
	if _, err = s.node.Sluice(ctx, manifest, "apply", "-f", "-"); err != nil {
		return nil, err
	}
	return s, s.find()
}

func (s *situ) close() error {
	for _, p := range s.programs {
		p.Close()
	}
	return s.node.Close()
}

// find opens the programs that the agent has attached.
func (s *situ) find() error {
	err := s.node.InNetns(func() error {
		routes, err := netlink.RouteGet(s.client.V4.AsSlice())
		if err != nil {
			return fmt.Errorf("find client's veth: %w", err)
		}
		veth, err := netlink.LinkByIndex(routes[0].LinkIndex)
		if err != nil {
			return err
		}
		probe, err := OpenProbe(veth, nil)
		if err != nil {
			return err
		}
		s.programs[fromPod], s.programs[toPod] = probe.FromPod, probe.ToPod
		return nil
	})
	if err != nil {
		return err
	}
	pins, err := filepath.Glob(filepath.Join(s.node.BPFFS, "links", "sock_*"))
	if err != nil {
		return err
	}
	for _, pin := range pins {
		err := linked(pin, func(l link.Link, prog *ebpf.Program) (err error) {
			s.programs[filepath.Base(pin)], err = prog.Clone()
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// linked calls f with a pinned link and the program that it runs.
func linked(pin string, f func(link.Link, *ebpf.Program) error) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return fmt.Errorf("open pinned link %s: %w", pin, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("read pinned link %s: %w", pin, err)
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return fmt.Errorf("open program of link %s: %w", pin, err)
	}
	defer prog.Close()
	return f(l, prog)
}

// each makes requests of each kind by each way, and calls f after each with what the programs had run before.
func (s *situ) each(ctx context.Context, env part.Env,
	f func(class, family string, requests int, before map[string]ebpf.ProgramStats) error) error {
	for family, name := range families(env.Quick) {
		for _, r := range requests() {
			for _, way := range []string{"container", "vip_socket", "vip_tc"} {
				call := r.call
				call.CPU, call.Outside = env.CPU, way == "vip_tc"
				call.To = netip.AddrPortFrom(s.vips[family], servicePort)
				if way == "container" {
					call.To = netip.AddrPortFrom(place{s.server.V4, s.server.V6}[family], targetPort)
				}
				before, err := s.stats()
				if err != nil {
					return err
				}
				report, err := s.client.Call(ctx, call)
				if err == nil && report.Failed > 0 {
					err = fmt.Errorf("%d of %d requests failed: %s", report.Failed, report.Calls, report.Failures[0].Error)
				}
				if err == nil {
					err = f(r.kind+"_"+strings.TrimPrefix(way, "vip_"), name, call.Count, before)
				}
				if err != nil {
					return fmt.Errorf("%s over %s by %s: %w", r.kind, name, way, err)
				}
			}
		}
	}
	return nil
}

// families are those that traffic is made of.
func families(quick bool) []string {
	if quick {
		return []string{"IPv4"}
	}
	return []string{"IPv4", "IPv6"}
}

func (s *situ) stats() (map[string]ebpf.ProgramStats, error) {
	all := map[string]ebpf.ProgramStats{}
	for name, prog := range s.programs {
		stats, err := prog.Stats()
		if err != nil {
			return nil, fmt.Errorf("read statistics of %s: %w", name, err)
		}
		all[name] = *stats
	}
	return all, nil
}

// enter enters what the programs took for so many requests, but for those that hardly ran for them.
func (s *situ) enter(to *sheet.Sheet, round int, class, family string, requests int,
	before map[string]ebpf.ProgramStats, executed map[sheet.Case][]sheet.Value) error {
	after, err := s.stats()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		stats := after[name]
		runs := stats.RunCount - before[name].RunCount
		if runs < uint64(requests)/10 {
			continue
		}
		took := float64((stats.Runtime - before[name].Runtime) / time.Nanosecond)
		c := situCase(name, class, family)
		to.Add(c, round, requests, append([]sheet.Value{
			{Unit: "ns/op", Value: took / float64(requests)},
			{Unit: "runs/op", Value: float64(runs) / float64(requests)},
			{Unit: "run-ns", Value: took / float64(runs)},
		}, executed[c]...)...)
	}
	return nil
}

func situCase(program, class, family string) sheet.Case {
	return sheet.Of(Name, "program", program, "class", class, "family", family, "step", "in_situ")
}

// overhead enters what the kernel's statistics themselves add to each run: what they say of an empty program.
func overhead(env part.Env) error {
	return alone(env.CPU, func() error {
		prog, err := emptyProgram()
		if err != nil {
			return err
		}
		defer prog.Close()
		var ran []float64
		for range samples {
			before, err := prog.Stats()
			if err != nil {
				return err
			}
			t := testRun{repeat: calibrationRuns}
			if _, err := t.do(prog, make([]byte, 60), skb{}); err != nil {
				return err
			}
			after, err := prog.Stats()
			if err != nil {
				return err
			}
			ran = append(ran, float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount))
		}
		ns := low(ran)
		env.Sheet.Add(sheet.Of(Name, "program", "empty", "step", "in_situ"), 0, samples*calibrationRuns,
			sheet.Value{Unit: "run-ns", Value: ns})
		env.Sheet.Note(Name, "In situ, an operation is a request with its answer, and the kernel's own statistics "+
			"(BPF_STATS_RUN_TIME) time the programs. They add to each run: of an empty program they say that it takes %.0f ns. "+
			"Both ends' programs count: client and server are on one node.", ns)
		return nil
	})
}
