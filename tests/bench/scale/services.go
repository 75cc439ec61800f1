package scale

import (
	"fmt"
	"net/netip"

	"github.com/sluice-net/sluice/registry"
)

const (
	stallBackends = 10  // of a service in a crowd of them
	sliceMost     = 100 // endpoints in a slice, as Kubernetes has it
	servicePort   = 80
)

// The two services whose flows are measured, one of each algorithm. One backend of either is the server here.
var probes = map[registry.Algorithm]netip.Addr{
	registry.AlgorithmRandom: netip.MustParseAddr("10.95.0.1"),
	registry.AlgorithmMaglev: netip.MustParseAddr("10.95.0.2"),
}

func service(name string, vip netip.Addr) *registry.Service {
	return &registry.Service{
		Name: registry.Name{Namespace: "market", Name: name}, VIPs: []netip.Addr{vip},
		Ports: []registry.ServicePort{{Name: "http", Protocol: registry.TCP, Port: servicePort, TargetName: "http"}},
	}
}

// slice is one of a service, without endpoints.
func slice(service string, part int) *registry.Slice {
	return &registry.Slice{
		Name:    registry.Name{Namespace: "market", Name: fmt.Sprintf("%s-%d", service, part)},
		Service: service, Family: registry.IPv4,
		Ports: []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
	}
}

// stalls are services that lead to other nodes, of so many backends each.
func stalls(n, backends int) []registry.Change {
	all := make([]registry.Change, 0, 2*n)
	for i := range n {
		list := stallSlice(i, 0)
		list.Endpoints = list.Endpoints[:backends]
		all = append(all, registry.Change{Service: service(stallName(i), stallVIP(i))}, registry.Change{Slice: list})
	}
	return all
}

func stallName(i int) string { return fmt.Sprintf("s%d", i) }

// stallVIP is that of one of up to 2^21 services.
func stallVIP(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
}

// stallSlice lists the i-th service's backends; each of up to six versions has another first one.
func stallSlice(i, version int) *registry.Slice {
	list := slice(stallName(i), 0)
	for j := range stallBackends {
		if j == 0 {
			j = stallBackends + version
		}
		list.Endpoints = append(list.Endpoints, elsewhere(11, i<<4|j))
	}
	return list
}

// elsewhere is the n-th of 2^24 backends below a first byte, in a container of another node.
func elsewhere(first byte, n int) registry.SliceEndpoint {
	return registry.SliceEndpoint{
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{first, byte(n >> 16), byte(n >> 8), byte(n)})},
		Node:      "there", Ready: true, Serving: true,
	}
}

// probeServices are those whose flows are measured; the one of random choice has so many backends.
func probeServices(backends int) (all []registry.Change) {
	for _, algorithm := range registry.Algorithms() {
		s := service(probeName(algorithm), probes[algorithm])
		s.Algorithm = algorithm
		all = append(all, registry.Change{Service: s})
		count := stallBackends
		if algorithm == registry.AlgorithmRandom {
			count = backends
		}
		for from := 0; from < count; from += sliceMost {
			all = append(all, registry.Change{Slice: probeSlice(algorithm, from, min(from+sliceMost, count), 0)})
		}
	}
	return all
}

func probeName(a registry.Algorithm) string { return "probe-" + string(a) }

// probeSlice lists a probe's backends from one place up to another. The first of all is the server; each version has
// another last one.
func probeSlice(a registry.Algorithm, from, to, version int) *registry.Slice {
	list := slice(probeName(a), from/sliceMost)
	space := map[registry.Algorithm]byte{registry.AlgorithmRandom: 12, registry.AlgorithmMaglev: 13}[a]
	for n := from; n < to; n++ {
		e := elsewhere(space, n)
		if n == 0 {
			e.Addresses, e.Node = []netip.Addr{serverAddr}, "here"
		}
		if n == to-1 && version > 0 {
			e = elsewhere(space+2, version)
		}
		list.Endpoints = append(list.Endpoints, e)
	}
	return list
}

// changedService is one whose backends are to be others: of the crowd, or the one that has many.
func (w *World) changedService(a registry.Algorithm) registry.Change {
	w.changes++
	if w.plan.Grow == "services" && a == registry.AlgorithmRandom {
		// Each in turn, and then each again with another version.
		return registry.Change{Slice: stallSlice(w.changes*7919%w.plan.N, 1+w.changes/w.plan.N%5)}
	}
	count := stallBackends
	if w.plan.Grow == "backends" && a == registry.AlgorithmRandom {
		count = w.plan.N
	}
	from := (count - 1) / sliceMost * sliceMost
	return registry.Change{Slice: probeSlice(a, from, count, 1+w.changes%2)}
}
