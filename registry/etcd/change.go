package etcd

import (
	"fmt"
	"strings"

	"github.com/sluice-net/sluice/registry"
)

// change turns a stored key and value into a change; a nil value is a deletion. ok is false for
// keys that are none of the model's objects.
func change(k, v []byte) (c registry.Change, ok bool, err error) {
	c.Deleted = v == nil
	switch name := string(k); {
	case strings.HasPrefix(name, servicePrefix):
		c.Service, err = object(k, v, servicePrefix, decodeService, func(s *registry.Service, parts []string) bool {
			return fill(parts, &s.Namespace, &s.Name.Name)
		})
	case strings.HasPrefix(name, slicePrefix):
		c.Slice, err = object(k, v, slicePrefix, decodeSlice, func(s *registry.Slice, parts []string) bool {
			return fill(parts, &s.Namespace, &s.Name.Name)
		})
	case strings.HasPrefix(name, endpointPrefix):
		var r *endpointRecord
		r, err = object(k, v, endpointPrefix, decodeEndpoint, func(r *endpointRecord, parts []string) bool {
			return fill(parts, &r.Node, &r.ContainerID, &r.Interface)
		})
		if err == nil {
			e := r.effective()
			c.Endpoint = &e
		}
	case strings.HasPrefix(name, nodePrefix):
		c.Node, err = object(k, v, nodePrefix, decodeNode, func(n *registry.Node, parts []string) bool {
			return fill(parts, &n.Name)
		})
	case strings.HasPrefix(name, agentPrefix):
		c.NodeLease, err = object(k, v, agentPrefix, decodeNodeLease, func(l *registry.NodeLease, parts []string) bool {
			return fill(parts, &l.Node)
		})
	case strings.HasPrefix(name, namespacePrefix):
		c.Namespace, err = object(k, v, namespacePrefix, decodeNamespace, func(n *registry.Namespace, parts []string) bool {
			return fill(parts, &n.Name)
		})
	case strings.HasPrefix(name, policyPrefix):
		c.Policy, err = object(k, v, policyPrefix, decodePolicy, func(p *registry.Policy, parts []string) bool {
			if p.Tier.UnmarshalText([]byte(parts[0])) != nil {
				return false
			}
			if p.Tier == registry.TierNamespaced {
				return fill(parts[1:], &p.Namespace, &p.Name.Name)
			}
			return fill(parts[1:], &p.Name.Name)
		})
	case strings.HasPrefix(name, instancePrefix):
		c.Instance, err = object(k, v, instancePrefix, decodeInstance, func(i *registry.Instance, parts []string) bool {
			return fill(parts, &i.Namespace, &i.Service, &i.ID)
		})
	case strings.HasPrefix(name, leasePrefix):
		c.Lease, err = object(k, v, leasePrefix, decodeLease, func(l *registry.InstanceLease, parts []string) bool {
			return fill(parts, &l.Namespace, &l.Service, &l.ID)
		})
	case strings.HasPrefix(name, healthPrefix):
		c.Health, err = object(k, v, healthPrefix, decodeHealth, func(h *registry.InstanceHealth, parts []string) bool {
			return fill(parts, &h.Namespace, &h.Service, &h.ID)
		})
	default:
		return c, false, nil
	}
	return c, err == nil, err
}

// unreadable returns what becomes of an object whose value cannot be read, if no version of it is known that
// could be: it is deleted. Of a NetworkPolicy its name still says that a namespace is to be isolated, and
// all of it is: what a policy may have kept out must not come in because the policy was written by a newer
// agent, or badly.
func unreadable(k []byte) (registry.Change, bool, error) {
	c, ok, err := change(k, nil)
	if ok && c.Policy != nil && c.Policy.Tier == registry.TierNamespaced {
		c.Deleted = false
		c.Policy.Isolates = []registry.Direction{registry.Ingress, registry.Egress}
	}
	return c, ok, err
}

// object decodes a value, or makes of a deleted one's key an object with no more than its name.
func object[T any](k, v []byte, prefix string, decode func(k, v []byte) (T, error), identify func(*T, []string) bool) (*T, error) {
	if v != nil {
		o, err := decode(k, v)
		if err != nil {
			return nil, err
		}
		return &o, nil
	}
	o := new(T)
	if name := strings.TrimPrefix(string(k), prefix); !identify(o, strings.Split(name, "/")) {
		return nil, fmt.Errorf("key %s%q names nothing", prefix, name)
	}
	return o, nil
}

// fill sets the parts of a name, if there are as many as it has.
func fill(parts []string, into ...*string) bool {
	if len(parts) != len(into) {
		return false
	}
	for i, p := range parts {
		*into[i] = p
	}
	return true
}
