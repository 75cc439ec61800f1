package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
)

// world is a dataplane without an agent: three containers, and services, all but one of which lead to other
// nodes.
type world struct {
	services int
	dir      string
	loader   *loader.Loader
	probes   map[string]*Probe // by container
}

// What a packet may come from and go to; addresses of both families.
var places = map[string][2]netip.Addr{
	"client": {netip.MustParseAddr("10.98.0.1"), netip.MustParseAddr("fd00:98::1")},
	"server": {netip.MustParseAddr("10.98.0.2"), netip.MustParseAddr("fd00:98::2")},
	"closed": {netip.MustParseAddr("10.98.0.3"), netip.MustParseAddr("fd00:98::3")}, // a policy lets nothing in
	"vip":    {netip.MustParseAddr("10.95.0.1"), netip.MustParseAddr("fd00:95::1")}, // of server
	"far":    {netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")},
}

// Ports of the service, and of the server behind it.
const (
	servicePort = 80
	targetPort  = 8080
)

// newWorld makes one in the network namespace of the calling thread.
func newWorld(services int) (_ *world, err error) {
	w := &world{
		services: services, probes: map[string]*Probe{},
		dir: filepath.Join("/sys/fs/bpf", fmt.Sprintf("sluice-bench-kernel-%d-%d", os.Getpid(), services)),
	}
	sizes := loader.DefaultSizes()
	sizes.Services = max(sizes.Services, uint32(2*services))
	if w.loader, err = loader.Open(loader.Options{
		BPFFS: w.dir, Node: "here", Attach: loader.AttachClsact, Sizes: sizes,
	}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	changes, local := w.content()
	u := registry.NewCatalog("here").Apply(registry.Batch{Revision: 1, Snapshot: true, Changes: changes})
	if err := w.loader.Sync(u); err != nil {
		return nil, err
	}
	for _, e := range local {
		if err := w.attach(e); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) close() error {
	for _, p := range w.probes {
		p.Close()
	}
	return w.loader.Detach()
}

// content returns what there is, and the containers that are to be attached here.
func (w *world) content() (all []registry.Change, local []registry.Endpoint) {
	for _, id := range []string{"client", "server", "closed"} {
		e := registry.Endpoint{
			EndpointID: registry.EndpointID{Node: "here", ContainerID: id, Interface: "eth0"},
			Name:       registry.Name{Namespace: "bench", Name: id}, Network: "pods",
			Labels:    map[string]string{"app": id},
			Addresses: []netip.Addr{places[id][0], places[id][1]},
		}
		local = append(local, e)
		all = append(all, registry.Change{Endpoint: &e})
	}
	all = append(all, registry.Change{Policy: &registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: "bench", Name: "closed"}},
		Subject:  registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{"app": "closed"}}},
		Isolates: []registry.Direction{registry.Ingress},
	}})
	all = append(all, serviceOf("probe", places["vip"], places["server"], "here")...)
	for i := range w.services - 1 {
		vips := [2]netip.Addr{numbered("10.96.0.0", i), numbered("fd00:96::", i)}
		backends := [2]netip.Addr{numbered("11.0.0.0", i), numbered("fd00:11::", i)}
		all = append(all, serviceOf(fmt.Sprintf("s%d", i), vips, backends, "there")...)
	}
	return all, local
}

// numbered is the i-th address after one.
func numbered(from string, i int) netip.Addr {
	b := netip.MustParseAddr(from).AsSlice()
	n := len(b)
	b[n-3], b[n-2], b[n-1] = b[n-3]+byte(i>>16), byte(i>>8), byte(i)
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// serviceOf returns a service of both families and all three protocols, with one backend each.
func serviceOf(name string, vips, backends [2]netip.Addr, node string) []registry.Change {
	s := &registry.Service{Name: registry.Name{Namespace: "bench", Name: name}, VIPs: vips[:]}
	changes := []registry.Change{{Service: s}}
	protocols := []registry.Protocol{registry.TCP}
	if node == "here" {
		protocols = append(protocols, registry.UDP, registry.SCTP)
	}
	var ports []registry.EndpointPort
	for _, p := range protocols {
		s.Ports = append(s.Ports, registry.ServicePort{
			Name: p.String(), Protocol: p, Port: servicePort, TargetName: p.String(),
		})
		ports = append(ports, registry.EndpointPort{Name: p.String(), Protocol: p, Port: targetPort})
	}
	for i, family := range []registry.Family{registry.IPv4, registry.IPv6} {
		changes = append(changes, registry.Change{Slice: &registry.Slice{
			Name:    registry.Name{Namespace: "bench", Name: fmt.Sprintf("%s-%d", name, i)},
			Service: name, Family: family, Ports: ports,
			Endpoints: []registry.SliceEndpoint{{
				Addresses: []netip.Addr{backends[i]}, Node: node, Ready: true, Serving: true,
			}},
		}})
	}
	return changes
}

// attach wires an endpoint by a veth.
func (w *world) attach(e registry.Endpoint) error {
	name := fmt.Sprintf("%s%d", e.ContainerID, w.services)
	peerName := fmt.Sprintf("p%s%d", e.ContainerID, w.services)
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peerName})
	if err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	peer, err := netlink.LinkByName(peerName)
	if err != nil {
		return err
	}
	host, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	mac := peer.Attrs().HardwareAddr
	if err := w.loader.Attach(loader.Interface{
		Name: name, Index: host.Attrs().Index, MAC: mac, Addrs: e.Addresses, Endpoint: e,
	}); err != nil {
		return err
	}
	w.probes[e.ContainerID], err = OpenProbe(host, mac)
	return err
}
