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

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// row is one sentence about services, and what shows that it is true.
type row struct {
	says string
	nets string // the protocols that it is about; "": tcp udp sctp
	show func(*scene)
	// alone: while it is shown, the agent is not there for other rows.
	alone bool
	// awaits is what has to come before it can be shown.
	awaits string
}

// TestServices shows what a Service promises, a sentence at a time, by each way that a client has to it.
// The rows share one node; each has a namespace of its own.
func TestServices(t *testing.T) {
	st := newStage(t)
	rows := slices.Concat(wordRows, choiceRows, topologyRows, addressRows, endingRows, changeRows, collisionRows, packetRows)
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
//	client, other     call
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
	for _, name := range []string{"client", "other", "a", "b", "c"} {
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
	if r.awaits != "" {
		t.Skip("awaits " + r.awaits)
	}
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

// everyProtocol are a service's ports if a row does not say: 80, to the backends' 8080.
const everyProtocol = "ports: [" +
	"{name: tcp, port: 80, targetPort: 8080}, " +
	"{name: udp, port: 80, targetPort: 8080, protocol: UDP}, " +
	"{name: sctp, port: 80, targetPort: 8080, protocol: SCTP}]"

// service returns the document of one, of both families and with these ports unless its spec says otherwise.
// The spec is the inside of a YAML mapping in braces; so are annotations.
func (s *scene) service(name, spec string, annotations ...string) string {
	fields := []string{}
	if spec != "" {
		fields = append(fields, spec)
	}
	if !strings.Contains(spec, "ports: ") {
		fields = append(fields, everyProtocol)
	}
	if !strings.Contains(spec, "ipFamilyPolicy: ") {
		fields = append(fields, "ipFamilyPolicy: RequireDualStack")
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s, annotations: {%s}}\nspec: {%s}\n",
		name, s.namespace, strings.Join(annotations, ", "), strings.Join(fields, ", "))
}

// slices returns the documents that list a service's backends: containers with conditions and places, such
// as "a", "b draining", "c unready", "a node=n2 zone=z2", "b port=8081".
func (s *scene) slices(service string, backends ...string) string {
	s.Helper()
	var documents []string
	for _, family := range []string{"IPv4", "IPv6"} {
		var lines []string
		port := nstest.Port
		for _, b := range backends {
			words := strings.Fields(b)
			c := s.find(words[0])
			conditions := "ready: true, serving: true, terminating: false"
			place := "nodeName: n1"
			for _, word := range words[1:] {
				key, value, _ := strings.Cut(word, "=")
				switch key {
				case "draining":
					conditions = "ready: false, serving: true, terminating: true"
				case "unready":
					conditions = "ready: false, serving: false, terminating: false"
				case "node":
					place = "nodeName: " + value
				case "zone":
					place += ", zone: " + value
				case "port":
					fmt.Sscan(value, &port)
				default:
					s.Fatalf("backend %q: %q means nothing", b, word)
				}
			}
			addr := way{v6: family == "IPv6"}.pick(c.V4, c.V6)
			lines = append(lines, fmt.Sprintf("- {addresses: [%q], conditions: {%s}, %s}", addr, conditions, place))
		}
		documents = append(documents, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-%s, namespace: %s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[4]s
ports: [{name: tcp, port: %[5]d}, {name: udp, port: %[5]d, protocol: UDP}, {name: sctp, port: %[5]d, protocol: SCTP}]
endpoints: [%[6]s]
`, service, strings.ToLower(family), s.namespace, family, port, joinFlow(lines)))
	}
	return strings.Join(documents, "---")
}

// joinFlow turns lines of a YAML list into the inside of one in brackets.
func joinFlow(lines []string) string {
	return strings.ReplaceAll(strings.Join(lines, ", "), "- {", "{")
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

// hand is the way's client.
func (s *scene) hand(w way) *nstest.Hand {
	s.Helper()
	from := cmp.Or(w.from, "client")
	own := s.own[from] != nil
	key := fmt.Sprint(from, w.tc)
	if own {
		key = s.namespace + key
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hands[key]; h != nil {
		return h
	}
	var h *nstest.Hand
	var err error
	if from == "node" {
		h, err = s.node.Hand()
	} else {
		h, err = s.find(from).Hand(w.tc)
	}
	s.must(err)
	s.hands[key] = h
	return h
}

// do acts, and says what came of it.
func (s *scene) do(w way, a report.Act) (report.Did, error) {
	s.Helper()
	a.Net = w.net
	did, err := s.hand(w).Do(a)
	did.Name = strings.TrimPrefix(did.Name, s.namespace+"-")
	return did, err
}

// peer is a client's socket.
type peer struct {
	s     *scene
	way   way
	id    int
	to    netip.AddrPort
	local netip.AddrPort
}

func (p *peer) String() string { return fmt.Sprintf("%s to %s", p.way, p.to) }

// open opens a socket; TCP and SCTP connect, and so does UDP if there is someone to connect to.
func (s *scene) open(w way, a report.Act) (*peer, error) {
	s.Helper()
	a.Do = report.Open
	did, err := s.do(w, a)
	return &peer{s, w, did.Socket, a.To, did.Local}, err
}

// dial opens a socket that is connected.
func (s *scene) dial(w way, to netip.AddrPort) *peer {
	s.Helper()
	return s.dialWith(w, report.Act{To: to})
}

func (s *scene) dialWith(w way, a report.Act) *peer {
	s.Helper()
	p, err := s.open(w, a)
	if err != nil {
		s.Fatalf("%s to %s: %v", w, a.To, err)
	}
	return p
}

// loose opens a UDP socket that is not connected.
func (s *scene) loose(w way) *peer {
	s.Helper()
	anywhere := w.pick(netip.IPv4Unspecified(), netip.IPv6Unspecified())
	return s.dialWith(w, report.Act{From: netip.AddrPortFrom(anywhere, 0)})
}

// do acts with the socket.
func (p *peer) do(a report.Act) (report.Did, error) {
	p.s.Helper()
	a.Socket = p.id
	return p.s.do(p.way, a)
}

// ask returns who answers.
func (p *peer) ask(to ...netip.AddrPort) string {
	p.s.Helper()
	a := report.Act{Do: report.Ask}
	if to != nil {
		a.To = to[0]
	}
	did, err := p.do(a)
	if err != nil {
		p.s.Errorf("%s: %v", p, err)
	}
	return did.Name
}

// asks wants one of these to answer.
func (p *peer) asks(names ...string) {
	p.s.Helper()
	if got := p.ask(); got != "" && !slices.Contains(names, got) {
		p.s.Errorf("%s: %s answers, want %s", p, got, strings.Join(names, " or "))
	}
}

// close ends it with a reset; end does so properly.
func (p *peer) close() { p.leave(true) }

func (p *peer) end() { p.leave(false) }

func (p *peer) leave(reset bool) {
	p.s.Helper()
	if _, err := p.do(report.Act{Do: report.Close, Reset: reset}); err != nil {
		p.s.Errorf("%s: %v", p, err)
	}
}

// reach wants a new connection to be answered by one of these.
func (s *scene) reach(w way, to netip.AddrPort, names ...string) {
	s.Helper()
	p, err := s.open(w, report.Act{To: to})
	if err != nil {
		s.Errorf("%s to %s: %v", w, to, err)
		return
	}
	p.asks(names...)
	p.close()
}

// tally calls so many times on a new connection each, and returns how often each has answered.
func (s *scene) tally(w way, to netip.AddrPort, count int) map[string]int {
	s.Helper()
	did, err := s.do(w, report.Act{Do: report.Tally, To: to, Count: count})
	if err != nil {
		s.Errorf("%s to %s: after the answers %v: %v", w, to, did.Answers, err)
	}
	answers := map[string]int{}
	for name, n := range did.Answers {
		answers[strings.TrimPrefix(name, s.namespace+"-")] = n
	}
	return answers
}

// connections are some that last, by every way.
type connections struct {
	peers []*peer
	names []string // who answered each at first
}

// hold opens so many connections by each way, to port 80 or another.
func (s *scene) hold(service string, each int, port ...uint16) *connections {
	s.Helper()
	c := &connections{}
	s.each(func(w way) {
		for range each {
			p := s.dial(w, s.vip(w, service, port...))
			c.peers, c.names = append(c.peers, p), append(c.names, p.ask())
		}
	})
	return c
}

// stay wants each to go on with its backend.
func (c *connections) stay() {
	for i, p := range c.peers {
		p.s.Helper()
		p.asks(c.names[i])
	}
}

// of returns those that name has answered.
func (c *connections) of(name string) []*peer {
	var peers []*peer
	for i, p := range c.peers {
		if c.names[i] == name {
			peers = append(peers, p)
		}
	}
	return peers
}

// spread wants new connections to be answered by all of these and nobody else.
func (s *scene) spread(w way, to netip.AddrPort, names ...string) {
	s.Helper()
	const calls = 60 // with three backends one is missed once in 10^10 times
	got := s.tally(w, to, calls)
	for _, name := range names {
		if got[name] == 0 {
			s.Errorf("%s to %s: %s never answered: %v", w, to, name, got)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		s.Errorf("%s to %s: answers by %v, want only %v", w, to, got, names)
	}
}

// refused wants the address to refuse at once.
func (s *scene) refused(w way, to netip.AddrPort) {
	s.Helper()
	p, err := s.open(w, report.Act{To: to, Errors: true})
	if err == nil {
		var did report.Did
		did, err = p.do(report.Act{Do: report.Ask})
		if err == nil {
			s.Errorf("%s to %s: %s answers, want it refused", w, to, did.Name)
		}
		p.close()
	}
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		s.Errorf("%s to %s: want it refused: %v", w, to, err)
	}
}
