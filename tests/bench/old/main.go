// Command bench measures a node's dataplane on this machine: nanoseconds a packet through from_pod,
// what verdicts cost with few policies and with many, flows and changes with few services and with many, and
// what many instances cost.
//
// All that is compared is measured in one run, interleaved, client and server on one CPU: absolute
// times of two runs differ by more than what there is to see. It needs root, and a quiet machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
	"github.com/sluice-net/sluice/tests/nstest"
)

func main() {
	etcdtest.Main()
	rounds := flag.Int("rounds", 15, "times that each figure is measured")
	only := flag.String("only", "", "packets, policies, services or registry: measure nothing else")
	attach := flag.String("attach", "auto", "how the agent attaches programs: auto, tcx or clsact")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds, *only, *attach); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds int, only, attach string) (err error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binaries, err := nstest.Build(ctx, dir)
	if err != nil {
		return err
	}
	lab := &nstest.Lab{Binaries: binaries}
	// Maps as large as they are by default: their misses in the CPU's caches are part of the cost.
	node, err := lab.New(ctx, nstest.Settings{MapScale: 1, Attach: attach})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	client, _, err := containers(ctx, node)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"packets", func() error { return packets(node, client, rounds) }},
	} {
		if only == "" || only == part.name || strings.HasPrefix(part.name, only+"/") {
			if err := part.run(); err != nil {
				return fmt.Errorf("measure %s: %w", part.name, err)
			}
		}
	}
	return nil
}

const (
	cpu     = 2 // client and server share it; counted from 1
	port    = 80
	service = `apiVersion: v1
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
)

// containers wires a client, and a server behind the VIPs.
func containers(ctx context.Context, node *nstest.Node) (client, server *nstest.Container, err error) {
	client, err = node.AddContainer(ctx, nstest.Spec{Name: "client", CPU: cpu})
	if err != nil {
		return nil, nil, err
	}
	spec := nstest.Spec{Name: "server", CPU: cpu, Labels: map[string]string{"app": "bench"}}
	if server, err = node.AddContainer(ctx, spec); err != nil {
		return nil, nil, err
	}
	_, err = node.Sluice(ctx, service, "apply", "-f", "-")
	return client, server, err
}
