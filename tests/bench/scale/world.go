package scale

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/bench/kernel"
	"github.com/sluice-net/sluice/tests/bench/part"
)

// plan says what a dataplane is to hold.
type plan struct {
	Grow  string // services, backends, policies, containers or flows; or agent: what an agent is given
	N     int    // of these
	CPU   int    // counted from 1; 0: any
	BPFFS string
	Scale float64 // of the maps: datapath.mapScale
}

// World is a dataplane without an agent: a client and a server in containers, what grows, and what it leads to on
// other nodes. Its exported methods are what the parent may ask for, one at a time.
type World struct {
	plan     plan
	loader   *loader.Loader
	catalog  *registry.Catalog
	revision int64
	probe    *kernel.Probe // of the client
	links    map[string]netlink.Link
	changes  int // made so far
	sent     map[string]int
	wired    int // containers
}

// The two containers.
var (
	clientAddr = netip.MustParseAddr("10.98.0.1")
	serverAddr = netip.MustParseAddr("10.98.0.2")
)

// Loaded is what it took to bring everything into the maps.
type Loaded struct {
	Catalog, Sync time.Duration
	Heap          float64 // bytes that the registry's copy, the catalog and the loader hold
	RSS           float64 // of the process, bytes
	Maps          float64 // kernel memory of all maps, bytes
	Used          float64 // of that, in use
	Entries       uint64  // in the maps that the loader fills
}

// Load opens a dataplane in place of the one before, and fills it.
func (w *World) Load(_ struct{}, l *Loaded) error {
	if err := w.close(); err != nil {
		return err
	}
	sizes := loader.DefaultSizes().Scale(w.plan.Scale)
	var err error
	if w.loader, err = loader.Open(loader.Options{
		BPFFS: w.plan.BPFFS, Node: "here", Attach: loader.AttachClsact, Sizes: sizes,
	}); err != nil {
		return err
	}
	before := heap()
	w.catalog, w.revision, w.wired = registry.NewCatalog("here"), 1, 0
	local := containers()
	changes := w.content()
	for i := range local {
		changes = append(changes, registry.Change{Endpoint: &local[i]})
	}
	runtime.GC() // of what follows only its own garbage counts
	began := time.Now()
	u := w.catalog.Apply(registry.Batch{Revision: 1, Snapshot: true, Changes: changes})
	l.Catalog = time.Since(began)
	began = time.Now()
	if err := w.loader.Sync(u); err != nil {
		return err
	}
	l.Sync = time.Since(began)
	u, changes = registry.Update{}, nil
	for _, e := range local {
		if err := w.attach(e); err != nil {
			return err
		}
	}
	if w.plan.Grow == "containers" {
		began = time.Now()
		if err := w.wireAll(); err != nil {
			return err
		}
		l.Sync += time.Since(began)
	}
	l.Heap = heap() - before
	if w.plan.Grow != "flows" { // the count of what is in its map would be kept for a minute
		if l.Used, l.Maps, l.Entries, err = w.fill(); err != nil {
			return err
		}
	}
	usage, err := part.UsageOf(os.Getpid())
	l.RSS = usage.Resident
	return err
}

// content is what there is besides the two containers.
func (w *World) content() []registry.Change {
	switch w.plan.Grow {
	case "services":
		return append(stalls(w.plan.N, stallBackends), probeServices(stallBackends)...)
	case "agent":
		return stalls(w.plan.N, agentBackends)
	case "backends":
		return append(stalls(10, stallBackends), probeServices(w.plan.N)...)
	case "policies":
		return append(probeServices(stallBackends), throng(w.plan.N)...)
	case "containers":
		return append(probeServices(stallBackends), crewServices(w.plan.N)...)
	default:
		return append(stalls(10, stallBackends), probeServices(stallBackends)...)
	}
}

// containers are the client and the server.
func containers() []registry.Endpoint {
	return []registry.Endpoint{
		endpoint("here", "client", "n0", "client", clientAddr),
		endpoint("here", "server", "n0", "server", serverAddr),
	}
}

func endpoint(node, id, namespace, app string, addr netip.Addr) registry.Endpoint {
	return registry.Endpoint{
		EndpointID: registry.EndpointID{Node: node, ContainerID: id, Interface: "eth0"},
		Name:       registry.Name{Namespace: namespace, Name: id}, Network: "pods",
		Labels: map[string]string{"app": app}, Addresses: []netip.Addr{addr},
	}
}

// attach wires a container by a veth; the client is the one from which packets come.
func (w *World) attach(e registry.Endpoint) error {
	name := e.ContainerID
	if w.links[name] == nil {
		if err := w.wire(name); err != nil {
			return err
		}
	}
	host := w.links[name]
	peer, err := netlink.LinkByName(name + "p")
	if err != nil {
		return err
	}
	mac := peer.Attrs().HardwareAddr
	if err := w.loader.Attach(loader.Interface{
		Name: name, Index: host.Attrs().Index, MAC: mac, Addrs: e.Addresses, Endpoint: e,
	}); err != nil {
		return err
	}
	if name == "client" {
		w.probe, err = kernel.OpenProbe(host, mac)
	}
	return err
}

// wire makes a veth.
func (w *World) wire(name string) error {
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"})
	if err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	host, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if w.links == nil {
		w.links = map[string]netlink.Link{}
	}
	w.links[name] = host
	return nil
}

// fill tells how much of the maps is in use. Caches, which programs fill, count as far as they are allocated.
func (w *World) fill() (used, all float64, entries uint64, err error) {
	list, err := w.loader.Maps()
	if err != nil {
		return 0, 0, 0, err
	}
	caches := []string{"flows", "sock_origin", "sock_choices", "affinity", "frags", "asked", "events"}
	for _, m := range list {
		all += float64(m.Bytes)
		if !slices.Contains(caches, m.Name) && m.Limit > 0 {
			used += float64(m.Bytes) * float64(m.Entries) / float64(m.Limit)
			entries += m.Entries
		}
	}
	return used, all, entries, nil
}

// heap is this process's live memory, in bytes. What was garbage is given back to the kernel.
func heap() float64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// close takes everything away but the veths, which go with the process's namespace.
func (w *World) close() error {
	var errs []error
	if w.probe != nil {
		w.probe.Close()
		w.probe = nil
	}
	if w.loader != nil {
		errs = append(errs, w.loader.Detach())
		w.loader = nil
	}
	w.catalog = nil
	return errors.Join(errs...)
}
