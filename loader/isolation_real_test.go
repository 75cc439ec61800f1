package loader

import (
	"errors"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
)

// container returns an interface with an endpoint of the given labels.
func (n *node) container(i int, labels map[string]string) Interface {
	n.t.Helper()
	c := n.veth(i)
	c.Endpoint = registry.Endpoint{
		EndpointID: registry.EndpointID{Node: "n1", ContainerID: c.Name, Interface: "eth0"},
		Name:       registry.Name{Namespace: "shop", Name: c.Name}, Network: "blue", Labels: labels,
	}
	return c
}

// registered returns the change that the registry tells of a container.
func registered(i Interface) registry.Change {
	e := i.Endpoint
	e.Addresses = i.Addrs
	return registry.Change{Endpoint: &e}
}

// onlyFrom returns a policy that lets app=to receive from app=from, and from a block with a hole in it, on
// TCP 80 to 90.
func onlyFrom(name, to, from string) *registry.Policy {
	app := func(v string) registry.Selector { return registry.Selector{MatchLabels: map[string]string{"app": v}} }
	return &registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: "shop", Name: name}},
		Subject:  registry.PodSelector{Pods: app(to)}, Isolates: []registry.Direction{registry.Ingress},
		Ingress: []registry.Rule{{
			Action: registry.Allow,
			Peers: []registry.Peer{
				{Pods: &registry.PodSelector{Pods: app(from)}},
				{Block: &registry.IPBlock{
					CIDR:   netip.MustParsePrefix("192.0.2.0/24"),
					Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")},
				}},
			},
			Ports: []registry.PolicyPort{{Protocol: registry.TCP, Port: 80, EndPort: 90}},
		}},
	}
}

func policyUpdate(revision int64, snapshot bool, changes ...registry.Change) registry.Update {
	return registry.Update{Revision: revision, Snapshot: snapshot, Isolation: changes}
}

// dumpAll reads the hashes of isolation as they are in the kernel.
func dumpAll(t *testing.T, l *Loader) isolationDump {
	t.Helper()
	d, err := l.dumpIsolation(nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (o Options) isolated() Options {
	o.Node = "n1"
	o.Sizes.Endpoints = 64
	return o
}

// TestIsolationRestart: a successor finds the policies of its predecessor in the maps, keeps them until it
// knows better, and then writes only what is different.
func TestIsolationRestart(t *testing.T) {
	n := newNode(t)
	o := n.options().isolated()
	l := n.open(o)
	web, db := n.container(1, map[string]string{"app": "web"}), n.container(2, map[string]string{"app": "db"})
	all := []registry.Change{registered(web), registered(db), {Policy: onlyFrom("db", "db", "web")}}
	mustSync(t, l, policyUpdate(1, true, all...))
	for _, i := range []Interface{web, db} {
		if err := l.Attach(i); err != nil {
			t.Fatal(err)
		}
	}
	mustBeClean(t, l)
	before := dumpAll(t, l)
	if len(before.policy) < 2 || len(before.prefixes) < 3 {
		t.Fatalf("%d entries of policy, %d prefixes", len(before.policy), len(before.prefixes))
	}
	l.Close()

	l = n.open(o)
	if now := dumpAll(t, l); !maps.Equal(now.numbers, before.numbers) || !maps.Equal(now.policy, before.policy) ||
		!maps.Equal(now.prefixes, before.prefixes) {
		t.Error("what a predecessor left was changed before the first snapshot")
	}
	mustSync(t, l, policyUpdate(1, true, all...))
	mustBeClean(t, l)
	if now := dumpAll(t, l); !maps.Equal(now.numbers, before.numbers) || !maps.Equal(now.policy, before.policy) {
		t.Error("numbers or entries did not survive the restart")
	}
	for _, i := range []Interface{web, db} {
		if err := l.VerifyInterface(i); err != nil {
			t.Error(err)
		}
	}
	l.Close()

	// While nobody was there, the policy went.
	l = n.open(o)
	mustSync(t, l, policyUpdate(2, true, all[:2]...))
	mustBeClean(t, l)
	for name, w := range l.endpoints.byName {
		for _, a := range w.Addrs {
			if v := l.policy.subject(l.isolation.tagOf(a).identity); v != (subject{}) {
				t.Errorf("%s is judged by rulesets %v without a policy", name, v)
			}
		}
	}
	if err := l.Isolated(); err != nil {
		t.Error(err)
	}
	if err := l.DetachInterface(web.Name); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, l)
}

// TestIsolationBlockOfOne: a block that is just a container's address is right beside the container.
func TestIsolationBlockOfOne(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options().isolated())
	web, db := n.container(1, map[string]string{"app": "web"}), n.container(2, map[string]string{"app": "db"})
	for _, i := range []Interface{web, db} {
		if err := l.Attach(i); err != nil {
			t.Fatal(err)
		}
	}
	p := onlyFrom("db", "db", "web")
	for _, a := range web.Addrs {
		block := registry.IPBlock{CIDR: netip.PrefixFrom(a, a.BitLen())}
		p.Ingress[0].Peers = append(p.Ingress[0].Peers, registry.Peer{Block: &block})
	}
	mustSync(t, l, policyUpdate(1, true, registered(web), registered(db), registry.Change{Policy: p}))
	mustBeClean(t, l)
	if err := l.DetachInterface(web.Name); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, policyUpdate(2, true, registered(db), registry.Change{Policy: p}))
	mustBeClean(t, l)
}

// TestIsolationRealMapFull: a kernel's map that is full closes what it has no room for.
func TestIsolationRealMapFull(t *testing.T) {
	for name, shrink := range map[string]func(*Sizes){
		"policy":   func(s *Sizes) { s.PolicyEntries = 2 },
		"prefixes": func(s *Sizes) { s.Prefixes = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			o := n.options().isolated()
			shrink(&o.Sizes)
			l := n.open(o)
			web, db := n.container(1, map[string]string{"app": "web"}), n.container(2, map[string]string{"app": "db"})
			p, q := onlyFrom("db", "db", "web"), onlyFrom("web", "web", "db")
			err := l.Sync(policyUpdate(1, true, registered(web), registered(db),
				registry.Change{Policy: p}, registry.Change{Policy: q}))
			for _, i := range []Interface{web, db} {
				if err := l.Attach(i); err != nil {
					t.Fatal(err)
				}
			}
			if err == nil {
				err = l.Isolated()
			}
			if !errors.Is(err, ErrFull) || !errors.Is(l.Isolated(), ErrFull) || !errors.Is(l.Complete(), ErrFull) {
				t.Fatalf("full map: sync says %v, status %v", err, l.Isolated())
			}
			if l.closedIdentities() == 0 {
				t.Error("nothing is closed")
			}
			ingress := func(i Interface) uint32 {
				return l.policy.subject(l.isolation.tagOf(i.Addrs[0]).identity).Ingress
			}
			if ingress(db) != rulesetClosed && ingress(web) != rulesetClosed {
				t.Errorf("ingress of db is ruleset %d, of web %d", ingress(db), ingress(web))
			}
			if diffs, err := l.Check(); err != nil || len(diffs) == 0 {
				t.Errorf("check finds %v, %v", diffs, err)
			}
			mustSync(t, l, policyUpdate(2, false, registry.Change{Policy: p, Deleted: true},
				registry.Change{Policy: q, Deleted: true}))
			mustBeClean(t, l)
			if err := l.Isolated(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestIsolationUpgrade: endpoints that were written before there were identities get theirs.
func TestIsolationUpgrade(t *testing.T) {
	n := newNode(t)
	o := n.options().isolated()
	l := n.open(o)
	db := n.container(1, map[string]string{"app": "db"})
	if err := l.Attach(db); err != nil {
		t.Fatal(err)
	}
	for _, a := range db.Addrs {
		key := toAddress(a)
		var e endpoint
		if err := l.maps.get(sockMapEndpoints).Lookup(&key, &e); err != nil {
			t.Fatal(err)
		}
		e.Identity, e.Network = 0, 0
		if err := l.maps.get(sockMapEndpoints).Put(&key, &e); err != nil {
			t.Fatal(err)
		}
	}
	for k := range dumpAll(t, l).numbers {
		if err := l.maps.get(sockMapNumbers).Delete(&k); err != nil {
			t.Fatal(err)
		}
	}
	epoch := l.epochs.load32(l.endpoints.byName[db.Name].id, 0)
	l.Close()
	l = n.open(o)
	mustSync(t, l, policyUpdate(1, true, registered(db), registry.Change{Policy: onlyFrom("db", "db", "web")}))
	mustBeClean(t, l)
	for _, a := range db.Addrs {
		v := l.isolation.tagOf(a)
		if v.identity < identityFirst || v.network == 0 || l.policy.subject(v.identity).Ingress < rulesetFirst {
			t.Errorf("%s has identity %d of network %d", a, v.identity, v.network)
		}
	}
	if l.epochs.load32(l.endpoints.byName[db.Name].id, 0) == epoch {
		t.Error("flows from before are not judged")
	}
}

// TestIsolationNames: what the maps call by numbers has names.
func TestIsolationNames(t *testing.T) {
	n := newNode(t)
	o := n.options().isolated()
	o.grace = time.Minute
	l := n.open(o)
	db := n.container(1, map[string]string{"app": "db"})
	p := onlyFrom("db", "db", "web")
	mustSync(t, l, policyUpdate(1, true, registered(db), registry.Change{Policy: p}))
	if err := l.Attach(db); err != nil {
		t.Fatal(err)
	}
	number := l.isolation.tagOf(db.Addrs[0]).identity
	identity, known := l.IdentityName(number)
	if !known || identity.Workload == nil || identity.Workload.Labels["app"] != "db" {
		t.Errorf("identity %d is %+v", number, identity)
	}
	if _, known := l.IdentityName(63); known {
		t.Error("identity 63 has a name")
	}
	c := contentReader{l.isolation.rulesets, &l.policy.isolationMemory, l.isolation.rulesets.policies}
	out, _, err := c.read(l.policy.subject(number).Ingress)
	if err != nil {
		t.Fatal(err)
	}
	if id, known := l.PolicyName(out.other.Policy); !known || id != p.PolicyID {
		t.Errorf("policy %d is %v", out.other.Policy, id)
	}
	if reasons := l.Explain(number, registry.Ingress, identityWorld, 6, 80); len(reasons) != 1 || reasons[0].Policy != p.PolicyID {
		t.Errorf("the world is kept out by %+v", reasons)
	}
	id := l.endpoints.byName[db.Name].id
	if e, known := l.EndpointOf(id); !known || e.EndpointID != db.Endpoint.EndpointID {
		t.Errorf("endpoint %d is %+v", id, e)
	}
	for _, on := range []bool{true, false} {
		if err := l.SetWatched(id, on); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, l)
		var e endpoint
		key := toAddress(db.Addrs[0])
		if err := l.maps.get(sockMapEndpoints).Lookup(&key, &e); err != nil || (e.Flags == endpointWatched) != on {
			t.Errorf("flags %d, %v; watched is to be %t", e.Flags, err, on)
		}
	}
	if err := l.SetWatched(31, true); err == nil {
		t.Error("watched an endpoint that is not there")
	}
}

// TestIsolationUnsound: what contradicts itself is closed at once, and written anew with the first
// snapshot.
func TestIsolationUnsound(t *testing.T) {
	for name, spoil := range map[string]func(l *Loader, number uint32) error{
		"ruleset beyond the map": func(l *Loader, number uint32) error {
			l.policy.setSubject(number, directionIngress, 1<<20)
			return nil
		},
		"node beyond the map": func(l *Loader, number uint32) error {
			r := (*rulesetEntry)(l.policy.rulesets.at(l.policy.subject(number).Ingress, 0))
			r.Udp = 1 << 20
			return nil
		},
		"outcome of no policy": func(l *Loader, number uint32) error {
			r := (*rulesetEntry)(l.policy.rulesets.at(l.policy.subject(number).Ingress, 0))
			(*outcome)(l.policy.outcomes.at(r.Other&^leaf, 0)).Policy = 60
			return nil
		},
		"numbers used twice": func(l *Loader, number uint32) error {
			return l.maps.get(sockMapNumbers).Put(&numberKey{}, &numberEntry{Number: number, Kind: numberIdentity})
		},
		"policy of nobody": func(l *Loader, number uint32) error {
			return l.maps.get(sockMapPolicy).Put(&policyKey{Subject: 50, Peer: number}, &policyEntry{Ruleset: 2})
		},
		"prefix of nobody": func(l *Loader, number uint32) error {
			key := toPrefixKey(netip.MustParsePrefix("198.51.100.0/24"))
			return l.maps.get(sockMapPrefixes).Put(&key, &prefixEntry{Identity: 50})
		},
		"endpoint of nobody": func(l *Loader, number uint32) error {
			key := toAddress(netip.MustParseAddr("10.244.1.1"))
			var e endpoint
			if err := l.maps.get(sockMapEndpoints).Lookup(&key, &e); err != nil {
				return err
			}
			e.Identity = 50
			return l.maps.get(sockMapEndpoints).Update(&key, &e, ebpf.UpdateExist)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			o := n.options().isolated()
			l := n.open(o)
			db := n.container(1, map[string]string{"app": "db"})
			all := []registry.Change{registered(db), {Policy: onlyFrom("db", "db", "web")}}
			mustSync(t, l, policyUpdate(1, true, all...))
			if err := l.Attach(db); err != nil {
				t.Fatal(err)
			}
			if err := spoil(l, l.isolation.tagOf(db.Addrs[0]).identity); err != nil {
				t.Fatal(err)
			}
			if diffs, err := l.Check(); err != nil || len(diffs) == 0 {
				t.Errorf("check finds %v, %v", diffs, err)
			}
			l.Close()
			l = n.open(o)
			for _, a := range db.Addrs {
				id := l.isolation.tagOf(a).identity
				if v := l.policy.subject(id); id != identityClosed && v.Ingress == rulesetOpen {
					t.Errorf("%s: ingress of identity %d is open", a, id)
				}
			}
			mustSync(t, l, policyUpdate(1, true, all...))
			mustBeClean(t, l)
		})
	}
}

// TestIsolationGeneration: a change of verdicts raises the generation that programs read, nothing else does,
// and a successor goes on from there.
func TestIsolationGeneration(t *testing.T) {
	n := newNode(t)
	o := n.options().isolated()
	l := n.open(o)
	generation := func() uint32 {
		var s settings
		if err := l.maps.get(sockMapSettings).Lookup(uint32(0), &s); err != nil {
			t.Fatal(err)
		}
		return s.Generation
	}
	db := n.container(1, map[string]string{"app": "db"})
	all := []registry.Change{registered(db), {Policy: onlyFrom("db", "db", "web")}}
	mustSync(t, l, policyUpdate(1, true, all[0]))
	if err := l.Attach(db); err != nil {
		t.Fatal(err)
	}
	before := generation()
	mustSync(t, l, policyUpdate(2, false, all[1]))
	after := generation()
	if after == before {
		t.Errorf("generation %d after a change of verdicts, too", after)
	}
	mustSync(t, l, policyUpdate(3, false))
	l.Close()
	l = n.open(o)
	if now := generation(); now != after {
		t.Errorf("generation %d before the first snapshot, %d before the restart", now, after)
	}
	mustSync(t, l, policyUpdate(3, true, all...))
	mustBeClean(t, l)
}
