package etcd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-net/sluice/registry"
)

// maxHealth bounds the reason of a failed check, in bytes.
const maxHealth = 1024

// leaseValue is what stands under the key of a lease: that the key is there is all that counts.
const leaseValue = "{}"

// instanceKeys are the keys of one instance.
type instanceKeys struct{ instance, lease, health string }

func keysOf(id registry.InstanceID) (instanceKeys, error) {
	if err := id.Validate(); err != nil {
		return instanceKeys{}, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	name := id.String()
	return instanceKeys{instancePrefix + name, leasePrefix + name, healthPrefix + name}, nil
}

// idOf reads the identity out of one of an instance's keys.
func idOf(k, prefix string) (id registry.InstanceID, err error) {
	name := strings.TrimPrefix(k, prefix)
	if !fill(strings.Split(name, "/"), &id.Namespace, &id.Service, &id.ID) {
		return id, fmt.Errorf("key %s%.256q names nothing", prefix, name)
	}
	return id, id.Validate()
}

// encodeInstance returns the value of an instance that all agents can read.
func encodeInstance(i *registry.Instance) (string, error) {
	err := i.Validate()
	var v string
	if err == nil {
		v, err = encode(i)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	return v, nil
}

// decodeInstance reads a stored instance. A status that is not known, as it is a newer agent's, is none that takes
// traffic.
func decodeInstance(k, v []byte) (registry.Instance, error) {
	var i registry.Instance
	if err := decode(v, &i); err != nil {
		return i, err
	}
	if instancePrefix+i.InstanceID.String() != string(k) {
		return i, fmt.Errorf("value names instance %q", i.InstanceID)
	}
	for _, s := range []*registry.InstanceStatus{&i.Status, &i.Override} {
		if *s != "" && !slices.Contains(registry.InstanceStatuses(), *s) {
			*s = registry.InstanceUnknown
		}
	}
	return i, i.Validate()
}

// decodeLease reads no more than the key.
func decodeLease(k, _ []byte) (l registry.InstanceLease, err error) {
	l.InstanceID, err = idOf(string(k), leasePrefix)
	return l, err
}

func decodeHealth(k, v []byte) (registry.InstanceHealth, error) {
	var h registry.InstanceHealth
	if err := decode(v, &h); err != nil {
		return h, err
	}
	id, err := idOf(string(k), healthPrefix)
	switch {
	case err != nil:
		return h, err
	case id != h.InstanceID:
		return h, fmt.Errorf("value names instance %q", h.InstanceID)
	case len(h.Reason) > maxHealth || len(h.Node) > maxSegment:
		return h, errors.New("reason or node is too long")
	}
	return h, nil
}
