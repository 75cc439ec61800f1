package tests

import (
	"fmt"
	"strings"

	"github.com/sluice-net/sluice/tests/nstest"
)

// changeRows are about what a change at run time does, and leaves alone.
var changeRows = []row{
	{says: "changes of a service leave the connections alone that they do not concern", show: func(s *scene) {
		x := s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		y := s.container("y", nstest.Spec{Labels: map[string]string{"app": "x"}})
		ports := func(second int) string {
			return strings.ReplaceAll(allPorts, "port: 81,", fmt.Sprintf("port: %d,", second))
		}
		web := func(spec string) string { return s.service("web", "selector: {app: x}, "+spec) }
		s.must(s.apply(web(ports(81)), s.service("bystander", ""), s.slices("bystander", "a", "b")))
		kept, others := s.hold("web", 2), s.hold("bystander", 2)
		for _, change := range []struct {
			what string
			do   func()
		}{
			{"another port", func() { s.must(s.apply(web(ports(82)))) }},
			{"the port as it was", func() { s.must(s.apply(web(ports(81)))) }},
			{"one protocol less", func() {
				s.must(s.apply(web(strings.Replace(ports(81), "{name: udp-2, port: 81, targetPort: 8081, protocol: UDP}, ", "", 1))))
			}},
			{"another target of the other port", func() { s.must(s.apply(web(strings.ReplaceAll(ports(81), "8081", "8082")))) }},
			{"affinity", func() { s.must(s.apply(web("sessionAffinity: ClientIP, " + ports(81)))) }},
			{"no affinity", func() { s.must(s.apply(web(ports(81)))) }},
			{"an external IP", func() { s.must(s.apply(web("externalIPs: [198.51.100.7], " + ports(81)))) }},
			{"a node port", func() { s.must(s.apply(web("type: NodePort, " + ports(81)))) }},
			{"neither", func() { s.must(s.apply(web(ports(81)))) }},
			{"a label more to select, which both have", func() {
				s.label(x, "tier=front")
				s.label(y, "tier=front")
				s.must(s.apply(s.service("web", "selector: {app: x, tier: front}, "+ports(81))))
			}},
			{"a backend more", func() {
				s.container("z", nstest.Spec{Labels: map[string]string{"app": "x", "tier": "front"}})
			}},
			{"a service more", func() { s.must(s.apply(s.service("another", "selector: {app: x}"))) }},
			{"a service less", func() { s.must(s.delete("another")) }},
		} {
			change.do()
			kept.stay()
			others.stay()
			if s.Failed() {
				s.Fatalf("after the change: %s", change.what)
			}
		}
		s.each(func(w way) { s.spread(w, s.vip(w, "web", 81), "x:8081", "y:8081", "z:8081") })
	}},
	{says: "another port serves where it is now, and refuses where it was", show: func(s *scene) {
		s.must(s.apply(s.service("web", ""), s.slices("web", "a")))
		s.must(s.apply(s.service("web", strings.ReplaceAll(everyProtocol, "port: 80,", "port: 8000,"))))
		s.each(func(w way) {
			s.refused(w, s.vip(w, "web", 80))
			s.reach(w, s.vip(w, "web", 8000), "a")
		})
	}},
	{says: "another VIP serves, the old one is no one's, and a service with the old one is another", show: func(s *scene) {
		s.must(s.apply(s.service("web", `clusterIPs: [10.96.9.1, "fd00:10:96::901"]`), s.slices("web", "a"),
			s.service("bystander", ""), s.slices("bystander", "b")))
		held := s.hold("bystander", 1)
		old := map[way]*peer{}
		s.each(func(w way) { old[w] = s.dial(w, s.vip(w, "web")) })
		s.must(s.delete("web"))
		s.must(s.apply(s.service("web", `clusterIPs: [10.96.9.2, "fd00:10:96::902"]`), s.slices("web", "a")))
		s.must(s.apply(s.service("heir", `clusterIPs: [10.96.9.1, "fd00:10:96::901"]`), s.slices("heir", "b")))
		s.each(func(w way) {
			s.reach(w, s.vip(w, "web"), "a")
			s.reach(w, old[w].to, "b")
			if w.net != "udp" {
				old[w].asks("a")
			}
		})
		held.stay()
	}},
	{says: "a service that selects others sends new connections there", show: func(s *scene) {
		s.container("x", nstest.Spec{Labels: map[string]string{"app": "x"}})
		s.container("y", nstest.Spec{Labels: map[string]string{"app": "y"}})
		s.must(s.apply(s.service("web", "selector: {app: x}")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "x") })
		s.must(s.apply(s.service("web", "selector: {app: y}")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "y") })
	}},
	{says: "connections go on through an agent that is killed and started again", alone: true, show: func(s *scene) {
		s.must(s.apply(s.service("web", "", maglev), s.slices("web", "a", "b draining", "c")))
		held := s.hold("web", 4)
		s.must(s.node.KillAgent())
		held.stay()
		s.each(func(w way) { s.stillSpread(w, held, "a", "c") })
		s.must(s.node.StartAgent(s.Context()))
		held.stay()
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a", "c") })
	}},
}

// stillSpread is spread where no agent says what a VIP is.
func (s *scene) stillSpread(w way, held *connections, names ...string) {
	s.Helper()
	for _, p := range held.peers {
		if p.way == w {
			s.spread(w, p.to, names...)
			return
		}
	}
}
