package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/sluice-net/sluice/registry"
)

const (
	prefix          = "/sluice/v1/"
	servicePrefix   = prefix + "services/"
	vipPrefix       = prefix + "vips/"
	endpointPrefix  = prefix + "endpoints/"
	nodePrefix      = prefix + "nodes/"
	maxSegment      = 253       // bytes of one part of a key
	maxValue        = 256 << 10 // bytes of one value
	maxVIPs         = 2
	maxServicePorts = 1024
)

// key joins a prefix and the parts of a name. A part that could be taken for two is refused.
func key(prefix string, parts ...string) (string, error) {
	for _, p := range parts {
		switch {
		case p == "":
			return "", errors.New("empty name")
		case len(p) > maxSegment:
			return "", fmt.Errorf("name %.32q… is longer than %d bytes", p, maxSegment)
		case strings.ContainsFunc(p, func(r rune) bool { return r == '/' || !unicode.IsGraphic(r) }):
			return "", fmt.Errorf("name %q: '/' and control characters are not allowed", p)
		}
	}
	return prefix + strings.Join(parts, "/"), nil
}

func serviceKey(n registry.Name) (string, error) { return key(servicePrefix, n.Namespace, n.Name) }

func vipKey(a netip.Addr) string { return vipPrefix + a.Unmap().String() }

func endpointKey(id registry.EndpointID) (string, error) {
	return key(endpointPrefix, id.Node, id.ContainerID, id.Interface)
}

func nodeKey(name string) (string, error) { return key(nodePrefix, name) }

// endpointRecord is an endpoint as it is stored: Labels are those it was wired with, Overrides
// those set (or with nil removed) since. Both outlive a repeated PutEndpoint.
type endpointRecord struct {
	registry.Endpoint
	Overrides map[string]*string `json:"overrides,omitempty"`
}

// effective returns the endpoint with its overrides applied.
func (r endpointRecord) effective() registry.Endpoint {
	e := r.Endpoint
	if len(r.Overrides) == 0 {
		return e
	}
	e.Labels = make(map[string]string, len(r.Labels)+len(r.Overrides))
	for k, v := range r.Labels {
		e.Labels[k] = v
	}
	for k, v := range r.Overrides {
		if v == nil {
			delete(e.Labels, k)
		} else {
			e.Labels[k] = *v
		}
	}
	return e
}

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	if len(b) > maxValue {
		return "", fmt.Errorf("object has %d bytes, more than the %d allowed", len(b), maxValue)
	}
	return string(b), nil
}

// decodeService reads a stored service, which may have been written by anyone.
func decodeService(k, v []byte) (registry.Service, error) {
	var s registry.Service
	if err := decode(v, &s); err != nil {
		return s, err
	}
	if want, err := serviceKey(s.Name); err != nil || want != string(k) {
		return s, fmt.Errorf("value names service %q", s.Name)
	}
	if len(s.VIPs) > maxVIPs || len(s.Ports) > maxServicePorts {
		return s, fmt.Errorf("%d VIPs and %d ports are too many", len(s.VIPs), len(s.Ports))
	}
	for _, p := range s.Ports {
		if p.Port == 0 || p.TargetPort == 0 && p.TargetName == "" {
			return s, errors.New("port 0")
		}
		if p.Protocol == 0 {
			return s, errors.New("port without protocol")
		}
	}
	return s, validAddrs(s.VIPs)
}

func decodeEndpoint(k, v []byte) (endpointRecord, error) {
	var r endpointRecord
	if err := decode(v, &r); err != nil {
		return r, err
	}
	if want, err := endpointKey(r.EndpointID); err != nil || want != string(k) {
		return r, fmt.Errorf("value names endpoint %q", r.EndpointID)
	}
	return r, validAddrs(r.Addresses)
}

func decodeNode(k, v []byte) (registry.Node, error) {
	var n registry.Node
	if err := decode(v, &n); err != nil {
		return n, err
	}
	if want, err := nodeKey(n.Name); err != nil || want != string(k) {
		return n, fmt.Errorf("value names node %q", n.Name)
	}
	return n, validAddrs(n.Addresses)
}

func decode(v []byte, into any) error {
	if len(v) > maxValue {
		return fmt.Errorf("value has %d bytes, more than the %d allowed", len(v), maxValue)
	}
	return json.Unmarshal(v, into)
}

func validAddrs(list []netip.Addr) error {
	for _, a := range list {
		if !a.IsValid() || a.Zone() != "" {
			return fmt.Errorf("address %q", a)
		}
	}
	return nil
}

// change turns a stored key and value into a change; a nil value is a deletion. ok is false for
// keys that are none of the model's objects.
func change(k, v []byte) (c registry.Change, ok bool, err error) {
	c.Deleted = v == nil
	name := string(k)
	switch {
	case strings.HasPrefix(name, servicePrefix):
		var s registry.Service
		if c.Deleted {
			parts, err := split(name, servicePrefix, 2)
			if err != nil {
				return c, false, err
			}
			s.Name = registry.Name{Namespace: parts[0], Name: parts[1]}
		} else if s, err = decodeService(k, v); err != nil {
			return c, false, err
		}
		c.Service = &s
	case strings.HasPrefix(name, endpointPrefix):
		var e registry.Endpoint
		if c.Deleted {
			parts, err := split(name, endpointPrefix, 3)
			if err != nil {
				return c, false, err
			}
			e.EndpointID = registry.EndpointID{Node: parts[0], ContainerID: parts[1], Interface: parts[2]}
		} else {
			r, err := decodeEndpoint(k, v)
			if err != nil {
				return c, false, err
			}
			e = r.effective()
		}
		c.Endpoint = &e
	case strings.HasPrefix(name, nodePrefix):
		n := registry.Node{Name: strings.TrimPrefix(name, nodePrefix)}
		if !c.Deleted {
			if n, err = decodeNode(k, v); err != nil {
				return c, false, err
			}
		}
		c.Node = &n
	default:
		return c, false, nil
	}
	return c, true, nil
}

func split(name, prefix string, n int) ([]string, error) {
	parts := strings.Split(strings.TrimPrefix(name, prefix), "/")
	if len(parts) != n {
		return nil, fmt.Errorf("key has %d parts after %s, not %d", len(parts), prefix, n)
	}
	return parts, nil
}
