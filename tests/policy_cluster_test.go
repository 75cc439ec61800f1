package tests

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// settle is how long what must not arrive is given to arrive after everything that must has. It is
// waited once a round.
const settle = 40 * time.Millisecond

// place is where a member of the mesh lives.
type place string

const (
	pod   place = "pod"
	world place = "world" // beyond the node
	host  place = "node"  // the node itself
)

// member is a sender and receiver of the mesh. Its name is NAMESPACE/POD, world/NUMBER or node.
type member struct {
	name   string
	place  place
	labels map[string]string
	spec   nstest.Spec
	v4, v6 netip.Addr
	vips   []netip.Addr // of its service: one a family; none: it has no service

	container *nstest.Container // nil: the node
	mesh      *nstest.Mesh
	cells     []cell // what it sends, in the order of its targets
}

func (m *member) addr(v6 bool) netip.Addr {
	if v6 {
		return m.v6
	}
	return m.v4
}

// matches tells whether the member is one of a comma-separated list of patterns: *, pods, world, node,
// x/*, */a, x/a.
func (m *member) matches(list string) bool {
	for pattern := range strings.SplitSeq(list, ",") {
		if ok, err := path.Match(pattern, m.name); ok && err == nil {
			return true
		}
		if pattern == "*" || pattern == "pods" && m.place == pod || pattern == string(m.place) {
			return true
		}
	}
	return false
}

// podMember is a container NAMESPACE/NAME with the last byte of its addresses; its labels are pod=NAME,
// id=NAME, which its service selects, and what is given.
func podMember(name string, last byte, labels map[string]string, ports []registry.EndpointPort) *member {
	namespace, podName, _ := strings.Cut(name, "/")
	all := map[string]string{"pod": podName, "id": podName}
	maps.Copy(all, labels)
	v6 := fmt.Sprintf("fd00:10:244:1::%d", last) // reads alike in both families
	m := &member{
		name: name, place: pod, labels: all,
		v4: netip.AddrFrom4([4]byte{10, 244, 1, last}), v6: netip.MustParseAddr(v6),
	}
	m.spec = nstest.Spec{
		Name: namespace + "-" + podName, Namespace: namespace, Pod: podName, Empty: true,
		Labels: all, Ports: ports, Addresses: []netip.Addr{m.v4, m.v6},
	}
	return m
}

// cluster is a node with a mesh of members on and around it.
type cluster struct {
	node     *nstest.Node
	settings nstest.Settings
	members  []*member
	// namespaces are the documents of the namespaces as they are without a test's change.
	namespaces string
	// base is what is expected of every round before a script's own lines; see expectations.
	base string
}

// newCluster wires the pods and starts the mesh, with two hosts beyond the node.
func newCluster(t *testing.T, settings nstest.Settings, namespaces string, pods ...*member) *cluster {
	t.Helper()
	c := &cluster{settings: settings, members: pods, namespaces: namespaces}
	c.node = newNode(t, settings)
	for i, last := range []byte{10, 77} {
		c.members = append(c.members, &member{
			name: fmt.Sprintf("world/%d", i+1), place: world,
			v4: netip.AddrFrom4([4]byte{203, 0, 113, last}),
			v6: netip.MustParseAddr(fmt.Sprintf("2001:db8:113::%d", last)),
		})
	}
	c.members = append(c.members, &member{
		name: "node", place: host,
		v4: netip.MustParseAddr("192.0.2.1"), v6: netip.MustParseAddr("2001:db8::1"),
	})
	if namespaces != "" {
		c.apply(t, namespaces)
	}
	var group errgroup.Group
	group.SetLimit(4)
	for _, m := range c.members {
		group.Go(func() error { return c.start(t, m) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	c.serve(t)
	if err := c.aim(); err != nil {
		t.Fatal(err)
	}
	return c
}

// start makes one member and its process.
func (c *cluster) start(t *testing.T, m *member) (err error) {
	spec := nstest.Member{Name: m.name, Addrs: []netip.Addr{m.v4, m.v6}, Ports: []int{80, 81}}
	switch m.place {
	case host:
		m.mesh, err = c.node.Mesh(spec)
		return err
	case world:
		m.container, err = c.node.Outside("w"+path.Base(m.name), m.v4, m.v6)
	default:
		m.container, err = c.node.AddContainer(t.Context(), m.spec)
	}
	if err != nil {
		return err
	}
	spec.Sniff = nstest.Interface
	m.mesh, err = m.container.Mesh(spec)
	return err
}

// serve gives each pod a service, whose ports are not the pod's own.
func (c *cluster) serve(t *testing.T) {
	t.Helper()
	var docs strings.Builder
	for _, m := range c.members {
		if m.place != pod {
			continue
		}
		fmt.Fprintf(&docs, "---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\n", m.spec.Pod, m.spec.Namespace)
		fmt.Fprintf(&docs, "spec:\n  ipFamilyPolicy: RequireDualStack\n  selector: {id: %s}\n  ports:\n", m.spec.Pod)
		for _, proto := range []string{"TCP", "UDP", "SCTP"} {
			for _, port := range []int{80, 81} {
				fmt.Fprintf(&docs, "  - {name: %s-%d, protocol: %s, port: %d, targetPort: %d}\n",
					strings.ToLower(proto), port, proto, vipPort(port), port)
			}
		}
	}
	c.apply(t, docs.String())
	for _, m := range c.members {
		if m.place != pod {
			continue
		}
		svc, err := c.node.API().Service(t.Context(), registry.Name{Namespace: m.spec.Namespace, Name: m.spec.Pod})
		if err != nil {
			t.Fatal(err)
		}
		if m.vips = svc.VIPs; len(m.vips) != 2 {
			t.Fatalf("service of %s has VIPs %v, want one of each family", m.name, m.vips)
		}
	}
}

// vipPort is where a pod's service offers one of its ports.
func vipPort(port int) int { return 8000 + port }

func (c *cluster) apply(t *testing.T, docs string) {
	t.Helper()
	if _, err := c.node.Sluice(t.Context(), docs, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) delete(t *testing.T, docs string) {
	t.Helper()
	if _, err := c.node.Sluice(t.Context(), docs, "delete", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// label gives the member's container labels, KEY=VALUE or KEY-.
func (c *cluster) label(t *testing.T, m *member, labels ...string) {
	t.Helper()
	if _, err := c.node.Sluice(t.Context(), "", append([]string{"label", m.container.ID}, labels...)...); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) member(t *testing.T, name string) *member {
	t.Helper()
	for _, m := range c.members {
		if m.name == name {
			return m
		}
	}
	t.Fatalf("no member %s", name)
	return nil
}

// cell is one thing that is probed: may src reach dst so?
type cell struct {
	src, dst *member
	net      string // tcp, udp, sctp, icmp
	port     int    // dst's own, whatever the service's is; icmp: 0
	v6, vip  bool
}

// way names the cell but for its ends.
func (c cell) way() string {
	text := c.net
	if c.port != 0 {
		text += fmt.Sprintf("/%d", c.port)
	}
	if c.v6 {
		text += " v6"
	} else {
		text += " v4"
	}
	if c.vip {
		text += " VIP"
	}
	return text
}

// arrival is how the receiver counts the cell's packets.
func (c cell) arrival() string {
	return report.Arrival(c.net, c.src.addr(c.v6), netip.AddrPortFrom(c.dst.addr(c.v6), uint16(c.port)))
}

// target is what the sender is told. One of a protocol's two addresses gets a new source port in each
// round, so that both new and old flows meet each policy.
func (c cell) target() report.Target {
	t := report.Target{Net: c.net, Name: c.dst.name, Fresh: c.vip == (c.net == "udp")}
	addr, port := c.dst.addr(c.v6), c.port
	if c.vip {
		port = vipPort(port)
		for _, vip := range c.dst.vips {
			if vip.Is6() == c.v6 {
				addr = vip
			}
		}
	}
	t.To = netip.AddrPortFrom(addr, uint16(port))
	return t
}

// aim works out the cells and tells the members.
func (c *cluster) aim() error {
	var group errgroup.Group
	for _, src := range c.members {
		src.cells = nil
		for _, dst := range c.members {
			for _, v6 := range []bool{false, true} {
				src.cells = append(src.cells, c.between(src, dst, v6)...)
			}
		}
		var targets []report.Target
		for _, cell := range src.cells {
			targets = append(targets, cell.target())
		}
		group.Go(func() error {
			_, err := src.mesh.Do(report.Order{Targets: targets})
			return err
		})
	}
	return group.Wait()
}

// between lists the cells from one member to another. Pairs without a container are nobody's business
// here, and VIPs are not served to the world. The node's own processes have them by socket only.
func (c *cluster) between(src, dst *member, v6 bool) []cell {
	if src.place != pod && dst.place != pod {
		return nil
	}
	cells := []cell{{src: src, dst: dst, net: "icmp", v6: v6}}
	for _, network := range []string{"tcp", "udp", "sctp"} {
		for _, port := range []int{80, 81} {
			one := cell{src: src, dst: dst, net: network, port: port, v6: v6}
			cells = append(cells, one)
			one.vip = true
			if len(dst.vips) == 0 || src.place == world ||
				src.place == host && (network == "sctp" || c.settings.NoSocketTranslation) {
				continue
			}
			cells = append(cells, one)
		}
	}
	return cells
}
