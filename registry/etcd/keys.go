package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	strictjson "sigs.k8s.io/json"

	"github.com/sluice-net/sluice/registry"
)

const (
	prefix          = "/sluice/v1/"
	servicePrefix   = prefix + "services/"
	vipPrefix       = prefix + "vips/"
	endpointPrefix  = prefix + "endpoints/"
	nodePrefix      = prefix + "nodes/"
	agentPrefix     = prefix + "agents/" // leases of nodes
	namespacePrefix = prefix + "namespaces/"
	policyPrefix    = prefix + "policies/"
	slicePrefix     = prefix + "slices/"
	nodePortPrefix  = prefix + "nodeports/"
	instancePrefix  = prefix + "instances/"
	leasePrefix     = prefix + "leases/"
	healthPrefix    = prefix + "health/"
	maxSegment      = 253       // bytes of one part of a key
	maxValue        = 256 << 10 // bytes of one value
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

func sliceKey(n registry.Name) (string, error) { return key(slicePrefix, n.Namespace, n.Name) }

func vipKey(a netip.Addr) string { return vipPrefix + a.Unmap().String() }

func endpointKey(id registry.EndpointID) (string, error) {
	return key(endpointPrefix, id.Node, id.ContainerID, id.Interface)
}

func namespaceKey(name string) (string, error) { return key(namespacePrefix, name) }

// policyKey is KIND/NAMESPACE/NAME below the prefix, or KIND/NAME for the cluster-wide kinds.
func policyKey(id registry.PolicyID) (string, error) {
	if id.Tier == registry.TierNamespaced {
		return key(policyPrefix, id.Tier.String(), id.Namespace, id.Name.Name)
	}
	return key(policyPrefix, id.Tier.String(), id.Name.Name)
}

func nodeKey(name string) (string, error) { return key(nodePrefix, name) }

// endpointRecord is an endpoint as it is stored: Labels are those it was wired with, Overrides
// those set (or with nil removed) since. The marks are conditions that hold since MarkEndpoint, whatever the
// endpoint itself says. All outlive a repeated PutEndpoint.
type endpointRecord struct {
	registry.Endpoint
	Overrides         map[string]*string `json:"overrides,omitempty"`
	MarkedUnready     bool               `json:"markedUnready,omitempty"`
	MarkedTerminating bool               `json:"markedTerminating,omitempty"`
}

// effective returns the endpoint with its overrides and marks applied.
func (r endpointRecord) effective() registry.Endpoint {
	e := r.Endpoint
	e.Unready = e.Unready || r.MarkedUnready
	e.Terminating = e.Terminating || r.MarkedTerminating
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
	return s, s.Validate()
}

// decodeSlice is strict: a condition that is not known, as it is a newer agent's, may say that an endpoint takes
// no traffic.
func decodeSlice(k, v []byte) (registry.Slice, error) {
	var s registry.Slice
	if err := decodeStrictly(v, &s); err != nil {
		return s, err
	}
	if want, err := sliceKey(s.Name); err != nil || want != string(k) {
		return s, fmt.Errorf("value names slice %q", s.Name)
	}
	return s, s.Validate()
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
	for _, p := range n.ContainerCIDRs {
		if !p.IsValid() {
			return n, fmt.Errorf("range %q", p)
		}
	}
	return n, validAddrs(n.Addresses)
}

func decodeNodeLease(k, v []byte) (registry.NodeLease, error) {
	var l registry.NodeLease
	if err := decode(v, &l); err != nil {
		return l, err
	}
	if want, err := key(agentPrefix, l.Node); err != nil || want != string(k) {
		return l, fmt.Errorf("value names node %q", l.Node)
	}
	return l, nil
}

func decodeNamespace(k, v []byte) (registry.Namespace, error) {
	var n registry.Namespace
	if err := decodeStrictly(v, &n); err != nil {
		return n, err
	}
	if want, err := namespaceKey(n.Name); err != nil || want != string(k) {
		return n, fmt.Errorf("value names namespace %q", n.Name)
	}
	return n, nil
}

func decodePolicy(k, v []byte) (registry.Policy, error) {
	var p registry.Policy
	if err := decodeStrictly(v, &p); err != nil {
		return p, err
	}
	if want, err := policyKey(p.PolicyID); err != nil || want != string(k) {
		return p, fmt.Errorf("value names %q", p.PolicyID)
	}
	return p, p.Validate()
}

func decode(v []byte, into any) error {
	if len(v) > maxValue {
		return fmt.Errorf("value has %d bytes, more than the %d allowed", len(v), maxValue)
	}
	return json.Unmarshal(v, into)
}

// decodeStrictly is decode for what keeps traffic away: a field that is not known, as it is a newer agent's, or
// misspelt, may have been there to narrow what is allowed. Without it the rest would mean more.
func decodeStrictly(v []byte, into any) error {
	if len(v) > maxValue {
		return fmt.Errorf("value has %d bytes, more than the %d allowed", len(v), maxValue)
	}
	strict, err := strictjson.UnmarshalStrict(v, into)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	return err
}

func validAddrs(list []netip.Addr) error {
	for _, a := range list {
		if !a.IsValid() || a.Zone() != "" {
			return fmt.Errorf("address %q", a)
		}
	}
	return nil
}
