package loader

import (
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// mustKeep fails the test unless the maps say of a container's addresses what they said before.
func mustKeep(t *testing.T, l *Loader, i Interface, before map[netip.Addr]tag) {
	t.Helper()
	for _, a := range i.Addrs {
		var e endpoint
		key := toAddress(a)
		if err := l.maps.get(sockMapEndpoints).Lookup(&key, &e); err != nil {
			t.Fatal(err)
		}
		if got := (tag{e.Identity, e.Network}); got != before[a] || got.identity < identityFirst || got.network == 0 {
			t.Errorf("%s has %+v in map endpoints, want %+v", a, got, before[a])
		}
	}
	mustBeClean(t, l)
}

func tagsOf(l *Loader, i Interface) map[netip.Addr]tag {
	tags := map[netip.Addr]tag{}
	for _, a := range i.Addrs {
		tags[a] = l.isolation.tagOf(a)
	}
	return tags
}

// TestIsolationForeignRecord: a record of another container that names an attached one's addresses changes
// neither its network nor its name; its own record tells its labels.
func TestIsolationForeignRecord(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options().isolated())
	web := n.container(1, map[string]string{"app": "web"})
	if err := l.Attach(web); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, policyUpdate(1, true, registered(web)))
	before := tagsOf(l, web)
	name := func(app string) {
		t.Helper()
		e, known := l.EndpointOf(l.endpoints.byName[web.Name].id)
		if !known || e.EndpointID != web.Endpoint.EndpointID || e.Labels["app"] != app || e.Network != "blue" {
			t.Errorf("the endpoint is %+v, want %s with app=%s", e, web.Endpoint.EndpointID, app)
		}
	}
	stale := registered(web)
	stale.Endpoint.ContainerID, stale.Endpoint.Network = "a-former-one", "red"
	stale.Endpoint.Labels = map[string]string{"app": "former"}
	mustSync(t, l, policyUpdate(2, false, stale))
	mustKeep(t, l, web, before)
	name("web")
	own := registered(web)
	own.Endpoint.Labels = map[string]string{"app": "shop"}
	mustSync(t, l, policyUpdate(3, false, own))
	name("shop")
	before = tagsOf(l, web)
	stale.Deleted = true
	mustSync(t, l, policyUpdate(4, false, stale))
	mustKeep(t, l, web, before)
	name("shop")
}

// TestIsolationNodeClaims: a container keeps its policies when its address is said to be the node's.
func TestIsolationNodeClaims(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options().isolated())
	web := n.container(1, map[string]string{"app": "web"})
	if err := l.Attach(web); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, policyUpdate(1, true, registered(web)))
	before := tagsOf(l, web)
	claim := registry.Change{Node: &registry.Node{Name: "n1", Addresses: web.Addrs}}
	mustSync(t, l, policyUpdate(2, false, claim))
	mustKeep(t, l, web, before)
	if err := l.Complete(); err != nil {
		t.Error(err)
	}
}

// TestIsolationNoIdentity: a container that the compiler gives no identity is closed, and that is told,
// until it has one.
func TestIsolationNoIdentity(t *testing.T) {
	w := wiredWorld(t, 1, isolationSizes())
	a := localAddrs[0]
	key := w.compiler.now.containers[a]
	delete(w.compiler.now.containers, a)
	prune(w.compiler.now)
	if err := w.update(); err == nil || w.s.incomplete() == nil {
		t.Errorf("update says %v, status %v", err, w.s.incomplete())
	}
	if got := w.tags[a]; got != (tag{identity: identityClosed}) {
		t.Errorf("%s has %+v", a, got)
	}
	w.compiler.now.containers[a] = key
	if err := w.update(); err != nil {
		t.Error(err)
	}
	w.mustHold()
}
