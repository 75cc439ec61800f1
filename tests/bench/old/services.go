package main

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
)

const (
	fewServices     = 10
	manyServices    = 50_000
	serviceBackends = 10
)

// services measures what services cost when there are few and many, in two dataplanes side by side,
// without an agent, and what Maglev tables do.
func services(rounds int) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it dies with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make namespace: %w", err)
			return
		}
		done <- compareServices(rounds)
	}()
	if err := <-done; err != nil {
		return err
	}
	return maglevTables()
}

func compareServices(rounds int) (err error) {
	few, err := newMarket("few", fewServices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, few.close()) }()
	many, err := newMarket("many", manyServices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "services of %d backends\t%d\t%d\tratio\t\n", serviceBackends, fewServices, manyServices)
	fmt.Fprintf(w, "catalog, first snapshot, s\t%.3f\t%.3f\t\t\n", few.applied.Seconds(), many.applied.Seconds())
	fmt.Fprintf(w, "sync of it, from cold, s\t%.3f\t%.3f\t\t\n", few.synced.Seconds(), many.synced.Seconds())
	fmt.Fprintf(w, "agent's memory for it, MB\t%.0f\t%.0f\t\t\n", few.heap, many.heap)
	if err := serviceFlows(w, few, many, rounds); err != nil {
		return err
	}
	if err := serviceChanges(w, few, many, rounds*100); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return many.memoryTable()
}

// market is a dataplane with services, all but two of which lead to other nodes. Of the crowd it takes the
// loader and the two containers.
type market struct {
	crowd
	catalog         *registry.Catalog
	services        int
	applied, synced time.Duration
}

func newMarket(name string, services int) (_ *market, err error) {
	m := &market{catalog: registry.NewCatalog("here"), services: services}
	m.dir = filepath.Join("/sys/fs/bpf", fmt.Sprintf("sluice-bench-%s-%d", name, os.Getpid()))
	if m.loader, err = loader.Open(loader.Options{BPFFS: m.dir, Node: "here", Attach: loader.AttachClsact}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	changes, local := m.content(name)
	before := heap()
	start := time.Now()
	u := m.catalog.Apply(registry.Batch{Revision: 1, Snapshot: true, Changes: changes})
	m.applied = time.Since(start)
	start = time.Now()
	if err := m.loader.Sync(u); err != nil {
		return nil, err
	}
	m.synced, m.revision = time.Since(start), 1
	u = registry.Update{}
	m.heap = heap() - before
	for i, e := range local {
		if err := m.attach(fmt.Sprintf("m%s%d", name, i), e); err != nil {
			return nil, err
		}
	}
	// What a running agent has: garbage of the load is gone.
	debug.FreeOSMemory()
	return m, nil
}

// The two services whose flows are measured, and the port that leads to each algorithm.
const (
	randomVIP = "10.95.0.1"
	maglevVIP = "10.95.0.2"
)

// content returns what there is, and the two containers that are to be attached here.
func (m *market) content(name string) (all []registry.Change, local []registry.Endpoint) {
	third := map[string]string{"few": "1", "many": "2"}[name]
	for i, id := range []string{"client", "server"} {
		e := registry.Endpoint{
			EndpointID: registry.EndpointID{Node: "here", ContainerID: id, Interface: "eth0"},
			Name:       registry.Name{Namespace: "market", Name: id}, Network: "pods",
			Labels:    map[string]string{"app": id},
			Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.98.%s.%d", third, i+1))},
		}
		local = append(local, e)
		all = append(all, registry.Change{Endpoint: &e})
	}
	m.client, m.server = local[0].Addresses[0], local[1].Addresses[0]
	for i := range m.services {
		all = append(all, registry.Change{Service: stallOf(i)}, registry.Change{Slice: sliceOf(i, 0)})
	}
	for vip, algorithm := range map[string]registry.Algorithm{
		randomVIP: registry.AlgorithmRandom, maglevVIP: registry.AlgorithmMaglev,
	} {
		s := newService("probe-"+string(algorithm), netip.MustParseAddr(vip))
		s.Algorithm = algorithm
		all = append(all, registry.Change{Service: s}, registry.Change{Slice: m.probeSlice(algorithm, 0)})
	}
	return all, local
}

// probeSlice lists the backends of a service whose flows are measured: the server, and others that are
// elsewhere; each version has another last one.
func (m *market) probeSlice(algorithm registry.Algorithm, version int) *registry.Slice {
	list := newSlice("probe-" + string(algorithm))
	list.Endpoints = append(list.Endpoints, registry.SliceEndpoint{
		Addresses: []netip.Addr{m.server}, Node: "here", Ready: true, Serving: true,
	})
	for j := range serviceBackends - 2 {
		list.Endpoints = append(list.Endpoints, elsewhere(1<<19-1, j))
	}
	list.Endpoints = append(list.Endpoints, elsewhere(1<<19-1, serviceBackends+version))
	return list
}

// newSlice returns one of a service, without endpoints.
func newSlice(service string) *registry.Slice {
	return &registry.Slice{
		Name: registry.Name{Namespace: "market", Name: service}, Service: service, Family: registry.IPv4,
		Ports: []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
	}
}

func newService(name string, vip netip.Addr) *registry.Service {
	return &registry.Service{
		Name: registry.Name{Namespace: "market", Name: name}, VIPs: []netip.Addr{vip},
		Ports: []registry.ServicePort{{Name: "http", Protocol: registry.TCP, Port: port, TargetName: "http"}},
	}
}

// stallOf is the i-th service.
func stallOf(i int) *registry.Service { return newService(fmt.Sprintf("s%d", i), stallVIP(i)) }

func stallVIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}) }

// sliceOf lists the i-th service's backends; each version has another first one.
func sliceOf(i, version int) *registry.Slice {
	list := newSlice(stallOf(i).Name.Name)
	for j := range serviceBackends {
		if j == 0 {
			j = serviceBackends + version
		}
		list.Endpoints = append(list.Endpoints, elsewhere(i, j))
	}
	return list
}

// elsewhere is the j-th of up to 16 backends of a service, in a container of another node.
func elsewhere(i, j int) registry.SliceEndpoint {
	n := i<<4 | j
	return registry.SliceEndpoint{
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)})},
		Node:      "there", Ready: true, Serving: true,
	}
}

// serviceFlows measures packets, few and many in turn.
func serviceFlows(w *tabwriter.Writer, few, many *market, rounds int) error {
	other := make([]byte, 60)
	other[12], other[13] = 0x88, 0xcc // LLDP
	fresh := func(vip string, sport uint16) func(*market, uint16) []byte {
		return func(m *market, i uint16) []byte { return m.probe.syn(m.client.String(), vip, sport+i) }
	}
	rows := []struct {
		name  string
		frame func(m *market, i uint16) []byte
	}{
		{"not ours, ns", func(*market, uint16) []byte { return other }},
		{"established flow, ns", func(m *market, _ uint16) []byte {
			return m.probe.syn(m.client.String(), randomVIP, 999)
		}},
		{"new flow, random, ns", fresh(randomVIP, 1000)},
		{"new flow, Maglev, ns", fresh(maglevVIP, 1000)},
		{"new flows of 10 services in turn, ns", func(m *market, i uint16) []byte {
			return m.probe.syn(m.client.String(), stallVIP(int(i)%10*(m.services/10)).String(), 20000+i)
		}},
		// Here the entries are in the CPU's caches on one side only.
		{"new flows of all services in turn, ns", func(m *market, i uint16) []byte {
			return m.probe.syn(m.client.String(), stallVIP(int(i)*7919%m.services).String(), 40000+i)
		}},
	}
	overhead := 0.0
	for row, r := range rows {
		var took [2][]float64
		for i := range uint16(rounds * 1000) {
			for turn := range 2 {
				side := (turn + int(i)) % 2 // neither comes first
				m := []*market{few, many}[side]
				ns, err := m.probe.time(r.frame(m, i), 1)
				if err != nil {
					return err
				}
				took[side] = append(took[side], ns)
			}
		}
		a, b := middle(took[0])-overhead, middle(took[1])-overhead
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\t\n", r.name, a, b, b/a)
		if row == 0 {
			overhead = (a + b) / 2 // the program does nothing there
		}
	}
	return nil
}

// middle returns the mean of the middle half: single runs are timed in steps of 10 ns, which a median would
// show.
func middle(samples []float64) (mean float64) {
	slices.Sort(samples)
	half := samples[len(samples)/4 : len(samples)-len(samples)/4]
	for _, ns := range half {
		mean += ns / float64(len(half))
	}
	return mean
}

// serviceChanges measures what one backend that goes for another takes: in the catalog, and from the
// loader's being told to the maps.
func serviceChanges(w *tabwriter.Writer, few, many *market, times int) error {
	for _, kind := range []struct {
		name  string
		slice func(m *market, i int) *registry.Slice
	}{
		// No version twice in a row.
		{"random", func(m *market, i int) *registry.Slice { return sliceOf(i*7919%m.services, 1+i/m.services%5) }},
		{"Maglev", func(m *market, i int) *registry.Slice { return m.probeSlice(registry.AlgorithmMaglev, i%2) }},
	} {
		var applied, synced [2][]time.Duration
		var written [2]float64
		for i := range times {
			for turn := range 2 {
				side := (turn + i) % 2
				m := []*market{few, many}[side]
				before := m.loader.Writes()
				a, s, err := m.change(kind.slice(m, i))
				if err != nil {
					return err
				}
				after := m.loader.Writes()
				applied[side], synced[side] = append(applied[side], a), append(synced[side], s)
				written[side] += float64(after.Services-before.Services+after.Slots-before.Slots+
					after.Backends-before.Backends+after.ServiceStats-before.ServiceStats) / float64(times)
			}
		}
		changeRows(w, kind.name+", catalog, one changed backend", applied)
		changeRows(w, kind.name+", sync of it", synced)
		fmt.Fprintf(w, "%s, entries written for it\t%.1f\t%.1f\t%.2f\t\n", kind.name, written[0], written[1], written[1]/written[0])
	}
	return nil
}

// change brings a changed slice to the maps, and tells how long catalog and loader took.
func (m *market) change(s *registry.Slice) (applied, synced time.Duration, err error) {
	m.revision++
	start := time.Now()
	u := m.catalog.Apply(registry.Batch{Revision: m.revision, Changes: []registry.Change{{Slice: s}}})
	applied = time.Since(start)
	start = time.Now()
	err = m.loader.Sync(u)
	return applied, time.Since(start), err
}

func changeRows(w *tabwriter.Writer, name string, took [2][]time.Duration) {
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		a, b := quantile(took[0], q.of), quantile(took[1], q.of)
		fmt.Fprintf(w, "%s, %s, us\t%.1f\t%.1f\t%.2f\t\n", name, q.name,
			a.Seconds()*1e6, b.Seconds()*1e6, float64(b)/float64(a))
	}
}

// memoryTable shows what each map of services takes in the kernel.
func (m *market) memoryTable() error {
	list, err := m.loader.Maps()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "kernel memory\tentries in use\tof\tMB\tbytes a service, in use\tall\t\n")
	var inUse, all, slot float64
	for _, i := range list {
		switch i.Name {
		case "services", "slots", "backends", "service_stats":
			each := float64(i.Bytes) / float64(i.Limit)
			use, whole := each*float64(i.Entries)/float64(m.services), float64(i.Bytes)/float64(m.services)
			inUse, all = inUse+use, all+whole
			if i.Name == "slots" {
				slot = each
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%.1f\t%.0f\t%.0f\t\n", i.Name, i.Entries, i.Limit, float64(i.Bytes)/1e6, use, whole)
		}
	}
	fmt.Fprintf(w, "together\t\t\t\t%.0f\t%.0f\t\n", inUse, all)
	// A run takes a power of two of slots.
	for _, size := range []uint32{1021, 65521} {
		fmt.Fprintf(w, "a Maglev table of %d\t%d\t\t\t%.0f\t\t\n", size, size, slot*float64(uint32(1)<<bits.Len32(size)))
	}
	fmt.Fprintln(w)
	return w.Flush()
}
