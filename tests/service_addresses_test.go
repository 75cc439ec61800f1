package tests

import (
	"fmt"
	"net/netip"
)

// ways from the node itself, whose processes only socket hooks serve.
func (s *scene) fromNode() []way {
	var ways []way
	for _, w := range s.ways {
		if !w.tc {
			w.from = "node"
			ways = append(ways, w)
		}
	}
	return ways
}

// reachShared wants a service at a port of an address that is someone else's at the others.
func (s *scene) reachShared(ways []way, port uint16, owner string, addrs ...netip.Addr) {
	s.Helper()
	for _, w := range ways {
		addr := w.pick(addrs...)
		s.reach(w, netip.AddrPortFrom(addr, port), "a", "b")
		s.reach(w, netip.AddrPortFrom(addr, 8080), owner)
		s.reach(w, netip.AddrPortFrom(addr, 8081), owner+":8081")
	}
}

// addressRows are about a service's other addresses.
var addressRows = []row{
	{says: "an external IP is the service's at its ports, and its owner's at the others", show: func(s *scene) {
		world := s.find("world")
		s.must(s.apply(s.service("web", fmt.Sprintf("externalIPs: [%q, %q]", world.V4, world.V6)), s.slices("web", "a", "b")))
		s.reachShared(append(s.fromNode(), s.ways...), 80, "world", world.V4, world.V6)
		s.must(s.apply(s.service("web", ""))) // it is no external IP any more
		s.each(func(w way) {
			if w.net != "sctp" { // whose ports nobody refuses there
				s.refused(w, netip.AddrPortFrom(w.pick(world.V4, world.V6), 80))
			}
		})
	}},
	{says: "a load balancer's IP is the service's at its ports, and its owner's at the others", show: func(s *scene) {
		world := s.find("world")
		s.must(s.apply(s.service("web", "type: LoadBalancer, "+otherPort)+
			fmt.Sprintf("status: {loadBalancer: {ingress: [{ip: %q}, {ip: %q}]}}\n", world.V4, world.V6), s.slices("web", "a", "b")))
		s.reachShared(append(s.fromNode(), s.ways...), 90, "world", world.V4, world.V6)
	}},
	{says: "a node port is the service's at each address of the node, and the other ports are the node's", show: func(s *scene) {
		s.must(s.apply(s.service("web", "type: NodePort, ports: [{name: tcp, port: 80, nodePort: 30080}, "+
			"{name: udp, port: 80, nodePort: 30080, protocol: UDP}, {name: sctp, port: 80, nodePort: 30080, protocol: SCTP}]"),
			s.slices("web", "a", "b")))
		s.reachShared(append(s.fromNode(), s.ways...), 30080, "node", nodeAddrs...)
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a", "b") })
	}},
	{says: "a node port that is not given is chosen", show: func(s *scene) {
		s.must(s.apply(s.service("web", "type: NodePort"), s.slices("web", "a", "b")))
		for _, p := range s.get("web").Ports {
			if p.NodePort < 30000 || p.NodePort > 32767 {
				s.Errorf("port %s has node port %d", p.Name, p.NodePort)
			}
			for _, w := range append(s.fromNode(), s.ways...) {
				if w.net == p.Name {
					s.reach(w, netip.AddrPortFrom(w.pick(nodeAddrs...), p.NodePort), "a", "b")
				}
			}
		}
	}},
	{says: "node port, external IP and load balancer's IP reach all backends, also with internalTrafficPolicy Local", show: func(s *scene) {
		s.must(s.apply(s.service("web", "type: NodePort, internalTrafficPolicy: Local, externalTrafficPolicy: Local"),
			s.slices("web", "a node=n2", "b node=n3")))
		ports := map[string]uint16{}
		for _, p := range s.get("web").Ports {
			ports[p.Name] = p.NodePort
		}
		s.each(func(w way) {
			s.refused(w, s.vip(w, "web"))
			s.spread(w, netip.AddrPortFrom(w.pick(nodeAddrs...), ports[w.net]), "a", "b")
		})
	}},
	{says: "the node's own processes reach VIPs", nets: "tcp udp", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a", "b"), s.service("none", "")))
		for _, w := range s.fromNode() {
			s.spread(w, s.vip(w, "web"), "a", "b")
			s.refused(w, s.vip(w, "none"))
		}
	}},
}

const otherPort = "ports: [" +
	"{name: tcp, port: 90, targetPort: 8080}, " +
	"{name: udp, port: 90, targetPort: 8080, protocol: UDP}, " +
	"{name: sctp, port: 90, targetPort: 8080, protocol: SCTP}]"

// nodeAddrs are those of the test node.
var nodeAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
