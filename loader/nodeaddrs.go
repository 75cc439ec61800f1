package loader

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// SetNodeAddresses tells which addresses this node has, all of them, besides those of its registry.Node:
// what containers send there always passes, as the NetworkPolicy specification has it. An address that a
// container here has stays the container's. A successor is to be told before it syncs, else the
// predecessor's go for a moment.
//
// On error some could not be written, and whoever would be judged wrongly for that is closed; the same
// call tries again.
func (l *Loader) SetNodeAddresses(addrs []netip.Addr) error {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	if l.closed {
		return errClosed
	}
	if err := l.isolation.setNodeAddresses(addrs); err != nil {
		return fmt.Errorf("set the node's addresses: %w", err)
	}
	return nil
}

func (s *isolation) setNodeAddresses(addrs []netip.Addr) error {
	now := make(map[prefixKey]struct{}, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			now[toPrefixKey(hostPrefix(a))] = struct{}{}
		}
	}
	var changed []prefixKey
	for key := range s.nodeAddrs {
		if _, stays := now[key]; !stays {
			changed = append(changed, key)
		}
	}
	for key := range now {
		if _, was := s.nodeAddrs[key]; !was {
			changed = append(changed, key)
		}
	}
	s.nodeAddrs = now
	concerned := slices.AppendSeq(slices.Clone(changed), maps.Keys(now))
	failed := slices.ContainsFunc(concerned, func(key prefixKey) bool { return s.dirtyPrefixes[key] != nil })
	for _, key := range changed {
		s.touchPrefix(key)
	}
	if len(changed) > 0 {
		_ = s.run() // it tells of everything that is not as it should be
	}
	if failed {
		_ = s.retry()
	}
	for _, key := range concerned {
		if err := s.dirtyPrefixes[key]; err != nil {
			return err
		}
	}
	return nil
}
