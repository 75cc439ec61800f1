package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
)

// The crowd: as many containers, each with labels of its own, live on other nodes. Every policy
// selects one of them and allows those of two namespaces, so 10 000 policies make a million pairs.
const (
	crowdNamespaces = 100
	crowdApps       = 50 // a namespace
	fewPolicies     = 10
	manyPolicies    = crowdNamespaces * crowdApps * 2
)

// policies measures what verdicts cost with few policies and with many, in two dataplanes side by side,
// without an agent: its client's and server's policies are the same in both.
func policies(rounds int) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it dies with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make namespace: %w", err)
			return
		}
		done <- comparePolicies(rounds)
	}()
	return <-done
}

func comparePolicies(rounds int) (err error) {
	few, err := newCrowd("few", fewPolicies)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, few.close()) }()
	many, err := newCrowd("many", manyPolicies)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "policies\t%d\t%d\tratio\t\n", fewPolicies+2, manyPolicies+2)
	fmt.Fprintf(w, "entries of policy\t%d\t%d\t\t\n", few.entries, many.entries)
	fmt.Fprintf(w, "identities\t%d\t%d\t\t\n", few.identities, many.identities)
	fmt.Fprintf(w, "maps of isolation, MB\t%.1f\t%.1f\t\t\n", few.megabytes, many.megabytes)
	fmt.Fprintf(w, "agent's memory for it, MB\t%.0f\t%.0f\t\t\n", few.heap, many.heap)
	fmt.Fprintf(w, "first sync, s\t%.2f\t%.2f\t\n", few.first.Seconds(), many.first.Seconds())
	if err := flowTable(w, few, many, rounds); err != nil {
		return err
	}
	if err := changeTable(w, few, many, rounds*20); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// crowd is a dataplane with two containers of its own and thousands elsewhere.
type crowd struct {
	dir      string
	loader   *loader.Loader
	probe    bench
	revision int64
	policies int
	client   netip.Addr
	server   netip.Addr

	entries, identities uint64
	megabytes, heap     float64
	first               time.Duration
}

func newCrowd(name string, policies int) (_ *crowd, err error) {
	c := &crowd{dir: filepath.Join("/sys/fs/bpf", fmt.Sprintf("sluice-bench-%s-%d", name, os.Getpid())), policies: policies}
	before := heap()
	if c.loader, err = loader.Open(loader.Options{
		BPFFS: c.dir, Node: "here", Attach: loader.AttachClsact,
	}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	changes, local := crowdOf(name, policies)
	c.client, c.server = local[0].Addresses[0], local[1].Addresses[0]
	start := time.Now()
	if err := c.sync(true, changes...); err != nil {
		return nil, err
	}
	c.first = time.Since(start)
	for i, e := range local {
		if err := c.attach(fmt.Sprintf("%s%d", name, i), e); err != nil {
			return nil, err
		}
	}
	c.heap = heap() - before
	return c, c.measure()
}

func (c *crowd) close() error { return c.loader.Detach() }

func (c *crowd) sync(snapshot bool, changes ...registry.Change) error {
	c.revision++
	return c.loader.Sync(registry.Update{Revision: c.revision, Snapshot: snapshot, Isolation: changes})
}

// attach wires an endpoint by a veth; the first one is the client, from which packets come.
func (c *crowd) attach(name string, e registry.Endpoint) error {
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"})
	if err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	peer, err := netlink.LinkByName(name + "p")
	if err != nil {
		return err
	}
	host, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	mac := peer.Attrs().HardwareAddr
	if err := c.loader.Attach(loader.Interface{
		Name: name, Index: host.Attrs().Index, MAC: mac, Addrs: e.Addresses, Endpoint: e,
	}); err != nil {
		return err
	}
	if c.probe.prog != nil {
		return nil
	}
	c.probe = bench{veth: host, mac: mac}
	return c.probe.open()
}

// measure reads what the maps hold.
func (c *crowd) measure() error {
	list, err := c.loader.Maps()
	if err != nil {
		return err
	}
	ours := []string{"policy", "subjects", "rulesets", "port_nodes", "outcomes", "prefixes", "numbers", "policy_stats", "events"}
	for _, m := range list {
		if !slices.Contains(ours, m.Name) {
			continue
		}
		c.megabytes += float64(m.Bytes) / 1e6
		switch m.Name {
		case "policy":
			c.entries = m.Entries
		case "subjects":
			c.identities = m.Entries
		}
	}
	return nil
}

// heap is this process's live memory, in MB.
func heap() float64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / 1e6
}

// crowdOf returns what there is, and the two containers that are to be attached here.
func crowdOf(name string, policies int) (all []registry.Change, local []registry.Endpoint) {
	endpoint := func(node, id, namespace, app, addr string) registry.Endpoint {
		return registry.Endpoint{
			EndpointID: registry.EndpointID{Node: node, ContainerID: id, Interface: "eth0"},
			Name:       registry.Name{Namespace: namespace, Name: id}, Network: "pods",
			Labels: map[string]string{"app": app}, Addresses: []netip.Addr{netip.MustParseAddr(addr)},
		}
	}
	for i := range crowdNamespaces * crowdApps {
		n, a := i%crowdNamespaces, i/crowdNamespaces
		e := endpoint("there", fmt.Sprintf("c%d", i), fmt.Sprintf("n%d", n), fmt.Sprintf("a%d", a), crowdAddr(i).String())
		all = append(all, registry.Change{Endpoint: &e})
	}
	for j := range policies {
		all = append(all, registry.Change{Policy: crowdPolicy(j, 8000)})
	}
	// These two are what the measured flows meet.
	all = append(all,
		registry.Change{Policy: rulePolicy("client", "n0", "client", registry.Egress, registry.Rule{
			Action: registry.Allow,
			Peers:  []registry.Peer{{Pods: &registry.PodSelector{Namespaces: &registry.Selector{}}}},
			Ports:  []registry.PolicyPort{{Protocol: registry.TCP, Port: port, EndPort: port}},
		})},
		registry.Change{Policy: rulePolicy("server", "n0", "server", registry.Ingress, registry.Rule{
			Action: registry.Allow,
			Peers:  []registry.Peer{{Pods: &registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{"app": "client"}}}}},
			Ports:  []registry.PolicyPort{{Protocol: registry.TCP, Port: port, EndPort: port}},
		})})
	third := map[string]string{"few": "1", "many": "2"}[name]
	local = []registry.Endpoint{
		endpoint("here", "client", "n0", "client", "10.99."+third+".1"),
		endpoint("here", "server", "n0", "server", "10.99."+third+".2"),
	}
	return all, local
}

// crowdAddr is the address of the crowd's i-th container.
func crowdAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}) }

// crowdPolicy selects one of the crowd's containers and allows two namespaces to it.
func crowdPolicy(j int, first uint16) *registry.Policy {
	n, a := j%crowdNamespaces, j/crowdNamespaces%crowdApps
	from := []string{fmt.Sprintf("n%d", (n+2*(j/(crowdNamespaces*crowdApps))+1)%crowdNamespaces),
		fmt.Sprintf("n%d", (n+2*(j/(crowdNamespaces*crowdApps))+2)%crowdNamespaces)}
	p := first + uint16(j%1000)
	return rulePolicy(fmt.Sprintf("p%d", j), fmt.Sprintf("n%d", n), fmt.Sprintf("a%d", a), registry.Ingress, registry.Rule{
		Action: registry.Allow,
		Peers: []registry.Peer{{Pods: &registry.PodSelector{Namespaces: &registry.Selector{
			Expressions: []registry.Requirement{{Key: registry.NamespaceLabel, Operator: registry.In, Values: from}},
		}}}},
		Ports: []registry.PolicyPort{{Protocol: registry.TCP, Port: p, EndPort: p}},
	})
}

func rulePolicy(name, namespace, app string, d registry.Direction, r registry.Rule) *registry.Policy {
	p := &registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: namespace, Name: name}},
		Subject:  registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{"app": app}}},
		Isolates: []registry.Direction{d},
	}
	if d == registry.Egress {
		p.Egress = []registry.Rule{r}
	} else {
		p.Ingress = []registry.Rule{r}
	}
	return p
}

// flowTable measures new flows that meet policies on the way, few and many in turn.
func flowTable(w *tabwriter.Writer, few, many *crowd, rounds int) error {
	other := make([]byte, 60)
	other[12], other[13] = 0x88, 0xcc // LLDP
	rows := []struct {
		name  string
		frame func(c *crowd, i uint16) []byte
	}{
		{"not ours, ns", func(*crowd, uint16) []byte { return other }},
		{"new flow, both ends here, ns", func(c *crowd, i uint16) []byte {
			return c.probe.syn(c.client.String(), c.server.String(), 1000+i)
		}},
		{"new flow, to all the others in turn, ns", func(c *crowd, i uint16) []byte {
			to := crowdAddr(int(i) * 2654435761 >> 7 % (crowdNamespaces * crowdApps))
			return c.probe.syn(c.client.String(), to.String(), 20000+i)
		}},
	}
	var overhead [2]float64
	for row, r := range rows {
		var took [2][]float64
		for i := range uint16(rounds * 1000) {
			for side, c := range []*crowd{few, many} {
				ns, err := c.probe.time(r.frame(c, i), 1)
				if err != nil {
					return err
				}
				took[side] = append(took[side], ns)
			}
		}
		same := func(ns float64) float64 { return ns }
		a, b := median(took[0], same)-overhead[0], median(took[1], same)-overhead[1]
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\t\n", r.name, a, b, b/a)
		if row == 0 {
			overhead = [2]float64{a, b}
		}
	}
	return nil
}

// changeTable measures what one changed policy takes, from the loader's being told to the maps.
func changeTable(w *tabwriter.Writer, few, many *crowd, times int) error {
	var took [2][]time.Duration
	for i := range times {
		for side, c := range []*crowd{few, many} {
			p := crowdPolicy(i%c.policies, 8000+uint16(1000*(i%2+1)))
			start := time.Now()
			if err := c.sync(false, registry.Change{Policy: p}); err != nil {
				return err
			}
			took[side] = append(took[side], time.Since(start))
		}
	}
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		a, b := quantile(took[0], q.of), quantile(took[1], q.of)
		fmt.Fprintf(w, "sync of one changed policy, %s, ms\t%.2f\t%.2f\t%.2f\t\n", q.name,
			a.Seconds()*1e3, b.Seconds()*1e3, float64(b)/float64(a))
	}
	return nil
}

func quantile(list []time.Duration, q float64) time.Duration {
	slices.Sort(list)
	return list[min(int(q*float64(len(list))), len(list)-1)]
}
