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
)

// The service that is measured.
var vip4, vip6 = netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")

// Sluice makes container, vip_socket and vip_tc, which share a node that the Close of any of them removes. Its
// maps are as large as they are by default: their misses in the CPU's caches are part of the cost.
func Sluice(ctx context.Context, lab *nstest.Lab, attach string, cpu int) (ways []Way, err error) {
	node, err := lab.New(ctx, nstest.Settings{MapScale: 1, Attach: attach})
	if err != nil {
		return nil, err
	}
	end := sync.OnceValue(node.Close)
	defer func() { err = closed(err, end) }()
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
	pids := []int{pid}
	return []Way{
		&fixed{Container, inside, server.V4, server.V6, pids, m.grow, end},
		&fixed{VIPSocket, inside, vip4, vip6, pids, m.grow, end},
		&fixed{VIPTC, outside, vip4, vip6, pids, m.grow, end},
	}, nil
}

// closed ends what was made for ways when that failed.
func closed(err error, end func() error) error {
	if err != nil {
		err = errors.Join(err, end())
	}
	return err
}

// market is a node's services.
type market struct {
	node  *nstest.Node
	stood int
}

// Backends are how many each service has but the one that is measured, which has one.
const Backends = 4

// So many services are applied at once, by so many at a time.
const (
	perApply = 250
	appliers = 8
)

// grow applies services until there are n, and waits until they are in the maps.
func (m *market) grow(ctx context.Context, n int) error {
	if m.stood == 0 && n > 0 {
		if err := m.apply(ctx, measured()); err != nil {
			return err
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

// measured is the service whose VIPs are called.
func measured() string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: measured}
spec:
  clusterIPs: [%s, "%s"]
  clusterIP: %[1]s
  ipFamilyPolicy: RequireDualStack
  selector: {app: measured}
  ports:
  - {name: echo, port: %[3]d, protocol: TCP}
  - {name: echo-udp, port: %[3]d, protocol: UDP}
  - {name: accept, port: %[4]d, protocol: TCP}
  - {name: sink, port: %[5]d, protocol: TCP}
`, vip4, vip6, batch.Echo, batch.Accept, batch.Sink)
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
