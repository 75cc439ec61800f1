package etcd

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

func slice(name string) registry.Slice {
	weight := uint16(3)
	return registry.Slice{
		Name: registry.Name{Namespace: "default", Name: name}, Service: "web", Family: registry.IPv4,
		Ports: []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
		Endpoints: []registry.SliceEndpoint{
			{Addresses: addrs("10.1.0.1", "10.1.0.2"), Node: "n1", Zone: "z", Weight: &weight, Ready: true, Serving: true},
			{Addresses: addrs("10.1.0.3"), Serving: true, Terminating: true},
		},
	}
}

func TestSlices(t *testing.T) {
	s := open(t, defaultCIDRs...)
	batches := s.Watch(t.Context())
	receive(t, batches)
	want := slice("web-1")
	outcomes, rev, err := s.Commit(t.Context(), []registry.Change{{Slice: &want}})
	if err != nil || outcomes[0] != registry.Created {
		t.Fatal(outcomes, err)
	}
	if b := receive(t, batches); b.Revision != rev || len(b.Changes) != 1 || !reflect.DeepEqual(*b.Changes[0].Slice, want) {
		t.Errorf("batch %+v, want %+v at %d", b, want, rev)
	}
	if b := receive(t, s.Watch(t.Context())); len(b.Changes) != 1 || !reflect.DeepEqual(*b.Changes[0].Slice, want) {
		t.Errorf("snapshot %+v, want %+v", b, want)
	}
	outcomes, _, err = s.Commit(t.Context(), []registry.Change{{Slice: &want}})
	if err != nil || outcomes[0] != registry.Unchanged {
		t.Errorf("written again: %v, %v", outcomes, err)
	}
	outcomes, rev, err = s.Commit(t.Context(), []registry.Change{{Slice: &registry.Slice{Name: want.Name}, Deleted: true}})
	if err != nil || outcomes[0] != registry.Deleted {
		t.Errorf("deleted: %v, %v", outcomes, err)
	}
	if b := receive(t, batches); b.Revision != rev || !b.Changes[0].Deleted || b.Changes[0].Slice.Name != want.Name {
		t.Errorf("batch %+v, want the slice deleted", b)
	}
}

// TestServiceTakesSlicesAlong: what a service owns goes in the moment in which it goes; what it does not own stays,
// whoever thought otherwise.
func TestServiceTakesSlicesAlong(t *testing.T) {
	s := open(t, defaultCIDRs...)
	svc, _ := put(t, s, web("web"))
	own, loose, stranger := slice("own"), slice("loose"), slice("stranger")
	own.Owned, stranger.Owned, stranger.Service = true, true, "other"
	if _, _, err := s.Commit(t.Context(), []registry.Change{{Slice: &own}, {Slice: &loose}, {Slice: &stranger}}); err != nil {
		t.Fatal(err)
	}
	batches := s.Watch(t.Context())
	receive(t, batches)
	gone := registry.Name{Namespace: "default", Name: "gone"}
	rev, err := s.DeleteService(t.Context(), svc.Name, own.Name, loose.Name, stranger.Name, gone)
	if err != nil {
		t.Fatal(err)
	}
	b := receive(t, batches)
	var told []string
	for _, c := range b.Changes {
		switch {
		case !c.Deleted:
			t.Errorf("%+v is written", c)
		case c.Service != nil:
			told = append(told, "service "+c.Service.Name.String())
		case c.Slice != nil:
			told = append(told, "slice "+c.Slice.Name.String())
		}
	}
	slices.Sort(told)
	if got := strings.Join(told, ", "); b.Revision != rev || got != "service default/web, slice default/own" {
		t.Errorf("at revision %d of %d: %s", b.Revision, rev, got)
	}
	many := make([]registry.Name, maxOwned+1)
	put(t, s, web("web"))
	if _, err := s.DeleteService(t.Context(), svc.Name, many...); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("more slices than one transaction takes: %v", err)
	}
}

func TestSliceRefused(t *testing.T) {
	s := open(t, defaultCIDRs...)
	batches := s.Watch(t.Context())
	receive(t, batches)
	heavy := uint16(registry.MaxWeight + 1)
	for name, edit := range map[string]func(*registry.Slice){
		"no name":         func(s *registry.Slice) { s.Name.Name = "" },
		"no namespace":    func(s *registry.Slice) { s.Namespace = "" },
		"a slash":         func(s *registry.Slice) { s.Name.Name = "a/b" },
		"no service":      func(s *registry.Slice) { s.Service = "" },
		"no family":       func(s *registry.Slice) { s.Family = 0 },
		"other family":    func(s *registry.Slice) { s.Family = registry.IPv6 },
		"port 0":          func(s *registry.Slice) { s.Ports[0].Port = 0 },
		"no protocol":     func(s *registry.Slice) { s.Ports[0].Protocol = 0 },
		"no address":      func(s *registry.Slice) { s.Endpoints[1].Addresses = nil },
		"invalid address": func(s *registry.Slice) { s.Endpoints[1].Addresses = addrs("fe80::1%eth0") },
		"a mapped one":    func(s *registry.Slice) { s.Endpoints[1].Addresses = addrs("::ffff:10.1.0.3") },
		"too heavy":       func(s *registry.Slice) { s.Endpoints[0].Weight = &heavy },
		"too many":        func(s *registry.Slice) { s.Endpoints = make([]registry.SliceEndpoint, registry.MaxSliceEndpoints+1) },
		"too many ports":  func(s *registry.Slice) { s.Ports = make([]registry.EndpointPort, registry.MaxSlicePorts+1) },
		"too long a list": func(s *registry.Slice) { s.Endpoints[0].Addresses = make([]netip.Addr, registry.MaxSliceAddresses+1) },
	} {
		bad := slice("web-1")
		edit(&bad)
		if err := s.Check(registry.Change{Slice: &bad}); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s: the check says %v", name, err)
		}
		if _, _, err := s.Commit(t.Context(), []registry.Change{{Slice: &bad}}); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What stands in the store and cannot be acted on is absent: a field that nobody knows may have said that an
	// endpoint takes nothing.
	good := slice("web-1")
	if _, _, err := s.Commit(t.Context(), []registry.Change{{Slice: &good}}); err != nil {
		t.Fatal(err)
	}
	receive(t, batches)
	k, v := slicePrefix+"default/web-1", fmt.Sprintf(`{"namespace":"default","name":"web-1","service":"web","family":"IPv4","endpoints":[{"addresses":["10.1.0.1"],"ready":true,"%s":true}]}`, "quarantined")
	if _, err := s.client.Put(t.Context(), k, v); err != nil {
		t.Fatal(err)
	}
	if b := receive(t, batches); len(b.Changes) != 1 || !b.Changes[0].Deleted || b.Changes[0].Slice.Name != good.Name {
		t.Errorf("an unknown field makes the batch %+v, want the slice gone", b)
	}
	if _, err := s.client.Put(t.Context(), k, strings.Replace(v, `,"quarantined":true`, "", 1)); err != nil {
		t.Fatal(err)
	}
	if b := receive(t, batches); len(b.Changes) != 1 || b.Changes[0].Deleted {
		t.Errorf("without that field the batch is %+v, want the slice", b)
	}
}
