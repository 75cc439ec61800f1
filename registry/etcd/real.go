package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// realAddresses knows who has which address in reality: containers and nodes. A follower of the store keeps it up
// to date, so that a service can be refused without reading all of them.
type realAddresses struct {
	mu       sync.Mutex
	revision int64                      // of the store, as of which this is
	moved    chan struct{}              // closed and replaced when the revision rises
	owners   map[netip.Addr][]realOwner // one as a rule; the last to come is the last
	byKey    map[string][]netip.Addr
}

// realOwner is who has an address.
type realOwner struct{ key, text string }

func newRealAddresses() *realAddresses {
	return &realAddresses{moved: make(chan struct{}), owners: map[netip.Addr][]realOwner{}, byKey: map[string][]netip.Addr{}}
}

// owner returns who has an address, or "".
func (r *realAddresses) owner(a netip.Addr) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if list := r.owners[a.Unmap()]; len(list) > 0 {
		return list[len(list)-1].text
	}
	return ""
}

// wait returns when a revision is known.
func (r *realAddresses) wait(ctx context.Context, revision int64) error {
	for {
		r.mu.Lock()
		done, moved := r.revision >= revision && r.revision > 0, r.moved
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("learn the addresses of containers and nodes: %w", ctx.Err())
		}
	}
}

// apply brings the index to a revision. With snapshot, kvs are all that there is.
func (r *realAddresses) apply(revision int64, snapshot bool, kvs []*mvccpb.KeyValue, deleted func(i int) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if snapshot {
		clear(r.owners)
		clear(r.byKey)
	}
	for i, kv := range kvs {
		k := string(kv.Key)
		for _, a := range r.byKey[k] {
			list := slices.DeleteFunc(r.owners[a], func(o realOwner) bool { return o.key == k })
			if r.owners[a] = list; len(list) == 0 {
				delete(r.owners, a)
			}
		}
		delete(r.byKey, k)
		if deleted(i) {
			continue
		}
		owner, addrs := ownerOf(kv)
		for _, a := range addrs {
			r.owners[a.Unmap()] = append(r.owners[a.Unmap()], realOwner{k, owner})
			r.byKey[k] = append(r.byKey[k], a.Unmap())
		}
	}
	r.revision = revision
	close(r.moved)
	r.moved = make(chan struct{})
}

// ownerOf reads whose addresses a key holds. What cannot be read has none: whoever watches the store says so.
func ownerOf(kv *mvccpb.KeyValue) (string, []netip.Addr) {
	switch k := string(kv.Key); {
	case strings.HasPrefix(k, endpointPrefix):
		if r, err := decodeEndpoint(kv.Key, kv.Value); err == nil {
			return fmt.Sprintf("container %s on node %s", r.Name, r.Node), r.Addresses
		}
	case strings.HasPrefix(k, nodePrefix):
		if n, err := decodeNode(kv.Key, kv.Value); err == nil {
			return "node " + n.Name, n.Addresses
		}
	}
	return "", nil
}

// followReal keeps s.reals up to date until ctx ends.
func (s *Store) followReal(ctx context.Context) {
	for wait := retryFirst; ctx.Err() == nil; wait = min(2*wait, retryMost) {
		err := s.followRealOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		s.log.Debug("the watch of real addresses starts again", "err", err, "in", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// followRealOnce follows from a snapshot on until something breaks. Endpoints and nodes have others between them,
// which do not change often.
func (s *Store) followRealOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all []*mvccpb.KeyValue
	var revision int64
	for _, p := range []string{endpointPrefix, nodePrefix} {
		r, err := s.client.Get(ctx, p, clientv3.WithPrefix(), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		all = append(all, r.Kvs...)
	}
	s.reals.apply(revision, true, all, func(int) bool { return false })
	end := clientv3.GetPrefixRangeEnd(nodePrefix)
	for response := range s.client.Watch(ctx, endpointPrefix, clientv3.WithRange(end), clientv3.WithRev(revision+1)) {
		if err := response.Err(); err != nil {
			return err
		}
		kvs := make([]*mvccpb.KeyValue, len(response.Events))
		for i, e := range response.Events {
			kvs[i] = e.Kv
		}
		if len(kvs) == 0 {
			continue
		}
		s.reals.apply(kvs[len(kvs)-1].ModRevision, false, kvs, func(i int) bool { return response.Events[i].Type == clientv3.EventTypeDelete })
	}
	return errWatchEnded
}

// real returns what an address is in reality, or "" if nothing that is known of.
func (s *Store) real(a netip.Addr) string {
	for _, p := range s.containers {
		if p.Contains(a) {
			return fmt.Sprintf("lies in the containers' range %s", p)
		}
	}
	if owner := s.reals.owner(a); owner != "" {
		return "is an address of " + owner
	}
	return ""
}

// checkReal refuses addresses that a service asks for and that containers or nodes have. What it has already, it
// keeps: a range that was configured later takes no address away.
func (s *Store) checkReal(req *registry.ServiceRequest, old *registry.Service) error {
	had := footprint(old)
	for _, list := range [][]netip.Addr{req.VIPs, externals(&req.Service)} {
		for _, a := range list {
			k := vipKey(a)
			if _, has := had[k]; has {
				continue
			}
			if what := s.real(a); what != "" {
				return &registry.FieldError{Field: fieldOf(&req.Service, old, k, ""), Err: fmt.Errorf("%w: %s %s%s", registry.ErrVIPTaken, a, what, advice(what))}
			}
		}
	}
	return nil
}

// advice says what to do about the address of a node.
func advice(what string) string {
	if strings.HasPrefix(what, "is an address of node ") {
		return ": type NodePort makes a service reachable there"
	}
	return ""
}

// warnOfRanges tells of services whose addresses lie in a range that containers get theirs from: it is another
// configuration than the one under which they got them, and a container may get the same.
func (s *Store) warnOfRanges(ctx context.Context) {
	if len(s.containers) == 0 {
		return
	}
	taken, err := s.taken(ctx)
	for wait := retryFirst; err != nil; wait = min(2*wait, retryMost) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		taken, err = s.taken(ctx)
	}
	for a := range taken {
		for _, p := range s.containers {
			if p.Contains(a) {
				s.log.Error("a service has an address of the containers' range: delete the service, or configure another range", "address", a, "range", p)
			}
		}
	}
}
