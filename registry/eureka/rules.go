package eureka

import (
	"cmp"
	"strings"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// An instance says of itself what it is, and an operator may say otherwise (an override). What counts follows from
// rules of which the first that fits holds:
//
//  1. An instance that says that it is neither UP nor OUT_OF_SERVICE is what it says.
//  2. An override counts for more than what the instance says.
//  3. One that is UP or OUT_OF_SERVICE already stays it, whichever of the two it says when it registers again; not so if
//     a peer tells of it.
//  4. An instance is what it says.
//
// In the registry, an override makes an instance that is not up a backend. So an override UP is held back while rule 1
// applies.

// settled reports whether a status is one that overrides apply to.
func settled(s registry.InstanceStatus) bool {
	return s == registry.InstanceUp || s == registry.InstanceOutOfService || s == registry.InstanceDraining
}

// word is a status of the registry in this protocol, which has none for draining.
func word(s registry.InstanceStatus) wire.Status {
	if s == registry.InstanceDraining {
		return wire.OutOfService
	}
	status, _ := wire.ParseStatus(string(s))
	return status
}

// storedStatus is what counts, but for health checks.
func storedStatus(i *registry.Instance) wire.Status {
	if !settled(i.Status) && i.Override != registry.InstanceUp {
		return word(i.Status)
	}
	return word(i.Effective())
}

// override is what an operator says; Unknown: nothing.
func override(i *registry.Instance, r *record) wire.Status {
	switch {
	case i.Override != "":
		return word(i.Override)
	case r != nil && r.Held != "" && !settled(i.Status):
		return r.Held
	}
	return wire.Unknown
}

// setOverride makes s the override of an instance that says what its Status is.
func setOverride(i *registry.Instance, r *record, s wire.Status) {
	i.Override, r.Held = "", ""
	switch {
	case s == wire.Up && !settled(i.Status):
		r.Held = s
	default:
		i.Override = registry.InstanceStatus(s)
	}
}

// register decides about an instance that registers, and about its status. old is what there is; nil: nothing.
func register(namespace string, w *wire.Instance, old *registry.Instance, replicated bool, now time.Time) (registry.Instance, error) {
	var before *record
	if old != nil {
		before = recordOf(old)
	}
	if before != nil && before.LastDirty > w.LastDirty && w.LastDirty != 0 {
		// What is known is newer.
		next, r := *old, *before
		r.Action = wire.Added
		return next, r.store(&next)
	}
	next, r := instanceOf(namespace, w), newRecord(w)
	if r.LastDirty == 0 {
		r.LastDirty = now.UnixMilli()
	}
	over := wire.Unknown
	if old != nil {
		next.Checks, next.Node = old.Checks, old.Node
		next.Weight = cmp.Or(next.Weight, old.Weight)
		over = override(old, before)
	}
	if before != nil {
		r.Up = before.Up
	}
	keep := old != nil && old.Override == registry.InstanceDraining // more than Eureka can say
	if over == wire.Unknown {
		over = w.Overridden
	}
	switch {
	case keep:
		next.Override = old.Override
	case over != wire.Unknown:
		setOverride(&next, r, over)
	case settled(next.Status) && !replicated && old != nil && settled(old.Status):
		next.Status = old.Status
	}
	if r.Up == 0 && storedStatus(&next) == wire.Up {
		r.Up = now.UnixMilli()
	}
	return next, r.store(&next)
}

// setStatus does what an operator asks for. dirty is the client's time that the operator knows of; 0: none.
func setStatus(i *registry.Instance, s wire.Status, dirty int64, now time.Time) error {
	r := recordOf(i)
	if r == nil {
		i.Override = registry.InstanceStatus(s)
		return nil
	}
	if !settled(i.Status) {
		i.Status = registry.InstanceStatus(s)
	}
	setOverride(i, r, s)
	r.LastDirty, r.Action = max(r.LastDirty, dirty), wire.Modified
	if s == wire.Up && r.Up == 0 {
		r.Up = now.UnixMilli()
	}
	return r.store(i)
}

// dropStatus takes an override back. The instance is what is asked for then, or unknown until it registers again; one
// that came in another way is what it says.
func dropStatus(i *registry.Instance, s wire.Status, dirty int64) error {
	r := recordOf(i)
	if override(i, r) == wire.Unknown && i.Override == "" {
		return nil
	}
	i.Override = ""
	if r == nil {
		return nil
	}
	i.Status, r.Held = registry.InstanceStatus(s), ""
	r.LastDirty, r.Action = max(r.LastDirty, dirty), wire.Modified
	return r.store(i)
}

// mergeMetadata adds to what there is.
func mergeMetadata(i *registry.Instance, add map[string]string) error {
	m := make(map[string]string, len(i.Metadata)+len(add))
	for _, from := range []map[string]string{i.Metadata, add} {
		for k, v := range from {
			m[strings.ToValidUTF8(k, "\uFFFD")] = strings.ToValidUTF8(v, "\uFFFD")
		}
	}
	delete(m, "")
	r := recordOf(i)
	if r == nil {
		i.Metadata = m
		return nil
	}
	zone := i.Zone
	setMetadata(i, m)
	i.Zone = cmp.Or(i.Zone, zone)
	r.Action = wire.Added
	return r.store(i)
}
