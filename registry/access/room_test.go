package access

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// TestRoom: without a token a container gets so many instances and so many services; others have room still.
func TestRoom(t *testing.T) {
	at, services := map[netip.Addr]int{}, map[registry.Name]bool{}
	g := newGuard(t)
	g.Room = &Room{
		Instances: 2, Services: 3,
		Registered: func(a netip.Addr) int { return at[a] },
		Exists:     func(n registry.Name) bool { return services[n] },
	}
	add := func(from, secret, service, addr string) error {
		r := request{from: from}
		if secret != "" {
			r.header = bearer(secret)
		}
		i := &registry.Instance{Addresses: addrs(addr)}
		i.Namespace, i.Service, i.ID = "default", service, "x"
		return g.Caller(r.make()).MayAdd(i)
	}
	const container, other, node = "10.244.1.2:1", "[fd00::2]:1", "127.0.0.1:1"
	for n := range 3 {
		if err := add(container, "", fmt.Sprint("s", n), "10.244.1.2"); err != nil {
			t.Errorf("service %d: %v", n, err)
		}
	}
	for _, from := range []string{container, other} { // one owner
		if err := add(from, "", "s3", "10.244.1.2"); !errors.Is(err, registry.ErrFull) || !strings.Contains(err.Error(), "default/s3") {
			t.Errorf("from %s, a service too many: %v", from, err)
		}
	}
	services[registry.Name{Namespace: "default", Name: "s3"}] = true
	for _, c := range []struct{ from, secret, service string }{
		{container, "", "s3"}, {container, secretInstances, "s4"}, {node, "", "s4"},
	} {
		if err := add(c.from, c.secret, c.service, "10.244.1.2"); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}

	at[addrs("10.244.1.2")[0]], at[addrs("127.0.0.1")[0]] = 2, 2
	if err := add(container, "", "s3", "::ffff:10.244.1.2"); !errors.Is(err, registry.ErrFull) || !strings.Contains(err.Error(), "has 2 instances") {
		t.Errorf("an instance too many: %v", err)
	}
	if err := add(container, secretInstances, "s3", "10.244.1.2"); err != nil {
		t.Errorf("with a token: %v", err)
	}
	if err := add(node, "", "s3", "127.0.0.1"); err != nil {
		t.Errorf("the node: %v", err)
	}
	at[addrs("127.0.0.1")[0]] = 2 * nodeShare
	if err := add(node, "", "s3", "127.0.0.1"); !errors.Is(err, registry.ErrFull) {
		t.Errorf("the node, an instance too many: %v", err)
	}
}

// TestRoomForgets: those who have made no service for long take no memory.
func TestRoomForgets(t *testing.T) {
	r := &Room{Exists: func(registry.Name) bool { return false }}
	i := &registry.Instance{}
	spent := netip.MustParseAddr("10.0.0.0")
	if err := r.add([]netip.Addr{spent}, i); err != nil {
		t.Fatal(err)
	}
	a := spent
	for range 2 * maxClients {
		a = a.Next()
		r.maker(a, 1)
	}
	if n := len(r.makes); n > maxClients {
		t.Errorf("%d are remembered", n)
	}
	if r.makes[spent] == nil {
		t.Error("one that has made a service is forgotten")
	}
}
