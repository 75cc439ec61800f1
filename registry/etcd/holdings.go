package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// holding is what one service has of an address or of a node port. What it has of an address are the ports: others
// may have the rest.
type holding struct {
	registry.Name
	Ports []string `json:"ports,omitempty"` // of an address, as 80/TCP; sorted
	// External: the address is one of a load balancer or of the world outside, not a VIP.
	External bool `json:"external,omitempty"`
	// whole: it is not known which ports the service has, so all are.
	whole bool
}

func (h holding) equal(o holding) bool {
	return h.Name == o.Name && h.External == o.External && slices.Equal(h.Ports, o.Ports)
}

// holders is the value of an address or a node port. Older agents wrote the name of the only one.
type holders struct {
	Holders []holding `json:"holders"`
}

// parseHolders reads a value. old is set when it is in the older form, which says nothing of ports.
func parseHolders(v []byte) (list []holding, old bool, err error) {
	var r struct {
		registry.Name
		holders
	}
	if err := json.Unmarshal(v, &r); err != nil {
		return nil, false, err
	}
	if r.Name != (registry.Name{}) {
		return []holding{{Name: r.Name, whole: true}}, true, nil
	}
	return r.Holders, false, nil
}

// footprint returns what a service has, by key.
func footprint(s *registry.Service) map[string]holding {
	var ports []string
	all := map[string]holding{}
	for _, p := range s.Ports {
		ports = append(ports, portText(p.Port, p.Protocol))
		if p.NodePort != 0 {
			all[nodePortKey(p.Protocol, p.NodePort)] = holding{Name: s.Name}
		}
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	for _, a := range externals(s) {
		all[vipKey(a)] = holding{Name: s.Name, Ports: ports, External: true}
	}
	for _, a := range s.VIPs {
		all[vipKey(a)] = holding{Name: s.Name, Ports: ports}
	}
	return all
}

// externals returns the addresses of a service beside its VIPs.
func externals(s *registry.Service) []netip.Addr {
	return slices.Concat(s.ExternalIPs, s.LoadBalancerIPs)
}

func portText(port uint16, p registry.Protocol) string { return fmt.Sprintf("%d/%s", port, p) }

// conflict returns why a service cannot have what it wants beside the others, and the port that it is about, as
// 80/TCP, if it is about one.
func conflict(k string, want holding, others []holding) (port string, err error) {
	what := thing(k)
	for _, o := range others {
		switch {
		case strings.HasPrefix(k, nodePortPrefix):
			return "", fmt.Errorf("%w: %s belongs to service %s", registry.ErrNodePortTaken, what, o.Name)
		case o.whole:
			return "", fmt.Errorf("%w: %s belongs to service %s", registry.ErrVIPTaken, what, o.Name)
		case o.External && !want.External:
			return "", fmt.Errorf("%w: %s is an external address of service %s", registry.ErrVIPTaken, what, o.Name)
		case want.External && !o.External:
			return "", fmt.Errorf("%w: %s is the VIP of service %s", registry.ErrVIPTaken, what, o.Name)
		}
		for _, p := range want.Ports {
			if slices.Contains(o.Ports, p) {
				return p, fmt.Errorf("%w: port %s of %s belongs to service %s", registry.ErrVIPTaken, p, what, o.Name)
			}
		}
	}
	return "", nil
}

// thing is the address or the node port, as 30080/TCP, that a key is about.
func thing(k string) string {
	if rest, ok := strings.CutPrefix(k, nodePortPrefix); ok {
		protocol, port, _ := strings.Cut(rest, "/")
		return port + "/" + protocol
	}
	return strings.TrimPrefix(k, vipPrefix)
}

// fieldOf returns the field by which a service asks for what a key is about.
func fieldOf(s, old *registry.Service, k, port string) string {
	for i, p := range s.Ports {
		switch {
		case p.NodePort != 0 && nodePortKey(p.Protocol, p.NodePort) == k:
			return fmt.Sprintf("spec.ports[%d].nodePort", i)
		case portText(p.Port, p.Protocol) == port && footprint(old)[k].Name == s.Name:
			return fmt.Sprintf("spec.ports[%d].port", i) // the address is the service's already
		}
	}
	for i, a := range s.ExternalIPs {
		if vipKey(a) == k {
			return fmt.Sprintf("spec.externalIPs[%d]", i)
		}
	}
	for _, a := range s.LoadBalancerIPs {
		if vipKey(a) == k {
			return "spec.loadBalancerIP"
		}
	}
	return "spec.clusterIP"
}

// Held is an address that a service has.
type Held struct {
	Addr     netip.Addr
	Service  registry.Name
	External bool // not its VIP, but an address of a load balancer or of the world outside
}

// Held returns those of some addresses that services have, in the order given.
func (s *Store) Held(ctx context.Context, addrs []netip.Addr) ([]Held, error) {
	var held []Held
	for some := range slices.Chunk(addrs, maxTogether) {
		ops := make([]clientv3.Op, len(some))
		for i, a := range some {
			ops[i] = clientv3.OpGet(vipKey(a))
		}
		r, err := s.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil, fmt.Errorf("look for services' addresses: %w", err)
		}
		for i, a := range some {
			kv := first(r.Responses[i].GetResponseRange().GetKvs())
			if kv == nil {
				continue
			}
			list, _, err := parseHolders(kv.Value)
			if err != nil {
				return nil, fmt.Errorf("%w: key %s: %w", errHolders, kv.Key, err)
			}
			for _, h := range list {
				held = append(held, Held{Addr: a, Service: h.Name, External: h.External})
			}
		}
	}
	return held, nil
}
