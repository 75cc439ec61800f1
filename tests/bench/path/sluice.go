package path

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/nstest"
)

// The ways of a node that Sluice runs on.
const (
	Container = "container"  // to the other container's own address
	VIPSocket = "vip_socket" // to a service, translated when the socket connects
	VIPTC     = "vip_tc"     // to a service, translated packet by packet: no socket hook sees the client

	// NoHook is Container from a process that no socket hook sees: what silent kinds are compared with. They have
	// no other ways than these two and VIPSocket, and it has no other kinds.
	NoHook = "no_hook"
)

// stall is a service that is measured. Each way has its own, which leads to a set of ports of the server's own.
type stall struct {
	name   string
	v4, v6 netip.Addr
	set    int
}

func stalls() [2]stall {
	vip := netip.MustParseAddr
	return [2]stall{
		{"by-socket", vip("10.96.0.10"), vip("fd00:10:96::10"), 1},
		{"by-tc", vip("10.96.0.11"), vip("fd00:10:96::11"), 2},
	}
}

// Sluice makes container, vip_socket, vip_tc and no_hook, which share a node that the Close of any of them removes.
func Sluice(ctx context.Context, lab *nstest.Lab, settings nstest.Settings, cpu int) (ways []Way, err error) {
	node, err := lab.New(ctx, settings)
	if err != nil {
		return nil, err
	}
	end := sync.OnceValue(node.Close)
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()
	client, err := node.AddContainer(ctx, nstest.Spec{Name: "client", Empty: true})
	if err != nil {
		return nil, err
	}
	server, err := node.AddContainer(ctx, nstest.Spec{
		Name: "server", Empty: true, Labels: map[string]string{"app": "measured"},
	})
	if err != nil {
		return nil, err
	}
	pid, err := StartServer(lab, cpu, server.Talk)
	if err != nil {
		return nil, err
	}
	inside, err := StartDriver(lab, cpu, client.Talk)
	if err != nil {
		return nil, err
	}
	outside, err := StartDriver(lab, cpu, client.TalkOutside)
	if err != nil {
		return nil, err
	}
	m := &market{node: node}
	if err := m.grow(ctx, 1); err != nil {
		return nil, err
	}
	pids, stalls := []int{pid}, stalls()
	ways = []Way{
		&fixed{Container, inside, server.V4, server.V6, pids, m.grow, end},
		&fixed{VIPSocket, inside, stalls[0].v4, stalls[0].v6, pids, m.grow, end},
		&fixed{VIPTC, outside, stalls[1].v4, stalls[1].v6, pids, m.grow, end},
		&fixed{NoHook, outside, server.V4, server.V6, nil, m.grow, end},
	}
	return ways, prove(ctx, node, ways[:3])
}

// market is a node's services.
type market struct {
	node  *nstest.Node
	stood int
}

// Backends are how many each service has but those that are measured, which have one.
const Backends = 4

// So many services are applied at once, by so many at a time.
const (
	perApply = 250
	appliers = 8
)

// grow applies services until there are n, and waits until they are in the maps. The two that are measured, of
// which a way sees one, count as one.
func (m *market) grow(ctx context.Context, n int) error {
	if m.stood == 0 && n > 0 {
		for _, s := range stalls() {
			if err := m.apply(ctx, s.document()); err != nil {
				return fmt.Errorf("apply service %s: %w", s.name, err)
			}
		}
		m.stood = 1
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(appliers)
	for from := m.stood; from < n; from += perApply {
		group.Go(func() error {
			var b strings.Builder
			for i := from; i < min(n, from+perApply); i++ {
				b.WriteString(other(i))
			}
			return m.apply(inner, b.String())
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("apply %d services: %w", n, err)
	}
	m.stood = max(m.stood, n)
	return nil
}

func (m *market) apply(ctx context.Context, documents string) error {
	results, err := m.node.API().Apply(ctx, []byte(documents))
	if err != nil {
		return err
	}
	if !results.Synced {
		return errors.New("not in the maps yet: " + results.Warning)
	}
	return nil
}

func (s stall) document() string {
	to := func(port int) int { return port + s.set*batch.Step }
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  clusterIPs: [%s, "%s"]
  clusterIP: %[2]s
  ipFamilyPolicy: RequireDualStack
  selector: {app: measured}
  ports:
  - {name: echo, port: %[4]d, targetPort: %[5]d, protocol: TCP}
  - {name: echo-udp, port: %[4]d, targetPort: %[5]d, protocol: UDP}
  - {name: accept, port: %[6]d, targetPort: %[7]d, protocol: TCP}
  - {name: sink, port: %[8]d, targetPort: %[9]d, protocol: TCP}
`, s.name, s.v4, s.v6, batch.Echo, to(batch.Echo), batch.Accept, to(batch.Accept), batch.Sink, to(batch.Sink))
}

// other is one of the services that nobody calls, with both families as the measured one. Its backends are on no
// node.
func other(i int) string {
	var v4, v6 []string
	for b := range Backends {
		id := i*Backends + b
		v4 = append(v4, fmt.Sprintf(`{addresses: ["10.%d.%d.%d"]}`, 128+id>>16, id>>8&255, id&255))
		v6 = append(v6, fmt.Sprintf(`{addresses: ["fd00:b::%x"]}`, 1+id))
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: other-%d}
spec: {ipFamilyPolicy: RequireDualStack, ports: [{name: web, port: 80, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-%[1]d-v4, labels: {kubernetes.io/service-name: other-%[1]d}}
addressType: IPv4
ports: [{name: web, port: 8080}]
endpoints: [%[2]s]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-%[1]d-v6, labels: {kubernetes.io/service-name: other-%[1]d}}
addressType: IPv6
ports: [{name: web, port: 8080}]
endpoints: [%[3]s]
`, i, strings.Join(v4, ", "), strings.Join(v6, ", "))
}
