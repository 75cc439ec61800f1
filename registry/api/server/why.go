package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// why answers what becomes of flows, for each pair of addresses of one family.
func (s *Server) why(r *http.Request) (any, error) {
	q, err := api.ParseWhyQuery(r.URL.Query())
	if err != nil {
		return nil, &api.Error{Status: http.StatusBadRequest, Message: "why: " + err.Error()}
	}
	protocol, err := checkWhy(q)
	if err != nil {
		return nil, &api.Error{Status: http.StatusUnprocessableEntity, Message: "why: " + err.Error()}
	}
	from, err := s.places(q.From, false)
	if err != nil {
		return nil, err
	}
	to, err := s.places(q.To, true)
	if err != nil {
		return nil, err
	}
	t := registry.Trace{
		From: q.From, To: q.To, Port: q.Port, Protocol: registry.ProtocolName(protocol), Flows: []registry.TraceFlow{},
	}
	var verdicts []registry.Verdict
	for _, pair := range pairs(from, to) {
		flow, err := s.Observer.Why(registry.Probe{
			Source: pair[0], Destination: pair[1], Port: q.Port, Protocol: protocolOf(protocol, pair),
		})
		if err != nil {
			return nil, err
		}
		t.Flows = append(t.Flows, flow)
		verdicts = append(verdicts, flow.Verdict)
	}
	if len(t.Flows) == 0 {
		return nil, &api.Error{Status: http.StatusUnprocessableEntity, Message: fmt.Sprintf(
			"why: %s and %s have no address of one family", q.From, q.To)}
	}
	t.Verdict = registry.JoinVerdicts(verdicts...)
	return t, nil
}

func checkWhy(q api.WhyQuery) (protocol uint8, err error) {
	if q.From == "" || q.To == "" {
		return 0, fmt.Errorf("from %q, to %q: want two ends", q.From, q.To)
	}
	if q.Protocol == "" {
		q.Protocol = registry.TCP.String()
	}
	if protocol, err = registry.ProtocolNumber(q.Protocol); err != nil {
		return 0, err
	}
	switch p := registry.Protocol(protocol); p {
	case registry.TCP, registry.UDP, registry.SCTP:
		if q.Port == 0 {
			return 0, fmt.Errorf("no port: %s has ports", p)
		}
	default:
		if q.Port != 0 {
			return 0, fmt.Errorf("port %d: %s has no ports", q.Port, registry.ProtocolName(protocol))
		}
	}
	return protocol, nil
}

// The numbers of ICMP.
const icmp, icmpv6 = 1, 58

// protocolOf takes either name of ICMP for the one of the family.
func protocolOf(protocol uint8, pair [2]registry.Place) uint8 {
	if protocol != icmp && protocol != icmpv6 {
		return protocol
	}
	if pair[0].Address.Is6() || pair[1].Address.Is6() {
		return icmpv6
	}
	return icmp
}

// places returns the addresses that a user's word means.
func (s *Server) places(word string, services bool) ([]registry.Place, error) {
	switch word {
	case string(registry.PartyNode), string(registry.PartyWorld):
		return []registry.Place{{Kind: registry.PartyKind(word)}}, nil
	}
	if a, err := netip.ParseAddr(word); err == nil {
		return []registry.Place{{Address: a.Unmap().WithZone("")}}, nil
	}
	name, only := word, ""
	for kind, prefixes := range map[string][]string{
		"service": {"service/", "svc/"}, "container": {"container/", "pod/"},
	} {
		for _, prefix := range prefixes {
			if rest, cut := strings.CutPrefix(word, prefix); cut {
				name, only = rest, kind
			}
		}
	}
	return s.named(name, services && only != "container", only != "service")
}

// named finds a service or a container.
func (s *Server) named(name string, services, containers bool) ([]registry.Place, error) {
	var svc registry.Service
	found := false
	if services {
		full := registry.Name{Namespace: "default", Name: name}
		if namespace, rest, cut := strings.Cut(name, "/"); cut {
			full = registry.Name{Namespace: namespace, Name: rest}
		}
		svc, found = s.Catalog.Service(full)
	}
	var list []registry.Endpoint
	missing := error(&api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("service %q: not found", name)})
	if containers {
		list, missing = find(s.Catalog.Endpoints(), name)
	}
	switch {
	case found && len(list) > 0:
		return nil, &api.Error{Status: http.StatusConflict, Message: fmt.Sprintf(
			"%q is a service and a container: say service/%s or container/%[2]s", name, name)}
	case found && svc.Type == registry.TypeExternalName:
		return nil, &api.Error{Status: http.StatusUnprocessableEntity, Message: fmt.Sprintf(
			"service %s is a name in DNS for %s, and has no address", svc.Name, svc.ExternalName)}
	case found && len(svc.VIPs) == 0:
		return nil, &api.Error{Status: http.StatusUnprocessableEntity, Message: fmt.Sprintf(
			"service %s is headless: ask for one of its containers", svc.Name)}
	case found:
		return toPlaces(svc.VIPs), nil
	case missing != nil && services && containers && asError(missing).Status == http.StatusNotFound:
		return nil, &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf(
			"%q is neither a service nor a container (see \"sluice get services -A\", \"sluice get endpoints -A\")", name)}
	case missing != nil:
		return nil, missing
	}
	var all []netip.Addr
	for _, e := range list {
		all = append(all, e.Addresses...)
	}
	return toPlaces(all), nil
}

func toPlaces(addrs []netip.Addr) []registry.Place {
	var places []registry.Place
	for _, a := range addrs {
		places = append(places, registry.Place{Address: a.Unmap()})
	}
	slices.SortFunc(places, func(a, b registry.Place) int { return a.Address.Compare(b.Address) })
	return places
}

// pairs joins the ends that can talk to each other: one of them has an address, and if both have, of one family.
func pairs(from, to []registry.Place) [][2]registry.Place {
	var all [][2]registry.Place
	for _, a := range from {
		for _, b := range to {
			one := a.Address.IsValid() || b.Address.IsValid()
			both := a.Address.IsValid() && b.Address.IsValid()
			if one && (!both || a.Address.Is4() == b.Address.Is4()) {
				all = append(all, [2]registry.Place{a, b})
			}
		}
	}
	return all
}
