package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/tests/bench/kernel"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// The service whose packets are timed.
var vips = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")}

const service = `
apiVersion: v1
kind: Service
metadata: {name: timed}
spec:
  clusterIPs: [10.96.0.10, "fd00:10:96::10"]
  clusterIP: 10.96.0.10
  ipFamilyPolicy: RequireDualStack
  selector: {app: timed}
  ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP}]
`

var families = []string{"IPv4", "IPv6"}

// bed is a node of one side with a client, a server behind a VIP, and what times the client's program.
type bed struct {
	side   string
	node   *nstest.Node
	probe  *kernel.Probe
	timers map[string][]*kernel.Attached // by family
}

// nodes measures the programs that a node of each side has attached, and what its plugin takes. Each round has nodes of its
// own: where maps and code happen to lie makes a program of one node faster than the same of another by 10 %, in every
// round, and would be told as a change.
func (m *measurement) nodes(ctx context.Context) error {
	m.log("programs and CNI: %d rounds", m.rounds)
	for round := range m.rounds {
		if err := m.pair(ctx, round); err != nil {
			return err
		}
	}
	return nil
}

// pair measures one round.
func (m *measurement) pair(ctx context.Context, round int) (err error) {
	beds := map[string]*bed{}
	defer func() {
		for _, b := range beds {
			err = errors.Join(err, b.close())
		}
	}()
	for _, side := range sides(round) {
		m.lab.Binaries = m.binaries[side]
		b := &bed{side: side, timers: map[string][]*kernel.Attached{}}
		if b.node, err = m.lab.New(ctx, nstest.Settings{MapScale: 1, Attach: m.attach}); err != nil {
			return m.blame(side, err)
		}
		beds[side] = b
		if err := b.prepare(ctx); err != nil {
			return m.blame(side, err)
		}
	}
	if err := m.programs(ctx, beds, round); err != nil {
		return err
	}
	for _, side := range sides(round) {
		if err := m.cni(ctx, beds[side].node, side, round); err != nil {
			return m.blame(side, err)
		}
	}
	return nil
}

// programs gives each class of packets to both sides in turn.
func (m *measurement) programs(ctx context.Context, beds map[string]*bed, round int) error {
	for _, family := range families {
		for i, t := range beds[oldSide].timers[family] {
			c := sheet.Of("Kernel", "program", "from_pod", "class", t.Name, "family", family)
			for _, side := range sides(round) {
				if err := ctx.Err(); err != nil {
					return err
				}
				b := beds[side]
				if err := b.node.InNetns(func() error {
					ns, n, err := b.timers[family][i].Time(cpu)
					if err == nil {
						m.add(c, side, round, n, sheet.Value{Unit: "ns/op", Value: ns})
					}
					return err
				}); err != nil {
					return m.blame(side, err)
				}
			}
		}
	}
	return nil
}

// prepare adds the containers and the service, and takes hold of the client's program.
func (b *bed) prepare(ctx context.Context) error {
	client, err := b.node.AddContainer(ctx, nstest.Spec{Name: "client", Empty: true})
	if err != nil {
		return err
	}
	server, err := b.node.AddContainer(ctx, nstest.Spec{
		Name: "server", Empty: true, Labels: map[string]string{"app": "timed"},
	})
	if err != nil {
		return err
	}
	results, err := b.node.API().Apply(ctx, []byte(service))
	if err != nil {
		return err
	}
	if !results.Synced {
		return errors.New("not in the maps yet: " + results.Warning)
	}
	mac, err := macOf(client)
	if err != nil {
		return err
	}
	return b.node.InNetns(func() error {
		routes, err := netlink.RouteGet(client.V4.AsSlice())
		if err != nil {
			return fmt.Errorf("find client's veth: %w", err)
		}
		veth, err := netlink.LinkByIndex(routes[0].LinkIndex)
		if err != nil {
			return err
		}
		if b.probe, err = kernel.OpenProbe(veth, mac); err != nil {
			return err
		}
		for i, family := range families {
			from, to := []netip.Addr{client.V4, client.V6}[i], []netip.Addr{server.V4, server.V6}[i]
			b.timers[family], err = kernel.AttachedTo(b.probe, from, netip.AddrPortFrom(vips[i], 80), netip.AddrPortFrom(to, 8080))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func macOf(c *nstest.Container) (mac net.HardwareAddr, err error) {
	err = c.InNetns(func() error {
		link, err := netlink.LinkByName(nstest.Interface)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	return mac, err
}

func (b *bed) close() error {
	for _, timers := range b.timers {
		for _, t := range timers {
			t.Close()
		}
	}
	if b.probe != nil {
		b.probe.Close()
	}
	return b.node.Close()
}
