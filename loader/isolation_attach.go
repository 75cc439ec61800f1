package loader

import (
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// attach makes ready what a canonical interface's container may send and receive, before it is wired.
// What could not be written is closed; it is tried again.
func (s *isolation) attach(i Interface) {
	e := i.toRegistry(s.node)
	var deltas []policy.Delta
	if old, known := s.holds[i.Name]; known && old != e.EndpointID {
		deltas = append(deltas, s.engine.Detach(old))
	}
	s.holds[i.Name] = e.EndpointID
	for _, a := range i.Addrs {
		s.know(a)
		if s.wired[a] == nil {
			s.wire(a, i.Name)
		}
		due(s.dirtyAddrs, a)
	}
	// Both at once: in between it would be no one.
	s.merge(append(deltas, s.engine.Attach(e))...)
	_ = s.run() // Complete tells what is closed
}

// attachment is what isolation knows of an interface.
type attachment struct {
	held      bool // the compiler was told of it
	addrs     []netip.Addr
	strangers map[netip.Addr]bool // whether they are lost
}

// attachment returns what isolation knows of an interface, for reattach.
func (s *isolation) attachment(name string) attachment {
	_, held := s.holds[name]
	was := attachment{held: held, strangers: map[netip.Addr]bool{}}
	for _, a := range s.wiredTo[name] {
		was.addrs = append(was.addrs, a)
		if _, strange := s.strangers[a]; strange {
			was.strangers[a] = s.wired[a].lost
		}
	}
	return was
}

// reattach undoes attach of a canonical interface that was another one before. After a restart nobody told
// of that here, and what the registry says is to hold, not what the interface alone does.
func (s *isolation) reattach(old, i Interface, was attachment) {
	e, again := i.toRegistry(s.node), old.toRegistry(s.node)
	var deltas []policy.Delta
	if !was.held || e.EndpointID != again.EndpointID {
		deltas = append(deltas, s.engine.Detach(e.EndpointID))
		delete(s.holds, i.Name)
	}
	if was.held {
		deltas = append(deltas, s.engine.Attach(again))
		s.holds[i.Name] = again.EndpointID
	}
	for _, a := range was.addrs {
		w := s.wired[a]
		if w == nil {
			continue
		}
		if lost, strange := was.strangers[a]; strange {
			s.strangers[a], w.lost = i.Name, lost
		}
		due(s.dirtyAddrs, a)
	}
	s.merge(deltas...)
	_ = s.run()
	s.attached(old)
}

// attached notes that a canonical interface's entries are in the maps.
func (s *isolation) attached(i Interface) {
	for _, a := range slices.Clone(s.wiredTo[i.Name]) {
		if !slices.Contains(i.Addrs, a) {
			s.unwire(a)
		}
	}
	again := false
	for _, a := range i.Addrs {
		if !s.wired[a].inMaps { // else they still say what they did, which may be due for a change
			t, id, net, err := s.tagFor(a)
			s.setTag(a, t, id, net)
			delete(s.dirtyAddrs, a)
			if err != nil {
				s.dirtyAddrs[a] = err
			}
		}
		if key := toPrefixKey(hostPrefix(a)); s.prefixes[key] != s.blocks[key] {
			s.touchPrefix(key)
			again = true
		}
	}
	if again {
		_ = s.run()
	}
}

// detach forgets an interface that is no longer wired.
func (s *isolation) detach(i Interface) {
	for _, a := range i.Addrs {
		if w := s.wired[a]; w != nil && w.name == i.Name {
			s.unwire(a)
		}
	}
	if id, known := s.holds[i.Name]; known {
		delete(s.holds, i.Name)
		s.merge(s.engine.Detach(id))
	}
	_ = s.run()
}

// wire notes an address of a container here, which is not in map endpoints yet.
func (s *isolation) wire(a netip.Addr, name string) {
	s.wired[a] = &wiredAddr{name: name}
	s.wiredTo[name] = append(s.wiredTo[name], a)
}

// unwire forgets an address that is in map endpoints no more.
func (s *isolation) unwire(a netip.Addr) {
	net, name := s.wired[a].net, s.wired[a].name
	s.clearTag(a)
	s.dropNetwork(net)
	delete(s.wired, a)
	if s.wiredTo[name] = slices.DeleteFunc(s.wiredTo[name], func(other netip.Addr) bool { return other == a }); len(s.wiredTo[name]) == 0 {
		delete(s.wiredTo, name)
	}
	delete(s.dirtyAddrs, a)
	delete(s.strangers, a)
	s.touchPrefix(toPrefixKey(hostPrefix(a)))
}

// tagOf returns what map endpoints says, or is to say, of an address.
func (s *isolation) tagOf(a netip.Addr) tag {
	w := s.wired[a]
	if w == nil {
		return tag{identity: identityClosed}
	}
	if w.inMaps {
		return w.held
	}
	t, _, _, _ := s.tagFor(a)
	return t
}

// leaving says whether identities wait for their removal.
func (l *Loader) leaving() bool {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	return slices.ContainsFunc(l.isolation.leaving, func(i *identity) bool { return !i.used() })
}

// closedIdentities counts the identities that are closed because something could not be written.
func (l *Loader) closedIdentities() int {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	n, _ := l.isolation.closedIdentities()
	return n
}

// Isolated returns nil when every policy is in the maps, else which containers are closed and why.
func (l *Loader) Isolated() error {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	return l.isolation.incomplete()
}

// IdentityName returns the identity that the maps call by a number.
func (l *Loader) IdentityName(number uint32) (policy.Identity, bool) {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	i := l.isolation.byNumber(number)
	if i == nil || i.info.ID == policy.None {
		return policy.Identity{}, false
	}
	return i.info, true
}

// PolicyName returns the policy that the maps call by a number.
func (l *Loader) PolicyName(number uint32) (registry.PolicyID, bool) {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	id, known := l.isolation.rulesets.names[number]
	return id, known
}

// EndpointOf returns the container that the maps call by an endpoint id, as it is judged: with what the
// registry says of that container, whoever else claims its address there.
func (l *Loader) EndpointOf(id uint32) (registry.Endpoint, bool) {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	w := l.endpoints.byID[id]
	if w == nil {
		return registry.Endpoint{}, false
	}
	return l.isolation.engine.Owner(w.Addrs[0])
}

// ServiceName returns the service, and the name of its port, that the maps call by a service id.
func (l *Loader) ServiceName(id uint32) (name registry.Name, port string, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, known := l.syncer.byID[id]
	r := l.syncer.desired[f]
	return r.Service, r.PortName, known
}

// Explain returns the policies behind the verdict that a subject's identity gives of a peer's, those that
// decide first. The identities are numbers in the maps.
func (l *Loader) Explain(subject uint32, d registry.Direction, peer uint32, proto uint8, port uint16) []policy.Reason {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	s, p := l.isolation.byNumber(subject), l.isolation.byNumber(peer)
	if s == nil || p == nil || s.id == policy.None || p.id == policy.None {
		return nil
	}
	return l.isolation.engine.Explain(s.id, d, p.id, proto, port)
}

// SetWatched makes the programs report the verdict on each new flow of a container, by its endpoint id,
// or no longer.
func (l *Loader) SetWatched(id uint32, on bool) error {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	if l.closed {
		return errClosed
	}
	return l.endpoints.watch(id, on)
}

// byNumber returns the identity that the maps call by a number.
func (s *isolation) byNumber(number uint32) *identity {
	switch number {
	case identityWorld:
		return s.world
	case identityNode:
		return s.self
	case identityClosed:
		return s.closed
	}
	if n := s.identities.byNumber[number]; n != nil {
		return s.byDigest[n.digest]
	}
	return nil
}
