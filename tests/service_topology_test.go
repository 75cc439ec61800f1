package tests

// topologyRows are about who is chosen by where backends are. The client's node is n1, in zone z1; what
// stands for backends elsewhere are containers here that a slice places elsewhere.
var topologyRows = []row{
	{says: "internalTrafficPolicy Local sends to backends of the client's node only", show: func(s *scene) {
		s.must(s.apply(s.service("web", "internalTrafficPolicy: Local"), s.slices("web", "a node=n1", "b node=n2", "c node=n3")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a") })
	}},
	{says: "internalTrafficPolicy Local refuses where the client's node has no backend", show: func(s *scene) {
		s.must(s.apply(s.service("web", "internalTrafficPolicy: Local"), s.slices("web", "b node=n2", "c node=n3")))
		s.each(func(w way) { s.refused(w, s.vip(w, "web")) })
		s.must(s.apply(s.service("web", "internalTrafficPolicy: Cluster")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "b", "c") })
	}},
	{says: "trafficDistribution PreferSameZone prefers the client's zone, and takes all when that has none", show: func(s *scene) {
		for _, word := range []string{"PreferSameZone", "PreferClose"} {
			s.must(s.apply(s.service("web", "trafficDistribution: "+word),
				s.slices("web", "a node=n1 zone=z1", "b node=n2 zone=z1", "c node=n3 zone=z2")))
			s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a", "b") })
			s.must(s.apply(s.slices("web", "a node=n1 zone=z1 unready", "b node=n2 zone=z3", "c node=n3 zone=z2")))
			s.each(func(w way) { s.spread(w, s.vip(w, "web"), "b", "c") })
		}
	}},
	{says: "trafficDistribution PreferSameNode prefers the client's node, then its zone, then takes all", show: func(s *scene) {
		s.must(s.apply(s.service("web", "trafficDistribution: PreferSameNode"),
			s.slices("web", "a node=n1 zone=z1", "b node=n2 zone=z1", "c node=n3 zone=z2")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a") })
		s.must(s.apply(s.slices("web", "a node=n1 zone=z1 draining", "b node=n2 zone=z1", "c node=n3 zone=z2")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "b") })
		s.must(s.apply(s.slices("web", "a node=n1 zone=z1 unready", "b node=n2 zone=z1 unready", "c node=n3 zone=z2")))
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "c") })
	}},
	{says: "a connection to a backend beyond the preferred ones goes on when a preferred one comes", nets: "tcp sctp", show: func(s *scene) {
		s.must(s.apply(s.service("web", "trafficDistribution: PreferSameZone"), s.slices("web", "c node=n3 zone=z2")))
		held := s.hold("web", 2)
		s.must(s.apply(s.slices("web", "a node=n1 zone=z1", "c node=n3 zone=z2")))
		held.stay()
		s.each(func(w way) { s.spread(w, s.vip(w, "web"), "a") })
	}},
}
