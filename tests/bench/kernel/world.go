package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
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
	flows    *ebpf.Map
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
	sizes.Services = max(sizes.Services, uint32(2*services+64))
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
	if w.flows, err = ebpf.LoadPinnedMap(filepath.Join(w.dir, "flows"), nil); err != nil {
		return nil, err
	}
	return w, w.fill()
}

// fill makes one flow to each of the other services.
func (w *world) fill() error {
	for family := range 2 {
		packet := stage{w, family}.between("client", quietPort, "far", servicePort, tcp, flagSYN)
		for i := range w.others() {
			packet.dst = netip.AddrPortFrom(vipOf(i)[family], servicePort)
			if verdict, err := w.send(sent{fromPod, "client", packet}); err != nil || verdict != verdictPass {
				return errors.Join(fmt.Errorf("make flow to service %d: from_pod returned %#x", i, verdict), err)
			}
		}
	}
	return nil
}

// others is how many services have their backend elsewhere.
func (w *world) others() int { return w.services - 1 }

// context is what a packet at a container's veth comes with.
func (w *world) context(program, at string) skb {
	ctx := skb{Ifindex: uint32(w.probes[at].Ifindex)}
	if program == toPod {
		ctx.IngressIfindex = 1 // lo: any that is no container's
	}
	return ctx
}

// send gives a program one packet, and returns what it said.
func (w *world) send(s sent) (uint32, error) {
	t := testRun{repeat: 1}
	_, err := t.do(w.probes[s.at].program(s.program), s.packet.bytes(), w.context(s.program, s.at))
	return t.retval, err
}

// counters returns what the programs count, by name.
func (w *world) counters() (map[string]uint64, error) {
	list, err := w.loader.Counters()
	if err != nil {
		return nil, err
	}
	counters := map[string]uint64{}
	for _, c := range list {
		counters[c.Name] = c.Value
	}
	return counters, nil
}

func (w *world) close() error {
	w.flows.Close()
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
	for i := range w.others() {
		all = append(all, serviceOf(fmt.Sprintf("s%d", i), vipOf(i), backendOf(i), "there")...)
	}
	return all, local
}

// vipOf returns the VIPs of a service whose backend is elsewhere, and backendOf that.
func vipOf(i int) [2]netip.Addr {
	return [2]netip.Addr{numbered("10.96.0.0", i), numbered("fd00:96::", i)}
}

func backendOf(i int) [2]netip.Addr {
	return [2]netip.Addr{numbered("11.0.0.0", i), numbered("fd00:11::", i)}
}

// numbered is the i-th address after one: the last three bytes hold the number.
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
