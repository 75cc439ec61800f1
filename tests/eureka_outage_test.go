package tests

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// newEurekaShop starts clients of several kinds that all register as instances of one application.
func newEurekaShop(t *testing.T, n *nstest.Node, kinds ...string) []*eurekaClient {
	t.Helper()
	var list []*eurekaClient
	for _, kind := range kinds {
		list = append(list, newEurekaClient(t, addContainer(t, n, kind, nil), kind, "shop"))
	}
	return list
}

// awaitFailures waits until so many more heartbeats or fetches of the client came to nothing.
func (c *eurekaClient) awaitFailures(t *testing.T, more int) {
	t.Helper()
	want := c.counts(t).Failed + more
	err := eventually(t, fmt.Sprintf("%d failures of %s", want, c.kind), func() (bool, error) { return c.counts(t).Failed >= want, nil })
	if err != nil {
		t.Fatalf("%v; its counts are %+v", err, c.counts(t))
	}
}

func instances(t *testing.T, n *nstest.Node) map[registry.InstanceID]api.Instance {
	t.Helper()
	list, err := n.API().Instances(t.Context(), api.InstanceQuery{})
	if err != nil {
		t.Fatal(err)
	}
	m := map[registry.InstanceID]api.Instance{}
	for _, i := range list {
		m[i.InstanceID] = i
	}
	return m
}

// TestEurekaAgentKilled: the agent is killed and stays away for longer than the leases last. Nothing is lost: no call
// fails, no connection ends, and the next heartbeats find their instances.
func TestEurekaAgentKilled(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	customer := addContainer(t, n, "customer", nil)
	shop := newEurekaShop(t, n, speaksJS, speaksJSON)
	const lease = 5 // seconds
	for _, c := range shop {
		c.start(t, lease)
	}
	awaitBackendCount(t, n, "shop", len(shop))
	vip := vips(t, n, "shop")[0]
	call := nstest.Call{Net: "tcp", To: netip.AddrPortFrom(vip, nstest.Port)}
	steady := startLoad(t, customer, append([]nstest.Call{call}, lasting([]nstest.Call{call, call, call})...))
	steady.more(t, 3)
	before := instances(t, n)

	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	for _, c := range shop {
		c.awaitFailures(t, 1)
	}
	if err := eventually(t, "the end of the leases", func() (bool, error) { return time.Since(killed) > (lease+1)*time.Second, nil }); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range shop {
		c.beats(t, 10)
		if counts := c.counts(t); counts.Registered != 1 || counts.Unknown != 0 {
			t.Errorf("after the agent was away the counts of %s are %+v", c.kind, counts)
		}
	}
	steady.more(t, 3)
	for i, r := range steady.stop(t) {
		if r.Failed > 0 {
			t.Errorf("%s: %d of %d calls failed, the first: %v", title(steady.calls[i]), r.Failed, r.Calls, r.Failures[0])
		}
		if i == 0 && len(r.Answers) != len(shop) {
			t.Errorf("answers are %v", r.Answers)
		}
	}
	after := instances(t, n)
	for id, i := range before {
		if is := after[id]; !is.Registered.Equal(i.Registered) || !is.Updated.Equal(i.Updated) || is.Lapsed {
			t.Errorf("%s was %+v, is %+v", id, i, is)
		}
	}
	if !strings.Contains(string(scrape(t, n)), "\nsluice_registry_expiries_total 0\n") {
		t.Error("instances were taken for dead")
	}
}

// awaitBackendCount waits until a service has so many backends at its first port in a node's maps.
func awaitBackendCount(t *testing.T, n *nstest.Node, service string, want int) {
	t.Helper()
	is := -1
	err := eventually(t, fmt.Sprintf("%d backends of %s on %s", want, service, n.Name), func() (bool, error) {
		svc, err := n.API().Service(t.Context(), registry.Name{Namespace: "default", Name: service})
		if err != nil {
			return false, nil // not there yet
		}
		is = len(svc.Ports[0].Backends)
		return is == want, nil
	})
	if err != nil {
		t.Fatalf("%v; they are %d", err, is)
	}
	check(t, n)
}

// TestEurekaCluster: what a client registers at one node is seen by Eureka's clients, the API and the maps of another.
// The leader of the store dies meanwhile; heartbeats go on, and nobody is missed for a moment.
func TestEurekaCluster(t *testing.T) {
	two := newTwoNodes(t)
	one, other := two.nodes[0], two.nodes[1]
	shop := newEurekaShop(t, one, speaksJS, speaksXML)
	const lease = 4 // seconds
	for _, c := range shop {
		c.start(t, lease)
	}
	reader := newEurekaClient(t, addContainer(t, other, "reader", nil), speaksJSON, "reader")
	for _, n := range two.nodes {
		awaitBackendCount(t, n, "shop", len(shop))
	}
	reader.sees(t, "shop", shop[1].instance(), shop[0].instance()) // in order of their names
	here, there := instances(t, one), instances(t, other)
	for _, c := range shop {
		if a, b := here[c.instanceID()], there[c.instanceID()]; !a.Ready || !b.Ready || !a.Registered.Equal(b.Registered) {
			t.Errorf("%s is %+v on one node, %+v on the other", c.id(), a, b)
		}
	}
	reader.do(t, eurekaOrder{Do: "follow", VIP: "shop", Every: eurekaPace})

	leader, err := two.etcd.Leader(t.Context())
	if err == nil {
		err = two.etcd.Kill(leader)
	}
	if err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if _, err = two.etcd.Leader(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := eventually(t, "the end of leases that nobody renewed", func() (bool, error) { return time.Since(killed) > 2*lease*time.Second, nil }); err != nil {
		t.Fatal(err)
	}
	late := newEurekaClient(t, addContainer(t, other, "late", nil), speaksJSON, "late")
	late.start(t, lease)
	for _, n := range two.nodes {
		awaitBackendCount(t, n, "late", 1)
		awaitBackendCount(t, n, "shop", len(shop))
	}
	for _, c := range shop {
		c.beats(t, 5)
		if counts := c.counts(t); counts.Registered != 1 || counts.Unknown != 0 || counts.Failed != 0 {
			t.Errorf("the counts of %s are %+v", c.kind, counts)
		}
	}
	if counts := reader.counts(t); counts.Least != len(shop) || counts.Failed != 0 || counts.Fetches == 0 {
		t.Errorf("the reader on the other node saw %d instances at the least: %+v", counts.Least, counts)
	}
	for _, c := range shop {
		c.stop(t)
	}
	reader.sees(t, "shop")
	for _, n := range two.nodes {
		awaitBackendCount(t, n, "shop", 0)
	}
}

// heldInstances is what a node says of instances that do not renew their leases.
func heldInstances(t *testing.T, n *nstest.Node) string {
	t.Helper()
	out, err := n.Sluice(t.Context(), "", "status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "do not renew their leases") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// TestEurekaExpiry: when all instances of a service fall silent at once, no more go than the configuration allows. The
// others stay backends, the node says so, and a heartbeat brings them back.
func TestEurekaExpiry(t *testing.T) {
	n := newNode(t, nstest.Settings{Expiry: "{most: 33, every: 1h}"})
	const all, gone = 10, 3
	ports := make([]int, all)
	for i := range ports {
		ports[i] = 7000 + i
	}
	in, err := n.AddContainer(t.Context(), nstest.Spec{Name: "many", Serve: ports})
	if err != nil {
		t.Fatal(err)
	}
	c := newEurekaClient(t, in, speaksJSON, "shop")
	i := c.instance()
	orders := make([]eurekaOrder, all)
	for at, port := range ports {
		orders[at] = eurekaOrder{Do: "register", App: i.App, ID: fmt.Sprintf("many:%d", port), Host: i.Host, IP: i.IP, Port: port,
			VIP: i.VIP, Renewal: 1, Duration: 5}
		c.do(t, orders[at])
	}
	c.do(t, eurekaOrder{Do: "keep", Every: eurekaPace})
	awaitBackendCount(t, n, "shop", all)
	if held := heldInstances(t, n); held != "" {
		t.Errorf("nobody is silent yet: %s", held)
	}

	c.do(t, eurekaOrder{Do: "silence"})
	awaitHeld(t, n, "7 of 7 of default/shop")
	awaitBackendCount(t, n, "shop", all-gone)
	if is := c.do(t, eurekaOrder{Do: "app", App: i.App}); len(is) != all-gone {
		t.Errorf("Eureka's clients see %d instances: %+v", len(is), is)
	}
	if !strings.Contains(string(scrape(t, n)), `sluice_registry_expiries_held{namespace="default",service="shop"} 7`) {
		t.Error("the metric does not tell of the seven")
	}
	alive := map[string]bool{}
	for id := range instances(t, n) {
		alive[id.ID] = true
	}
	for _, o := range orders {
		if _, _, err := c.try(eurekaOrder{Do: "heartbeat", App: i.App, ID: o.ID}); (err == nil) != alive[o.ID] {
			t.Errorf("a heartbeat of %s, which is there: %t: %v", o.ID, alive[o.ID], err)
		}
	}
	awaitBackendCount(t, n, "shop", all-gone)
	awaitHeld(t, n, "")

	// With heartbeats the three register again.
	c.do(t, eurekaOrder{Do: "keep", Every: eurekaPace})
	awaitBackendCount(t, n, "shop", all)
	awaitHeld(t, n, "")

	if err := n.Restart(t.Context(), nstest.Settings{Expiry: "{most: 100, every: 1s}"}); err != nil {
		t.Fatal(err)
	}
	c.beats(t, all)
	awaitBackendCount(t, n, "shop", all)
	c.do(t, eurekaOrder{Do: "silence"})
	awaitBackendCount(t, n, "shop", 0)
	awaitHeld(t, n, "")
}

// awaitHeld waits until the node's status names these, or nobody.
func awaitHeld(t *testing.T, n *nstest.Node, want string) {
	t.Helper()
	is := ""
	err := eventually(t, "status to tell of "+want, func() (bool, error) {
		is = heldInstances(t, n)
		return strings.HasSuffix(is, want) && (want == "") == (is == ""), nil
	})
	if err != nil {
		t.Fatalf("%v; it says %q", err, is)
	}
}
