package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// DefaultNodePorts returns the range that Kubernetes has.
func DefaultNodePorts() PortRange { return PortRange{First: 30000, Last: 32767} }

// ParsePortRange reads FIRST-LAST.
func ParsePortRange(text string) (r PortRange, err error) {
	for i, part := range strings.SplitN(text, "-", 2) {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return PortRange{}, fmt.Errorf("%q: want a range of ports such as %s", text, DefaultNodePorts())
		}
		if i == 0 {
			r.First = uint16(n)
		}
		r.Last = uint16(n)
	}
	if err := r.validate(); err != nil {
		return PortRange{}, err
	}
	return r, nil
}

func (r PortRange) validate() error {
	if r.First == 0 || r.First > r.Last {
		return fmt.Errorf("%s is no range of ports: want 1 to 65535, the lower one first", r)
	}
	return nil
}

// String returns FIRST-LAST.
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

func (r PortRange) contains(p uint16) bool { return p >= r.First && p <= r.Last }

func (r PortRange) size() int { return int(r.Last) - int(r.First) + 1 }

// portID tells the ports of a service apart.
type portID struct {
	protocol registry.Protocol
	port     uint16
}

func nodePortKey(p registry.Protocol, port uint16) string {
	return fmt.Sprintf("%s%s/%d", nodePortPrefix, p, port)
}

// takesNodePorts reports whether ports of a service that name no node port get one.
func takesNodePorts(req *registry.ServiceRequest) bool {
	return req.Type == registry.TypeNodePort || req.Type == registry.TypeLoadBalancer && !req.NoNodePorts
}

// nodePorts gives the ports their node ports: those that they name, those that the old service has, and with choose
// new ones.
func (c *claimer) nodePorts(ctx context.Context, req *registry.ServiceRequest, old *registry.Service, choose bool) ([]registry.ServicePort, error) {
	ports := slices.Clone(req.Ports)
	used := map[portID]bool{}
	for i, p := range ports {
		if p.NodePort == 0 {
			continue
		}
		if used[portID{p.Protocol, p.NodePort}] {
			return nil, fmt.Errorf("%w: node port %s is given twice", registry.ErrInvalid, portText(p.NodePort, p.Protocol))
		}
		used[portID{p.Protocol, p.NodePort}] = true
		_, had := footprint(old)[nodePortKey(p.Protocol, p.NodePort)]
		if !had && !c.store.nodePortRange.contains(p.NodePort) {
			return nil, &registry.FieldError{Field: fmt.Sprintf("spec.ports[%d].nodePort", i), Err: fmt.Errorf(
				"%w: %d (services.nodePorts: %s)", registry.ErrNodePortOutOfRange, p.NodePort, c.store.nodePortRange)}
		}
	}
	if !takesNodePorts(req) {
		return ports, nil
	}
	for i := range ports {
		p := &ports[i]
		if kept := keptNodePort(p, old); p.NodePort == 0 && kept != 0 && !used[portID{p.Protocol, kept}] {
			p.NodePort = kept
			used[portID{p.Protocol, kept}] = true
		}
	}
	for i := range ports {
		if p := &ports[i]; p.NodePort == 0 && choose {
			if err := c.chooseNodePort(ctx, ports, p, used); err != nil {
				return nil, &registry.FieldError{Field: fmt.Sprintf("spec.ports[%d].nodePort", i), Err: err}
			}
		}
	}
	return ports, nil
}

// keptNodePort returns the node port of the port that an old service has in the place of p: the one of the same
// number, or else of the same name.
func keptNodePort(p *registry.ServicePort, old *registry.Service) uint16 {
	for _, o := range old.Ports {
		if o.Protocol == p.Protocol && o.Port == p.Port {
			return o.NodePort
		}
	}
	for _, o := range old.Ports {
		if o.Protocol == p.Protocol && o.Name == p.Name && p.Name != "" {
			return o.NodePort
		}
	}
	return 0
}

// chooseNodePort gives p a node port: that of a port of the same number and another protocol, if it can be.
func (c *claimer) chooseNodePort(ctx context.Context, ports []registry.ServicePort, p *registry.ServicePort, used map[portID]bool) error {
	id, t := portID{p.Protocol, p.Port}, c.taken
	free := func(n uint16) bool {
		return n != 0 && !used[portID{p.Protocol, n}] && !c.foreign(nodePortKey(p.Protocol, n))
	}
	good := func(n uint16) bool { return free(n) && !t.ports[nodePortKey(p.Protocol, n)] }
	n, chosen := c.ports[id]
	if chosen && !free(n) {
		t.wrongPorts++
		n = 0
	}
	for _, other := range ports {
		if n == 0 && other.Port == p.Port && good(other.NodePort) && c.store.nodePortRange.contains(other.NodePort) {
			n = other.NodePort
		}
	}
	if n == 0 {
		var err error
		if n, err = c.freeNodePort(ctx, p.Protocol, good); err != nil {
			return err
		}
	}
	key := nodePortKey(p.Protocol, n)
	p.NodePort, c.ports[id] = n, n
	c.guessed[key], used[portID{p.Protocol, n}], t.ports[key] = true, true, true
	return nil
}

// freeNodePort returns a node port that is good and likely to be free.
func (c *claimer) freeNodePort(ctx context.Context, protocol registry.Protocol, good func(uint16) bool) (uint16, error) {
	r, t := c.store.nodePortRange, c.taken
	if t.wrongPorts >= t.most && !t.readPorts {
		list, err := c.store.client.Get(ctx, nodePortPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return 0, fmt.Errorf("list node ports: %w", err)
		}
		for _, kv := range list.Kvs {
			t.ports[string(kv.Key)] = true
		}
		t.readPorts = true
	}
	start := rand.IntN(r.size())
	for i := range r.size() {
		if n := r.First + uint16((start+i)%r.size()); good(n) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: all of %s are taken for %s; delete a service or widen services.nodePorts", registry.ErrNodePortsExhausted, r, protocol)
}
