package etcd

import (
	"context"
	"crypto/rand"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// idKey holds what tells this registry from others. It is not below prefix: a backup that is brought back elsewhere does
// not make that registry this one.
const idKey = "/sluice/id"

// ID returns what tells the registry from others: all agents that share it are told the same, for good.
func (s *Store) ID(ctx context.Context) (string, error) {
	kv, err := s.get(ctx, idKey)
	if err == nil && kv == nil {
		_, err = s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(idKey), "=", 0)).
			Then(clientv3.OpPut(idKey, rand.Text())).Commit()
		if err == nil { // by this agent or another
			kv, err = s.get(ctx, idKey)
		}
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("identify registry: %w", err)
	case kv == nil:
		return "", fmt.Errorf("identify registry: %w", errConflict)
	}
	return string(kv.Value), nil
}
