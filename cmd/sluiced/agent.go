package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/cni"
	cniserver "github.com/sluice-net/sluice/cni/server"
	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	apiserver "github.com/sluice-net/sluice/registry/api/server"
	"github.com/sluice-net/sluice/registry/dns"
	"github.com/sluice-net/sluice/registry/etcd"
	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/registry/health"
)

// agent is everything that one node's sluiced runs, in the order in which it starts.
type agent struct {
	config *Config
	log    *slog.Logger
	node   registry.Node

	loader  *loader.Loader // the kernel serves all along; this takes it over
	store   *etcd.Store
	hub     *registry.Hub // all that follow the store read from it
	catalog *registry.Catalog
	view    *apiserver.View // what the API's lists are answered from
	cni     *cniserver.Server
	settled atomic.Bool // the wires are as recorded
	checker *health.Checker

	dns     *dns.Server // nil: off
	once    sync.Once
	exposed http.Handler // the metrics

	owners owners        // whose this node's addresses are
	guard  *access.Guard // who may write over the network

	eureka *eureka.Server // nil: Eureka's clients are not answered

	namespaces namespaces // where sockets may be that use services
	watch      *addressWatch
	own        ownAddresses
	record     *nodeRecord
}

// runAgent runs until ctx ends. The kernel goes on serving afterwards.
func runAgent(ctx context.Context, c *Config, log *slog.Logger) (err error) {
	lock, err := lockState(c.Paths.State)
	if err != nil {
		return err
	}
	defer lock.Close()
	a := &agent{config: c, log: log, catalog: registry.NewCatalog(c.Node.Name), view: apiserver.NewView()}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.open(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	// The maps follow the registry until the last request is done, which may wait for them.
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return a.hub.Run(following) })
	group.Go(func() error { return ended(following, a.loader.Run(following, a.hub.First(), a.catalog)) })
	group.Go(func() error {
		a.view.Follow(following, a.hub)
		return nil
	})
	group.Go(func() error {
		defer stop()
		return a.serve(ctx)
	})
	group.Go(func() error {
		a.store.KeepNodeLease(ctx, registry.NodeLease{Node: a.node.Name, Version: version, Since: time.Now().UTC()})
		return nil
	})
	group.Go(func() error { return a.checkHealth(ctx) })
	group.Go(func() error { return a.serveMetrics(ctx) })
	group.Go(func() error { return a.serveEureka(ctx) })
	group.Go(func() error { return a.serveDNS(ctx) })
	group.Go(func() error {
		a.watch.run(ctx)
		return nil
	})
	group.Go(func() error {
		a.record.run(ctx)
		return nil
	})
	return group.Wait()
}

// ended turns the error of something that ended because it was told to into none.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// open takes over what a former agent left, in the kernel and on disk.
func (a *agent) open(ctx context.Context) (err error) {
	c := a.config
	if err := os.MkdirAll(c.Paths.Run, 0o700); err != nil {
		return fmt.Errorf("make paths.run: %w", err)
	}
	if a.node, err = c.node(); err != nil {
		return err
	}
	if a.guard, err = newGuard(&c.Access, &a.owners, a.log.With("part", "access")); err != nil {
		return err
	}
	if a.loader, err = openLoader(c, a.log, a.namespaces.paths); err != nil {
		return err
	}
	a.record = newNodeRecord(a.node, len(c.Node.Addresses) > 0, a.log.With("part", "addresses"))
	// Before the registry's contents: until then nothing that the predecessor told goes.
	a.watch = &addressWatch{
		log: a.log.With("part", "addresses"), set: a.setAddresses,
		keep: func() error { return keepNodeLocal(c.nodeLocal()) },
	}
	a.watch.update()
	a.store, err = etcd.Open(ctx, etcd.Options{
		Cluster:      c.cluster(),
		Dir:          filepath.Join(c.Paths.State, "registry"),
		Run:          c.Paths.Run,
		ServiceCIDRs: c.Services.CIDRs,
		NodePorts:    c.Services.NodePorts, ContainerCIDRs: c.Containers.CIDRs,
		Expiry: c.Registry.Expiry,
		Logger: a.log.With("part", "registry"),
	})
	if err != nil {
		return err
	}
	a.hub = registry.NewHub(a.store, registry.HubOptions{})
	a.guard.Room = newRoom(a.store, a.catalog)
	a.checker = a.newChecker()
	if a.eureka, err = a.newEureka(); err != nil {
		return err
	}
	if err := a.openDNS(); err != nil {
		return err
	}
	a.record.put = a.store.PutNode
	a.cni, err = cniserver.New(cniserver.Options{
		Node:      c.Node.Name,
		Prefixes:  c.Containers.CIDRs,
		Keep:      a.kept(),
		MTU:       c.Containers.MTU,
		State:     filepath.Join(c.Paths.State, "attachments"),
		Spool:     filepath.Join(c.Paths.Run, "spool"),
		Dataplane: dataplane{a.loader},
		Registry:  endpoints{a.store, a.loader, c.Node.Name},
		Resolver:  c.resolver,
		Logger:    a.log.With("part", "cni"),
	})
	if err != nil {
		return err
	}
	a.namespaces.wired.Store(a.cni)
	a.owners.wired.Store(a.cni)
	a.own.services, a.own.containers, a.record.check = a.store.Held, a.cni.Owners, a.own.check
	return nil
}

// setAddresses tells all who have to know of the addresses that the node's devices have now.
func (a *agent) setAddresses(addrs []netip.Addr) error {
	a.own.set(addrs)
	a.owners.node.Store(&addrs)
	if a.cni != nil { // or else it gets them when it is opened
		a.cni.Keep(a.kept())
	}
	a.record.wake()
	return a.loader.SetNodeAddresses(addrs)
}

// kept returns the addresses that no container gets: those of the node's devices, and those that it is said to have.
func (a *agent) kept() []netip.Addr { return slices.Concat(a.own.get(), a.config.Node.Addresses) }

func openLoader(c *Config, log *slog.Logger, namespaces func() ([]string, error)) (*loader.Loader, error) {
	if err := mountBPFFS(c.Paths.BPFFS); err != nil {
		return nil, err
	}
	cgroup, err := cgroupDir(c.Paths.Cgroup)
	if err != nil {
		return nil, err
	}
	attach, _ := attachMode(c.Datapath.Attach)
	return loader.Open(loader.Options{
		Attach:            attach,
		BPFFS:             c.Paths.BPFFS,
		Cgroup:            cgroup,
		SocketTranslation: c.Datapath.SocketTranslation,
		Sizes:             loader.DefaultSizes().Scale(c.Datapath.MapScale),
		Lifetimes:         c.Flows,
		Node:              c.Node.Name,
		Algorithm:         c.Services.Algorithm,
		MaglevTableSize:   uint32(c.Services.MaglevTableSize),
		PolicyAudit:       c.Policy.Audit,
		EventRate:         uint32(c.Events.Rate),
		EventSample:       uint32(c.Events.Sample),
		Namespaces:        namespaces,
		Logger:            log.With("part", "loader"),
	})
}

// node is this machine as the registry knows it.
func (c *Config) node() (registry.Node, error) {
	n := registry.Node{Name: c.Node.Name, Zone: c.Node.Zone, Addresses: c.Node.Addresses, ContainerCIDRs: c.Containers.CIDRs}
	if len(n.Addresses) > 0 {
		return n, nil
	}
	var err error
	n.Addresses, err = nodeAddresses()
	return n, err
}

// close lets go of all that was opened.
func (a *agent) close() error {
	var errs []error
	if a.cni != nil {
		errs = append(errs, a.cni.Close())
	}
	if a.loader != nil {
		errs = append(errs, a.loader.Close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	return errors.Join(errs...)
}

// serve settles what happened while no agent was there, and then answers sluice-cni and sluice.
func (a *agent) serve(ctx context.Context) error {
	rev, err := a.putNode(ctx)
	if err == nil {
		err = settledFor(ctx, a.loader, rev) // the first snapshot has arrived, and is in the maps
	}
	if err == nil {
		err = a.cni.Settle(ctx)
	}
	if err != nil {
		return ended(ctx, err)
	}
	a.settled.Store(true)
	l, err := listenSocket(a.config.Socket(), a.log)
	if err != nil {
		return err
	}
	a.log.Info("ready", "node", a.node.Name, "socket", a.config.Socket(), "version", version)
	if err := notify("READY=1"); err != nil {
		a.log.Warn("systemd was not told", "error", err)
	}
	h := a.apiHandler(ctx.Done())
	mux := http.NewServeMux()
	mux.Handle("/cni/", a.cni.Handler())
	mux.Handle("/v1/", h)
	servers, ctx := errgroup.WithContext(ctx)
	servers.Go(func() error {
		a.giveBack(ctx)
		return nil
	})
	servers.Go(func() error { return a.serveAPI(ctx, h) })
	servers.Go(func() error {
		err := serveHTTP(ctx, l, mux, a.log)
		return errors.Join(err, os.Remove(a.config.Socket()))
	})
	return servers.Wait()
}

// putNode makes this node one of the registry's; of an embedded registry the only one.
func (a *agent) putNode(ctx context.Context) (rev int64, err error) {
	if rev, err = a.joinRegistry(ctx); err != nil || !a.store.Embedded() {
		return rev, err
	}
	kept, gone, err := a.store.KeepOnly(ctx, a.node.Name)
	if gone > 0 {
		a.log.Warn("the node had another name before; what was registered under it is gone", "keys", gone, "node", a.node.Name)
	}
	return max(rev, kept), err
}

// joinRegistry waits for a cluster that is away: what is in the kernel goes on as it is.
func (a *agent) joinRegistry(ctx context.Context) (int64, error) {
	for told := false; ; told = true {
		rev, err := a.record.write(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, registry.ErrUnavailable) {
			return rev, err
		}
		if !told {
			a.log.Warn("the registry is away; waiting for it", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// detachNode takes programs, pins and containers' interfaces off the node.
func detachNode(c *Config, log *slog.Logger) error {
	lock, err := lockState(c.Paths.State)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := loader.Detach(c.Paths.BPFFS); err != nil {
		return err
	}
	links, err := cni.Dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	removed := 0
	for _, link := range links {
		name := link.Attrs().Name
		if link.Type() != "veth" || !cni.IsHostInterface(name) {
			continue
		}
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("delete %s: %w", name, err)
		}
		removed++
	}
	log.Info("detached", "interfaces", removed)
	if err := dropNodeLocal(); err != nil {
		return err
	}
	if err := cniserver.OpenRanges(c.Containers.CIDRs); err != nil {
		return err
	}
	return lock.Truncate(0) // nothing of this network namespace is left
}
