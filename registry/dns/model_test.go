package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluice-net/sluice/registry"
)

// modelZone is that of the random test.
func modelZone() *zone { return &zone{domain: "d.", ttl: 5} }

// dice makes objects of few names, so that they meet.
type dice struct{ *rand.Rand }

func (d dice) of(list ...string) string { return list[d.IntN(len(list))] }

func (d dice) labels() map[string]string {
	m := map[string]string{}
	for _, k := range []string{"app", "tier"} {
		if d.IntN(3) > 0 {
			m[k] = d.of("a", "b")
		}
	}
	return m
}

func (d dice) service() *registry.Service {
	s := &registry.Service{Name: name(d.of("n1", "n2"), d.of("s1", "s2", "s3")), Selector: d.labels(), PublishNotReady: d.IntN(4) == 0}
	switch d.IntN(4) {
	case 0:
		s.Type, s.ExternalName, s.Selector = registry.TypeExternalName, "x.org", nil
	case 1, 2:
		s.Headless = true
	default:
		s.VIPs = addrs(fmt.Sprintf("10.96.0.%d", d.IntN(4)), "fd00:96::1")
	}
	return s
}

func (d dice) address(f registry.Family) netip.Addr {
	if f == registry.IPv4 {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(d.IntN(5) + 1)})
	}
	return netip.AddrFrom16([16]byte{0xfd, 15: byte(d.IntN(5) + 1)})
}

func (d dice) endpoint() *registry.Endpoint {
	e := &registry.Endpoint{
		EndpointID: registry.EndpointID{Node: "n", ContainerID: d.of("1", "2", "3", "4", "5"), Interface: "eth0"},
		Name:       name(d.of("n1", "n2"), "pod"), Labels: d.labels(), Unready: d.IntN(4) == 0, Terminating: d.IntN(5) == 0,
		Addresses: []netip.Addr{d.address(registry.IPv4)},
	}
	if d.IntN(2) == 0 {
		e.Addresses = append(e.Addresses, d.address(registry.IPv6))
	}
	return e
}

func (d dice) slice() *registry.Slice {
	sl := &registry.Slice{Name: name(d.of("n1", "n2"), d.of("x", "y")), Service: d.of("s1", "s2", "s3"), Family: registry.IPv4}
	if d.IntN(2) == 0 {
		sl.Family = registry.IPv6
	}
	for range d.IntN(4) {
		sl.Endpoints = append(sl.Endpoints, registry.SliceEndpoint{
			Addresses: []netip.Addr{d.address(sl.Family)}, Hostname: d.of("", "h1", "h2", "10-0-0-1"), Ready: d.IntN(3) > 0,
		})
	}
	return sl
}

func (d dice) instanceID() registry.InstanceID {
	return registry.InstanceID{Namespace: d.of("n1", "n2"), Service: d.of("s1", "s2", "s3"), ID: d.of("I:1", "i-1", "::", "Long_One")}
}

func (d dice) change() registry.Change {
	gone := d.IntN(3) == 0
	switch d.IntN(6) {
	case 0:
		return registry.Change{Service: d.service(), Deleted: gone}
	case 1:
		return registry.Change{Endpoint: d.endpoint(), Deleted: gone}
	case 2:
		return registry.Change{Slice: d.slice(), Deleted: gone}
	case 3:
		return registry.Change{Health: &registry.InstanceHealth{InstanceID: d.instanceID()}, Deleted: gone}
	case 4:
		return registry.Change{Namespace: &registry.Namespace{Name: d.of("n1", "n2", "n3")}, Deleted: gone}
	}
	return registry.Change{Instance: &registry.Instance{
		InstanceID: d.instanceID(), Addresses: []netip.Addr{d.address(registry.IPv4)},
		Status: registry.InstanceStatus(d.of(string(registry.InstanceUp), string(registry.InstanceUp), string(registry.InstanceDown), string(registry.InstanceDraining))),
	}, Deleted: gone}
}

// told is all that the registry holds, to make snapshots of.
type contents map[string]registry.Change

func (c contents) apply(ch registry.Change) {
	key := ""
	switch {
	case ch.Service != nil:
		key = "service " + ch.Service.Name.String()
	case ch.Endpoint != nil:
		key = "endpoint " + ch.Endpoint.String()
	case ch.Slice != nil:
		key = "slice " + ch.Slice.Name.String()
	case ch.Health != nil:
		key = "health " + ch.Health.InstanceID.String()
	case ch.Namespace != nil:
		key = "namespace " + ch.Namespace.Name
	default:
		key = "instance " + ch.Instance.InstanceID.String()
	}
	if delete(c, key); !ch.Deleted {
		c[key] = ch
	}
}

// model says by the catalog, slowly, which addresses each name has. A name without any exists nevertheless.
func (c contents) model(catalog *registry.Catalog) (names map[string][]string, pointers map[string][]string) {
	names, pointers = map[string][]string{"default.svc": nil}, map[string][]string{}
	vips := map[string]bool{}
	for _, s := range catalog.Services() {
		own := s.Name.Name + "." + s.Namespace + ".svc"
		for _, a := range s.VIPs {
			vips[a.String()] = true
			pointers[a.String()] = append(pointers[a.String()], own+".d.")
		}
	}
	for _, ch := range c {
		if ch.Namespace != nil {
			names[ch.Namespace.Name+".svc"] = nil
		}
	}
	for _, s := range catalog.Services() {
		names[s.Namespace+".svc"] = nil
		own := s.Name.Name + "." + s.Namespace + ".svc"
		if s.Type == registry.TypeExternalName {
			names[own] = []string{"CNAME"}
			continue
		}
		for _, a := range s.VIPs {
			names[own] = append(names[own], a.String())
		}
		for _, b := range catalog.Backing(s.Name) {
			if !b.Ready {
				continue
			}
			for _, a := range b.Addresses {
				label := strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
				switch {
				case b.Instance != nil && b.Instance.ID != "::":
					label = strings.ToLower(strings.NewReplacer(":", "-", "_", "-").Replace(b.Instance.ID))
				case b.Instance == nil && b.Host != "" && b.Host != "pod":
					label = b.Host
				}
				if len(s.VIPs) == 0 {
					names[own] = append(names[own], a.String())
				}
				names[label+"."+own] = append(names[label+"."+own], a.String())
				if !vips[a.String()] {
					pointers[a.String()] = append(pointers[a.String()], label+"."+own+".d.")
				}
			}
		}
	}
	return names, pointers
}

// asked returns what the index has for a name: addresses, CNAME, or NXDOMAIN.
func asked(z *zone, x *index, rest string) string {
	var got []string
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		r := z.find(x, question{spelt: rest + ".d.", name: rest + ".d.", qtype: qtype, room: maxMessage}, rest)
		if r.rcode != dns.RcodeSuccess {
			return dns.RcodeToString[r.rcode]
		}
		for _, rr := range r.answer {
			switch rr := rr.(type) {
			case *dns.A:
				got = append(got, rr.A.String())
			case *dns.AAAA:
				got = append(got, rr.AAAA.String())
			default:
				got = append(got, "CNAME")
			}
		}
	}
	return joined(got)
}

func joined(list []string) string {
	slices.Sort(list)
	return strings.Join(slices.Compact(list), " ")
}

// TestIndexAgainstModel: after any changes, in whatever batches, each name leads where the catalog says, and names that
// are not there are told so.
func TestIndexAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		z, x, catalog, all := modelZone(), newIndex(), registry.NewCatalog(""), contents{}
		ever := map[string]bool{"nobody.n1.svc": true, "n4.svc": true}
		for step := range 60 {
			b := registry.Batch{Revision: int64(step + 1)}
			for range 1 + d.IntN(6) {
				ch := d.change()
				b.Changes = append(b.Changes, ch)
				all.apply(ch)
			}
			if b.Snapshot = d.IntN(15) == 0; b.Snapshot {
				b.Changes = nil
				for _, ch := range all {
					b.Changes = append(b.Changes, ch)
				}
				x = newIndex()
			}
			catalog.Apply(b)
			x.apply(b)
			names, pointers := all.model(catalog)
			for n, want := range names {
				ever[n] = true
				if strings.Count(n, ".") == 2 && len(want) == 0 {
					continue // headless, and nobody is ready: as if it were not there
				}
				if got := asked(z, x, n); got != joined(want) {
					t.Fatalf("seed %d, step %d: %s has %q, want %q", seed, step, n, got, joined(want))
				}
			}
			for n := range ever {
				if want, there := names[n]; (!there || strings.Count(n, ".") == 2 && len(want) == 0) && asked(z, x, n) != "NXDOMAIN" {
					t.Fatalf("seed %d, step %d: %s is still there: %s", seed, step, n, asked(z, x, n))
				}
			}
			checkPointers(t, z, x, pointers, fmt.Sprintf("seed %d, step %d", seed, step))
		}
		empty(t, x, all)
	}
}

func checkPointers(t *testing.T, z *zone, x *index, pointers map[string][]string, when string) {
	t.Helper()
	for last := range 6 {
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(last)}), netip.AddrFrom4([4]byte{10, 96, 0, byte(last)}), netip.AddrFrom16([16]byte{0xfd, 15: byte(last)})} {
			if got, want := joined(z.names(x, a, maxMessage)), joined(pointers[a.String()]); got != want {
				t.Fatalf("%s: %s is called %q, want %q", when, a, got, want)
			}
		}
	}
}

// empty deletes everything, and wants nothing left.
func empty(t *testing.T, x *index, all contents) {
	t.Helper()
	b := registry.Batch{Revision: 1000}
	for _, ch := range all {
		ch.Deleted = true
		b.Changes = append(b.Changes, ch)
	}
	x.apply(b)
	left := []int{len(x.services), len(x.namespaces) - 1, x.vips.len(), x.sources.len(), len(x.endpoints), len(x.slices), len(x.sliced), len(x.instances), len(x.enrolled), len(x.labels)}
	if slices.Max(left) != 0 {
		t.Fatalf("of services, namespaces, VIPs, sources, endpoints, slices, sliced, instances, enrolled, labels there are left: %v", left)
	}
}

// TestUndashed: what names an address by itself leads back to it, and nothing else does.
func TestUndashed(t *testing.T) {
	for _, a := range addrs("10.0.0.1", "255.255.255.255", "0.0.0.0", "::1", "::", "fe80::", "2001:db8::1", "1:2:3:4:5:6:7:8") {
		if got, ok := undashed(dashed(a)); !ok || got != a {
			t.Errorf("%s leads from %s to %s, %v", dashed(a), a, got, ok)
		}
	}
	for _, label := range []string{"", "-", "web", "10-0-0", "10-0-0-01", "10-0-0-256", "10.0.0.1", "--1", "2001-DB8--1", "2001-db8-0--1", "fe80--1%eth0"} {
		if got, ok := undashed(label); ok {
			t.Errorf("%q leads to %s", label, got)
		}
	}
}

// TestReverseOfMapped: nobody has an IPv4 address by its IPv6 form.
func TestReverseOfMapped(t *testing.T) {
	x := newIndex()
	x.apply(registry.Batch{Changes: []registry.Change{{Service: &registry.Service{Name: name("n1", "s1"), VIPs: addrs("10.96.0.1")}}}})
	if got := modelZone().names(x, netip.MustParseAddr("10.96.0.1"), 10); len(got) != 1 {
		t.Errorf("the VIP is called %q", got)
	}
	if got := modelZone().names(x, netip.MustParseAddr("::ffff:10.96.0.1"), 10); len(got) != 0 {
		t.Errorf("its IPv6 form is called %q", got)
	}
}

// FuzzLabels: whatever an id is, its label is one, or there is none.
func FuzzLabels(f *testing.F) {
	f.Add("host:app:8080")
	f.Add("-")
	f.Add(strings.Repeat("x-", 100))
	f.Fuzz(func(t *testing.T, id string) {
		label := labelOf(id)
		if len(label) > maxLabel || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			t.Errorf("%q of %q", label, id)
		}
	})
}
