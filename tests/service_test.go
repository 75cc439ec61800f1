package tests

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// row is one sentence about services, and what shows that it is true.
type row struct {
	says string
	nets string // the protocols that it is about; "": tcp udp sctp
	show func(*scene)
	// alone: while it is shown, the agent is not there for other rows.
	alone bool
}

// TestServices shows what a Service promises, a sentence at a time, by each way that a client has to it.
// The rows share one node; each has a namespace of its own.
func TestServices(t *testing.T) {
	st := newStage(t)
	rows := slices.Concat(wordRows, choiceRows, topologyRows, addressRows, endingRows, changeRows, collisionRows, packetRows, frameRows)
	t.Run("together", func(t *testing.T) {
		for i, r := range rows {
			if !r.alone {
				t.Run(r.says, func(t *testing.T) {
					t.Parallel()
					r.show(st.scene(t, i, r))
				})
			}
		}
	})
	for i, r := range rows {
		if r.alone {
			t.Run(r.says, func(t *testing.T) { r.show(st.scene(t, i, r)) })
		}
	}
}

// way is how a client reaches a service.
type way struct {
	net  string // tcp, udp, sctp
	v6   bool
	tc   bool   // translated by tc: the client is where no socket hook sees it
	from string // the client's container; "": client, node: the node itself
}

func (w way) String() string {
	text := w.net + " IPv4"
	if w.v6 {
		text = w.net + " IPv6"
	}
	if w.tc {
		text += " by tc"
	} else {
		text += " by socket"
	}
	if w.from != "" {
		text += " from " + w.from
	}
	return text
}

// pick returns the address of the way's family.
func (w way) pick(addrs ...netip.Addr) netip.Addr {
	i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is6() == w.v6 })
	if i < 0 {
		return netip.Addr{}
	}
	return addrs[i]
}

// stage is the node that the rows share.
//
//	client            calls
//	a, b, c           answer at 8080, 8081 and 8082; at the latter two with the port behind their name
//	world             the same, at addresses beyond the node: 203.0.113.10, 2001:db8:113::10
//	the node itself   the same, at 192.0.2.1 and 2001:db8::1, as "node"
type stage struct {
	node       *nstest.Node
	containers map[string]*nstest.Container

	mu    sync.Mutex
	hands map[string]*nstest.Hand // by container and path
}

// Ports at which everybody on the stage answers.
var stagePorts = []int{nstest.Port, 8081, 8082}

func newStage(t *testing.T) *stage {
	t.Helper()
	st := &stage{containers: map[string]*nstest.Container{}, hands: map[string]*nstest.Hand{}}
	// Room for the flows of all rows: caches so small that they overflow lose some.
	st.node = newNode(t, nstest.Settings{Zone: "z1", MapScale: 0.2})
	for _, name := range []string{"client", "a", "b", "c"} {
		c, err := st.node.AddContainer(t.Context(), nstest.Spec{Name: name, Namespace: "stage", Serve: stagePorts})
		if err != nil {
			t.Fatal(err)
		}
		st.containers[name] = c
	}
	// Port unreachable comes whenever there is reason to.
	if err := st.containers["a"].InNetns(unlimitICMP); err != nil {
		t.Fatal(err)
	}
	world, err := st.node.Outside("world", netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:113::10"))
	if err == nil {
		st.containers["world"] = world
		err = errors.Join(world.Serve(stagePorts...), st.node.Serve("node", stagePorts...))
	}
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func unlimitICMP() error {
	return errors.Join(os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0),
		os.WriteFile("/proc/sys/net/ipv6/icmp/ratelimit", []byte("0"), 0))
}

// scene is a row being shown.
type scene struct {
	*testing.T
	*stage
	namespace string
	ways      []way
	own       map[string]*nstest.Container // containers of the row
}

func (st *stage) scene(t *testing.T, i int, r row) *scene {
	s := &scene{T: t, stage: st, namespace: fmt.Sprintf("row-%d", i), own: map[string]*nstest.Container{}}
	for _, network := range strings.Fields(cmp.Or(r.nets, "tcp udp sctp")) {
		for _, v6 := range []bool{false, true} {
			for _, tc := range []bool{false, true} {
				// SCTP's packets are made by hand: no hook sees a socket.
				if tc || network != "sctp" {
					s.ways = append(s.ways, way{net: network, v6: v6, tc: tc})
				}
			}
		}
	}
	return s
}

// each shows something by each way.
func (s *scene) each(show func(w way)) {
	for _, w := range s.ways {
		show(w)
	}
}

// container wires one of the row's own, in its namespace.
func (s *scene) container(name string, spec nstest.Spec) *nstest.Container {
	s.Helper()
	spec.Name, spec.Namespace, spec.Pod = s.namespace+"-"+name, s.namespace, name
	if spec.Serve == nil {
		spec.Serve = stagePorts
	}
	c, err := s.node.AddContainer(s.Context(), spec)
	if err != nil {
		s.Fatal(err)
	}
	s.own[name] = c
	return c
}

func (s *scene) find(name string) *nstest.Container {
	s.Helper()
	c := cmp.Or(s.own[name], s.containers[name])
	if c == nil {
		s.Fatalf("no container %s", name)
	}
	return c
}

// apply writes documents and says what the agent has against them.
func (s *scene) apply(documents ...string) error {
	_, err := s.node.Sluice(s.Context(), strings.Join(documents, "\n---\n"), "apply", "-f", "-")
	return err
}

// delete deletes services of the row.
func (s *scene) delete(services ...string) error {
	for _, name := range services {
		if _, err := s.node.Sluice(s.Context(), "", "delete", "service", name, "-n", s.namespace); err != nil {
			return err
		}
	}
	return nil
}

// condition marks a container: drain, undrain, unready, ready.
func (s *scene) condition(c *nstest.Container, verb string) {
	s.Helper()
	_, err := s.node.Sluice(s.Context(), "", verb, c.ID)
	s.must(err)
}

// label sets a container's labels, KEY=VALUE or KEY-.
func (s *scene) label(c *nstest.Container, labels ...string) {
	s.Helper()
	_, err := s.node.Sluice(s.Context(), "", append([]string{"label", c.ID}, labels...)...)
	s.must(err)
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// get returns a service as the agent shows it.
func (s *scene) get(name string) api.Service {
	s.Helper()
	svc, err := s.node.API().Service(s.Context(), registry.Name{Namespace: s.namespace, Name: name})
	s.must(err)
	return svc
}

// vip is where a service is at port 80, or at another.
func (s *scene) vip(w way, service string, port ...uint16) netip.AddrPort {
	s.Helper()
	addr := w.pick(s.get(service).VIPs...)
	if !addr.IsValid() {
		s.Fatalf("%s: service %s has no VIP of that family", w, service)
	}
	return netip.AddrPortFrom(addr, append(port, 80)[0])
}

// addr is where a container answers.
func (s *scene) addr(w way, container string) netip.AddrPort {
	s.Helper()
	c := s.find(container)
	return netip.AddrPortFrom(w.pick(c.V4, c.V6), nstest.Port)
}
