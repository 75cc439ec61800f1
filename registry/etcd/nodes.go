package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// agentLease is for how many seconds a node's agent counts as alive after its last word.
const agentLease = 30

// PutNode writes a node, unless it stands there already. The error wraps registry.ErrInvalid when another node has
// containers in the same range.
func (s *Store) PutNode(ctx context.Context, n registry.Node) (int64, error) {
	rev, err := s.putNode(ctx, n)
	if err != nil {
		return 0, fmt.Errorf("put node %s: %w", n.Name, err)
	}
	return rev, nil
}

func (s *Store) putNode(ctx context.Context, n registry.Node) (int64, error) {
	k, err := nodeKey(n.Name)
	if err != nil {
		return 0, err
	}
	if err := validAddrs(n.Addresses); err != nil {
		return 0, err
	}
	v, err := encode(n)
	if err != nil {
		return 0, err
	}
	old, err := s.get(ctx, k)
	if err != nil {
		return 0, err
	}
	if old != nil && string(old.Value) == v {
		return old.ModRevision, nil
	}
	if s.server == nil { // or else there is no other node
		if err := s.checkOverlap(ctx, n); err != nil {
			return 0, err
		}
	}
	r, err := s.client.Put(ctx, k, v)
	if err != nil {
		return 0, err
	}
	return s.moved(r.Header.Revision), nil
}

// checkOverlap refuses a node whose containers would have addresses of another node's containers.
func (s *Store) checkOverlap(ctx context.Context, n registry.Node) error {
	r, err := s.client.Get(ctx, nodePrefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for _, kv := range r.Kvs {
		other, err := decodeNode(kv.Key, kv.Value)
		if err != nil || other.Name == n.Name {
			continue
		}
		for _, a := range n.ContainerCIDRs {
			for _, b := range other.ContainerCIDRs {
				if a.Overlaps(b) {
					return fmt.Errorf("%w: range %s of containers.cidrs overlaps %s of node %s: each node needs its own (\"sluice delete node %s\" if that one is no more)",
						registry.ErrInvalid, a, b, other.Name, other.Name)
				}
			}
		}
	}
	return nil
}

// DeleteNode removes a node that is no more, with the endpoints that it had. The error wraps registry.ErrNotFound, or
// registry.ErrInvalid while its agent is at work.
func (s *Store) DeleteNode(ctx context.Context, name string) (int64, error) {
	rev, err := s.deleteNode(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("delete node %s: %w", name, err)
	}
	return rev, nil
}

func (s *Store) deleteNode(ctx context.Context, name string) (int64, error) {
	node, err := nodeKey(name)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	agent, endpoints := agentPrefix+name, endpointPrefix+name+"/"
	r, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(agent), "=", 0), clientv3.Compare(clientv3.CreateRevision(node), ">", 0)).
		Then(clientv3.OpDelete(node), clientv3.OpDelete(endpoints, clientv3.WithPrefix())).
		Else(clientv3.OpGet(agent)).Commit()
	switch {
	case err != nil:
		return 0, err
	case r.Succeeded:
		return s.moved(r.Header.Revision), nil
	case r.Responses[0].GetResponseRange().GetCount() > 0:
		return 0, fmt.Errorf("%w: its agent is at work: stop it first, it is gone %d s after", registry.ErrInvalid, agentLease)
	}
	return 0, registry.ErrNotFound
}

// KeepNodeLease tells the others that this node's agent is at work, until ctx ends. What fails is tried again.
func (s *Store) KeepNodeLease(ctx context.Context, l registry.NodeLease) {
	for wait := retryFirst; ctx.Err() == nil; wait = min(2*wait, retryMost) {
		began := time.Now()
		err := s.keepNodeLease(ctx, l)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Second*agentLease {
			wait = retryFirst
		}
		s.log.Debug("the node's lease ended and is taken again", "err", err, "in", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (s *Store) keepNodeLease(ctx context.Context, l registry.NodeLease) error {
	k, err := key(agentPrefix, l.Node)
	if err != nil {
		return err
	}
	v, err := encode(l)
	if err != nil {
		return err
	}
	grant, err := within(ctx, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return s.client.Grant(ctx, agentLease)
	})
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() == nil {
			return // the next lease takes the key over
		}
		// Who is stopped on purpose is away at once.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		_, _ = s.client.Revoke(last, grant.ID)
	}()
	if _, err := s.client.Put(ctx, k, v, clientv3.WithLease(grant.ID)); err != nil {
		return err
	}
	alive, err := s.client.KeepAlive(ctx, grant.ID)
	if err != nil {
		return err
	}
	for range alive {
	}
	return errors.New("the store let it lapse")
}

// KeepOnly deletes every node but one, and the endpoints of all others. A store that is embedded in the
// agent knows of no other node than the agent's: what bears another name is the same machine's before
// it was renamed, and its endpoints would be backends for good. It returns the revision after that,
// and how many keys went.
func (s *Store) KeepOnly(ctx context.Context, node string) (rev int64, gone int, err error) {
	for _, prefix := range []string{nodePrefix, endpointPrefix, agentPrefix} {
		r, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return 0, gone, fmt.Errorf("forget other nodes: %w", err)
		}
		rev = max(rev, s.written.Load())
		for _, kv := range r.Kvs {
			name, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), prefix), "/")
			if name == node {
				continue
			}
			d, err := s.client.Delete(ctx, string(kv.Key))
			if err != nil {
				return 0, gone, fmt.Errorf("forget other nodes: %w", err)
			}
			if d.Deleted > 0 { // or else the revision is another write's, which those who wait for ours may never hear of
				rev, gone = s.moved(d.Header.Revision), gone+int(d.Deleted)
			}
		}
	}
	return rev, gone, nil
}
