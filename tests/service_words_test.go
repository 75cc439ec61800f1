package tests

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// allPorts are three of every protocol, each to another of the backends'.
const allPorts = "ports: [" +
	"{name: tcp-1, port: 80, targetPort: 8080}, {name: tcp-2, port: 81, targetPort: 8081}, " +
	"{name: udp-1, port: 80, targetPort: 8080, protocol: UDP}, {name: udp-2, port: 81, targetPort: 8081, protocol: UDP}, " +
	"{name: sctp-1, port: 80, targetPort: 8080, protocol: SCTP}, {name: sctp-2, port: 81, targetPort: 8081, protocol: SCTP}]"

// wordRows are about what a Service says of its ports, families and backends.
var wordRows = []row{
	{says: "several ports each have a target, and what is no port is refused", show: func(s *scene) {
		s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}, "+allPorts)))
		s.each(func(w way) {
			s.reach(w, s.vip(w, "web", 80), "x")
			s.reach(w, s.vip(w, "web", 81), "x:8081")
			s.refused(w, s.vip(w, "web", 82))
		})
	}},
	{says: "one number serves TCP, UDP and SCTP, each with a target of its own", show: func(s *scene) {
		s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("dns", "selector: {app: x}, ports: [{name: tcp, port: 53, targetPort: 8080}, "+
			"{name: udp, port: 53, targetPort: 8081, protocol: UDP}, {name: sctp, port: 53, targetPort: 8082, protocol: SCTP}]")))
		s.each(func(w way) {
			s.reach(w, s.vip(w, "dns", 53), map[string]string{"tcp": "x", "udp": "x:8081", "sctp": "x:8082"}[w.net])
		})
	}},
	{says: "a port that one protocol serves is refused to the others", show: func(s *scene) {
		s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		for _, network := range []string{"tcp", "udp", "sctp"} {
			s.must(s.apply(s.service(network, "selector: {app: x}, "+
				"ports: [{port: 80, targetPort: 8080, protocol: "+strings.ToUpper(network)+"}]")))
		}
		s.each(func(w way) {
			for _, network := range []string{"tcp", "udp", "sctp"} {
				if network == w.net {
					s.reach(w, s.vip(w, network), "x")
				} else {
					s.refused(w, s.vip(w, network))
				}
			}
		})
	}},
	{says: "a target by name is the number that each backend has for it", show: func(s *scene) {
		for name, port := range map[string]uint16{"x": 8080, "y": 8081} {
			var named []registry.EndpointPort
			for _, proto := range []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP} {
				named = append(named, registry.EndpointPort{Name: "by-" + strings.ToLower(proto.String()), Protocol: proto, Port: port})
			}
			s.container(name, nstest.Spec{Labels: map[string]string{"app": "x"}, Ports: named})
		}
		s.container("nameless", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}, ports: [{name: tcp, port: 80, targetPort: by-tcp}, "+
			"{name: udp, port: 80, targetPort: by-udp, protocol: UDP}, {name: sctp, port: 80, targetPort: by-sctp, protocol: SCTP}]")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "x", "y:8081") })
	}},
	{says: "a headless service has no VIP, and its backends are reached by their own addresses", show: func(s *scene) {
		s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("web", "selector: {app: x}, clusterIP: None")))
		if svc := s.get("web"); !svc.Headless || len(svc.VIPs) > 0 {
			s.Errorf("headless: %v, VIPs: %v", svc.Headless, svc.VIPs)
		}
		s.each(func(w way) { s.reach(w, s.addr(w, "x"), "x") })
	}},
	{says: "an ExternalName is a name for DNS and has no VIP", show: func(s *scene) {
		s.must(s.apply("apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: " + s.namespace + "}\n" +
			"spec: {type: ExternalName, externalName: db.example.org}\n"))
		if svc := s.get("db"); svc.ExternalName != "db.example.org" || len(svc.VIPs) > 0 {
			s.Errorf("external name: %q, VIPs: %v", svc.ExternalName, svc.VIPs)
		}
	}},
	{says: "families and their policy choose the VIPs, in the order that was asked for", show: func(s *scene) {
		s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		for name, c := range map[string]struct {
			spec string
			want []registry.Family
		}{
			"default":  {"ipFamilyPolicy: SingleStack", []registry.Family{registry.IPv4}},
			"six":      {"ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]", []registry.Family{registry.IPv6}},
			"prefer":   {"ipFamilyPolicy: PreferDualStack", []registry.Family{registry.IPv4, registry.IPv6}},
			"require":  {"ipFamilyPolicy: RequireDualStack", []registry.Family{registry.IPv4, registry.IPv6}},
			"reversed": {"ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4]", []registry.Family{registry.IPv6, registry.IPv4}},
		} {
			s.must(s.apply(s.service(name, "selector: {app: x}, "+c.spec)))
			var got []registry.Family
			for _, vip := range s.get(name).VIPs {
				got = append(got, registry.FamilyOf(vip))
			}
			if !slices.Equal(got, c.want) {
				s.Errorf("%s: VIPs of %v, want %v", name, got, c.want)
			}
			s.each(func(w way) {
				if vip := w.pick(s.get(name).VIPs...); vip.IsValid() {
					s.reach(w, netip.AddrPortFrom(vip, 80), "x")
				}
			})
		}
	}},
	{says: "backends that are not ready get nothing, unless publishNotReadyAddresses", show: func(s *scene) {
		x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.must(s.apply(s.service("ready", "selector: {app: x}"), s.service("early", "selector: {app: x}, publishNotReadyAddresses: true")))
		// A slice says for itself what is ready, whatever its service publishes.
		s.must(s.apply(s.service("listed", "publishNotReadyAddresses: true"), s.slices("listed", "a unready")))
		s.condition(x, "unready")
		s.each(func(w way) {
			s.refused(w, s.vip(w, "ready"))
			s.refused(w, s.vip(w, "listed"))
			s.reach(w, s.vip(w, "early"), "x")
		})
		s.condition(x, "ready")
		s.each(func(w way) { s.reach(w, s.vip(w, "ready"), "x") })
	}},
	{says: "backends may be listed by EndpointSlices instead of a selector", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a", "b port=8081", "c unready")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a:8081", "b:8081") })
	}},
	{says: "a VIP without a backend refuses at once", show: func(s *scene) {
		s.must(s.apply(s.service("none", "selector: {app: nothing}"), s.service("listed", ""), s.slices("listed", "a unready")))
		s.each(func(w way) {
			s.refused(w, s.vip(w, "none"))
			s.refused(w, s.vip(w, "listed"))
		})
	}},
	{says: "an unconnected UDP socket is told that a VIP has no backend", nets: "udp", show: func(s *scene) {
		s.must(s.apply(s.service("none", "")))
		s.each(func(w way) {
			anywhere := w.pick(netip.IPv4Unspecified(), netip.IPv6Unspecified())
			p := s.dialWith(w, report.Act{From: netip.AddrPortFrom(anywhere, 0), Errors: true})
			_, err := p.do(report.Act{Do: report.Send, To: s.vip(w, "none")})
			if err == nil { // a packet's refusal comes as an ICMP error
				var did report.Did
				if did, err = p.do(report.Act{Do: report.Trouble}); err == nil {
					err = unix.Errno(did.ICMP.Errno)
				}
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				s.Errorf("%s: want it refused: %v", w, err)
			}
		})
	}},
	{says: "several services share a VIP when their ports differ", show: func(s *scene) {
		s.must(s.apply(s.service("first", ""), s.slices("first", "a")))
		shared := "clusterIPs: [" + s.get("first").VIPs[0].String() + ", \"" + s.get("first").VIPs[1].String() + "\"]"
		ports := strings.ReplaceAll(everyProtocol, "port: 80,", "port: 81,")
		s.must(s.apply(s.service("second", shared+", "+ports), s.slices("second", "b")))
		s.each(func(w way) {
			s.reach(w, s.vip(w, "first", 80), "a")
			s.reach(w, s.vip(w, "first", 81), "b")
			s.refused(w, s.vip(w, "first", 82))
		})
		if err := s.apply(s.service("third", shared)); err == nil || !strings.Contains(err.Error(), "first") {
			s.Errorf("a third service with the port of the first: %v", err)
		}
		s.must(s.delete("first"))
		s.each(func(w way) {
			s.refused(w, s.vip(w, "second", 80))
			s.reach(w, s.vip(w, "second", 81), "b")
		})
	}},
	{says: "an address that someone has is refused to a service, with the reason", nets: "tcp", show: func(s *scene) {
		for _, held := range []struct{ addr, by string }{
			{s.find("a").V4.String(), "10.244.1.0/24"}, {s.find("a").V6.String(), "fd00:10:244:1::/64"},
			{"10.244.1.250", "10.244.1.0/24"}, {"fd00:10:244:1::fa", "fd00:10:244:1::/64"},
			{"192.0.2.1", "n1"}, {"2001:db8::1", "n1"},
		} {
			for _, field := range []string{"clusterIP: %q, ipFamilyPolicy: SingleStack", "externalIPs: [%q]"} {
				spec := strings.Replace(field, "%q", `"`+held.addr+`"`, 1)
				err := s.apply(s.service("web", "selector: {app: x}, "+spec))
				if err == nil || !strings.Contains(err.Error(), held.addr) || !strings.Contains(err.Error(), held.by) {
					s.Errorf("%s: want it refused for %s: %v", spec, held.by, err)
				}
			}
		}
	}},
}
