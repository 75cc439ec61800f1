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

// world is a dataplane without an agent.
type world struct {
	plane
	loader *loader.Loader
}

// newWorld makes one in the network namespace of the calling thread.
func newWorld(services int) (_ *world, err error) {
	addr := netip.MustParseAddr
	w := &world{plane: plane{services: services, probes: map[string]*Probe{}, places: map[string]place{
		client: {addr("10.98.0.1"), addr("fd00:98::1")},
		server: {addr("10.98.0.2"), addr("fd00:98::2")},
		closed: {addr("10.98.0.3"), addr("fd00:98::3")},
		guest:  {addr("10.98.0.4"), addr("fd00:98::4")},
		host:   {addr("10.98.0.5"), addr("fd00:98::5")},
		asker:  {addr("10.98.0.6"), addr("fd00:98::6")},
		asked:  {addr("10.98.0.7"), addr("fd00:98::7")},
		vip:    {addr("10.95.0.1"), addr("fd00:95::1")},
		far:    {addr("192.0.2.77"), addr("2001:db8::77")},
	}}}
	dir := filepath.Join("/sys/fs/bpf", fmt.Sprintf("sluice-bench-kernel-%d-%d", os.Getpid(), services))
	sizes := loader.DefaultSizes()
	sizes.Services = max(sizes.Services, uint32(2*services+64))
	if w.loader, err = loader.Open(loader.Options{
		BPFFS: dir, Node: "here", Attach: loader.AttachClsact, Sizes: sizes,
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
	if err := w.openMaps(dir); err != nil {
		return nil, err
	}
	return w, w.fill()
}

func (w *world) close() error {
	w.plane.close()
	return w.loader.Detach()
}

// content returns what there is, and the containers that are to be attached here.
func (w *world) content() (all []registry.Change, local []registry.Endpoint) {
	for _, id := range []string{client, server, closed, guest, host, asker, asked} {
		e := registry.Endpoint{
			EndpointID: registry.EndpointID{Node: "here", ContainerID: id, Interface: "eth0"},
			Name:       registry.Name{Namespace: "bench", Name: id}, Network: "pods",
			Labels:    map[string]string{"app": id},
			Addresses: []netip.Addr{w.places[id][0], w.places[id][1]},
		}
		local = append(local, e)
		all = append(all, registry.Change{Endpoint: &e})
	}
	everyone := registry.Rule{Action: registry.Allow}
	all = append(all,
		policyOf(closed, registry.Ingress),
		policyOf(guest, registry.Egress, everyone), policyOf(host, registry.Ingress, everyone),
		policyOf(asker, registry.Egress, only(asked)), policyOf(asked, registry.Ingress, only(asker)))
	protocols := []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP}
	all = append(all, serviceOf("probe", w.places[vip], w.places[server], "here", protocols)...)
	for i := range w.others() {
		all = append(all, serviceOf(fmt.Sprintf("s%d", i), vipOf(i), backendOf(i), "there", protocols[:1])...)
	}
	return all, local
}

// policyOf selects a container, and allows in one direction what the rules say.
func policyOf(app string, d registry.Direction, rules ...registry.Rule) registry.Change {
	p := &registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: "bench", Name: app}},
		Subject:  registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{"app": app}}},
		Isolates: []registry.Direction{d},
	}
	if d == registry.Egress {
		p.Egress = rules
	} else {
		p.Ingress = rules
	}
	return registry.Change{Policy: p}
}

// only allows one peer, and the server's port.
func only(peer string) registry.Rule {
	return registry.Rule{
		Action: registry.Allow,
		Peers: []registry.Peer{{Pods: &registry.PodSelector{
			Pods: registry.Selector{MatchLabels: map[string]string{"app": peer}},
		}}},
		Ports: []registry.PolicyPort{{Protocol: registry.TCP, Port: targetPort, EndPort: targetPort}},
	}
}

// serviceOf returns a service of both families with one backend each.
func serviceOf(name string, vips, backends place, node string, protocols []registry.Protocol) []registry.Change {
	s := &registry.Service{Name: registry.Name{Namespace: "bench", Name: name}, VIPs: vips[:]}
	changes := []registry.Change{{Service: s}}
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
	peerName := "p" + name
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
