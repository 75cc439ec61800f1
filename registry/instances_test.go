package registry

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// checkInstances compares what readers are told of instances, and of all that stands behind services, with the model.
func checkInstances(t *testing.T, c *Catalog, m model) {
	t.Helper()
	told := map[InstanceID]bool{}
	for _, i := range c.Instances() {
		told[i.InstanceID] = true
		one, ok := c.Instance(i.InstanceID)
		if !ok || !reflect.DeepEqual(one, i) || !reflect.DeepEqual(*i.Instance, m.instances[i.InstanceID]) {
			t.Fatalf("%s is %+v in the list, %+v alone (%t), want %+v", i.InstanceID, i, one, ok, m.instances[i.InstanceID])
		}
		health, failing := m.health[i.InstanceID]
		if want := i.Lease > 0 && !m.leases[i.InstanceID]; i.Lapsed != want || (i.Health != nil) != failing {
			t.Fatalf("%s has lapsed: %t, fails: %v; want %t, %t", i.InstanceID, i.Lapsed, i.Health, want, failing)
		}
		if failing && *i.Health != health {
			t.Fatalf("%s fails because %+v, want %+v", i.InstanceID, *i.Health, health)
		}
	}
	if len(told) != len(m.instances) {
		t.Fatalf("%d instances, want %d", len(told), len(m.instances))
	}
	for n, s := range m.services {
		of := 0
		for _, i := range c.InstancesOf(n) {
			if of++; i.ServiceName() != n {
				t.Fatalf("%s is told as an instance of %s", i.InstanceID, n)
			}
		}
		want := m.backing(s)
		if got := showBacking(c.Backing(n)); got != showBacking(want) {
			t.Fatalf("behind %s stand\n%swant\n%s", n, got, showBacking(want))
		}
		for _, b := range want {
			if b.Instance != nil {
				of--
			}
		}
		if of != 0 {
			t.Fatalf("%s has %d instances too many", n, of)
		}
	}
}

// showBacking writes a line for each, in an order that does not depend on theirs.
func showBacking(list []Backing) string {
	var lines []string
	for _, b := range list {
		id := ""
		if b.Instance != nil {
			id = b.Instance.String()
		}
		b.Instance = nil
		lines = append(lines, fmt.Sprintf("%s %+v\n", id, b))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// backing returns all that stand behind a service: one for each container, entry and instance.
func (m model) backing(s Service) (list []Backing) {
	add := func(b Backing, addrs []netip.Addr, port func(ServicePort) uint16) {
		if b.Zone == "" {
			b.Zone = m.nodes[b.Node].Zone
		}
		for _, four := range []bool{true, false} {
			for _, a := range addrs {
				if a.Is4() == four {
					b.Addresses = append(b.Addresses, a)
				}
			}
		}
		for _, p := range s.Ports {
			if n := port(p); n != 0 {
				b.Ports = append(b.Ports, EndpointPort{p.Name, p.Protocol, n})
			}
		}
		list = append(list, b)
	}
	for _, e := range m.endpoints {
		if !m.selected(s, e) {
			continue
		}
		ready := s.PublishNotReady || !e.Unready && !e.Terminating
		b := Backing{Host: e.Name.Name, Node: e.Node, Ready: ready, Draining: !ready && !e.Unready, Weight: 1}
		if w, err := ParseWeight(e.Labels[WeightLabel]); err == nil {
			b.Weight = w
		}
		add(b, e.Addresses, func(p ServicePort) uint16 {
			if p.TargetName != "" {
				return numbered(e.Ports, p.TargetName, p.Protocol)
			}
			return p.TargetPort
		})
	}
	for _, sl := range m.slices {
		for _, e := range sl.Endpoints {
			if sl.Namespace != s.Namespace || sl.Service != s.Name.Name {
				continue
			}
			ready := e.Ready
			b := Backing{
				Host: e.Hostname, Node: e.Node, Zone: e.Zone, Ready: ready, Draining: !ready && e.Serving && e.Terminating, Weight: 1,
			}
			if e.Weight != nil {
				b.Weight = *e.Weight
			}
			add(b, e.Addresses[:1], func(p ServicePort) uint16 { return numbered(sl.Ports, p.Name, p.Protocol) })
		}
	}
	for _, i := range m.instances {
		if i.Namespace != s.Namespace || i.Service != s.Name.Name {
			continue
		}
		_, failing := m.health[i.InstanceID]
		ready := s.PublishNotReady || i.Effective() == InstanceUp && !failing
		b := Backing{
			Host: i.Host, Node: i.Node, Zone: i.Zone, Ready: ready, Weight: 1, Instance: &i.InstanceID,
			Draining: !ready && i.Effective() == InstanceDraining && !failing,
		}
		if i.Weight != nil {
			b.Weight = *i.Weight
		}
		addrs := slices.DeleteFunc(slices.Clone(i.Addresses), nobodys)
		add(b, addrs, func(p ServicePort) uint16 { return instancePort(i, p) })
	}
	return list
}

// TestInstancePorts: which port of an instance a service's port leads to, rule by rule.
func TestInstancePorts(t *testing.T) {
	ports := []EndpointPort{{"dns", UDP, 53}, {"http", TCP, 8080}, {"admin", TCP, 8081}}
	for _, c := range []struct {
		name  string
		ports []EndpointPort
		port  ServicePort
		want  uint16
	}{
		{"by the target's name", ports, ServicePort{Name: "http", Port: 80, TargetName: "admin"}, 8081},
		{"by the port's name", ports, ServicePort{Name: "admin", Port: 80, TargetPort: 80}, 8081},
		{"by the port's name where the target's is unknown", ports, ServicePort{Name: "admin", Port: 80, TargetName: "web"}, 8081},
		{"of the service's choice", ports, ServicePort{Name: "web", Port: 80, TargetPort: 9000}, 9000},
		{"the instance's first", ports, ServicePort{Name: "web", Port: 80, TargetPort: 80}, 8080},
		{"the instance's first, of a name that it has not", ports, ServicePort{Port: 80, TargetName: "web"}, 8080},
		{"the instance's only", ports[:1], ServicePort{Port: 5353, Protocol: UDP}, 53},
		{"without ports, the service's", nil, ServicePort{Port: 80, TargetPort: 80}, 80},
		{"without ports and a number", nil, ServicePort{Port: 80, TargetName: "web"}, 0},
		{"of another protocol", ports[:1], ServicePort{Name: "dns", Port: 53, TargetPort: 53, Protocol: TCP}, 53},
		{"no name is no match", []EndpointPort{{"", TCP, 9090}}, ServicePort{Port: 80, TargetPort: 8080}, 8080},
	} {
		if c.port.Protocol == 0 {
			c.port.Protocol = TCP
		}
		i := Instance{Ports: c.ports}
		if got := i.target(&c.port); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestLapsedInstanceStays: what a lapsed lease says is told, and changes no backend.
func TestLapsedInstanceStays(t *testing.T) {
	id := InstanceID{"x", "web", "1"}
	c := NewCatalog("")
	u := c.Apply(Batch{Revision: 1, Snapshot: true, Changes: []Change{
		{Lease: &InstanceLease{id}},
		{Instance: &Instance{
			InstanceID: id, Status: InstanceUp, Lease: 30, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")},
			Ports: []EndpointPort{{"http", TCP, 8080}},
		}},
		{Service: &Service{
			Name: id.ServiceName(), VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
			Ports: []ServicePort{{Name: "http", Protocol: TCP, Port: 80, TargetName: "http"}},
		}},
	}})
	if len(u.Set) != 1 || len(u.Set[0].Backends) != 1 || u.Set[0].Backends[0].String() != "192.0.2.7:8080" {
		t.Fatalf("update %+v, want the instance to be a backend", u)
	}
	u = c.Apply(Batch{Revision: 2, Changes: []Change{{Lease: &InstanceLease{id}, Deleted: true}}})
	if i, ok := c.Instance(id); len(u.Set) != 0 || !ok || !i.Lapsed {
		t.Errorf("update %+v, instance %+v", u, i)
	}
	u = c.Apply(Batch{Revision: 3, Changes: []Change{{Instance: &Instance{InstanceID: id}, Deleted: true}}})
	if _, ok := c.Instance(id); len(u.Set) != 1 || len(u.Set[0].Backends) != 0 || ok {
		t.Errorf("update %+v, want no backend", u)
	}
}

// BenchmarkCatalogInstance changes the health of one of many instances of a service.
func BenchmarkCatalogInstance(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint("of ", n), func(b *testing.B) {
			c := NewCatalog("n1")
			batch := Batch{Revision: 1, Snapshot: true}
			r := rand.New(rand.NewPCG(1, 1))
			for i := range n {
				// Services of ten: the work is in proportion to the service that is touched.
				id := InstanceID{"x", fmt.Sprint("s", i/10), fmt.Sprint("i", i)}
				batch.Changes = append(batch.Changes, Change{Instance: &Instance{
					InstanceID: id, Status: InstanceUp, Ports: []EndpointPort{{"http", TCP, 8080}},
					Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
				}})
				if i%10 == 0 {
					batch.Changes = append(batch.Changes, Change{Service: &Service{
						Name: id.ServiceName(), VIPs: []netip.Addr{netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})},
						Ports: []ServicePort{{Name: "http", Protocol: TCP, Port: 80, TargetName: "http"}},
					}})
				}
			}
			c.Apply(batch)
			id := InstanceID{"x", fmt.Sprint("s", r.IntN(n/10)), ""}
			id.ID = c.InstancesOf(id.ServiceName())[0].ID
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				u := c.Apply(Batch{Changes: []Change{{Health: &InstanceHealth{InstanceID: id}, Deleted: i%2 == 1}}})
				if len(u.Set) != 1 {
					b.Fatalf("%d frontends", len(u.Set))
				}
			}
		})
	}
}
