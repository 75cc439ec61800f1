package etcd

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// What a restore writes in one transaction: what a cluster takes that was started without further ado.
const (
	restoreOps   = 40 // an instance takes three
	restoreBytes = 1 << 20
)

// restored are the prefixes of what users wrote, in the order in which it is brought back. The rest tells what is at
// this moment (containers, nodes, leases, health) and is left as it is.
func restored() []string {
	return []string{namespacePrefix, policyPrefix, vipPrefix, nodePortPrefix, servicePrefix, slicePrefix, instancePrefix}
}

// Restore makes the registry what it was when a backup was made, while everything goes on: what has not changed since
// is not touched, and agents see no more than the difference. Instances get fresh leases. A backup that holds
// anything that cannot be read is refused, with an error that wraps registry.ErrInvalid, and changes nothing. dir
// is for a temporary file.
func (s *Store) Restore(ctx context.Context, dir string, backup io.Reader) (out registry.Restored, err error) {
	want, err := readBackup(dir, backup)
	if err != nil {
		return out, fmt.Errorf("restore registry: %w", err)
	}
	for k, v := range want {
		if _, _, err := change([]byte(k), v); err != nil && isRestored(k) {
			return out, fmt.Errorf("restore registry: %w: key %s of the backup: %w", registry.ErrInvalid, k, err)
		}
	}
	for range maxAttempts {
		done, err := s.restoreOnce(ctx, want, &out)
		if err != nil {
			return out, fmt.Errorf("restore registry: %w: it is partly restored: run it again", err)
		}
		if done {
			return out, nil
		}
	}
	return out, fmt.Errorf("restore registry: %w", errConflict)
}

func isRestored(k string) bool {
	return slices.ContainsFunc(restored(), func(p string) bool { return strings.HasPrefix(k, p) })
}

// restoreOnce writes the difference between what is there now and what is wanted. It is not done if somebody else
// wrote meanwhile.
func (s *Store) restoreOnce(ctx context.Context, want saved, out *registry.Restored) (done bool, err error) {
	now := map[string]*mvccpb.KeyValue{}
	for _, p := range restored() {
		if err := s.list(ctx, p, func(kv *mvccpb.KeyValue) { now[string(kv.Key)] = kv }); err != nil {
			return false, err
		}
	}
	out.Unchanged = 0
	var writes []write
	for _, p := range restored() {
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if !strings.HasPrefix(k, p) {
				continue
			}
			if kv := now[k]; kv != nil && string(kv.Value) == string(want[k]) {
				out.Unchanged++
				continue
			}
			writes = append(writes, write{key: k, value: string(want[k])})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(now)) {
		if _, wanted := want[k]; !wanted {
			writes = append(writes, write{key: k, deleted: true})
		}
	}
	for len(writes) > 0 {
		n := restorable(writes)
		ok, err := s.restoreSome(ctx, writes[:n], now, out)
		if err != nil || !ok {
			return false, err
		}
		writes = writes[n:]
	}
	return true, nil
}

// restorable returns how many of the writes go into one transaction.
func restorable(writes []write) int {
	size := 0
	for i, w := range writes {
		if size += len(w.key) + len(w.value); i > 0 && (size > restoreBytes || i >= restoreOps) {
			return i
		}
	}
	return len(writes)
}

func (s *Store) restoreSome(ctx context.Context, writes []write, now map[string]*mvccpb.KeyValue, out *registry.Restored) (bool, error) {
	var conditions []clientv3.Cmp
	var ops []clientv3.Op
	for _, w := range writes {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(w.key), "=", modRevision(now[w.key])))
		if w.deleted {
			ops = append(ops, clientv3.OpDelete(w.key))
		} else {
			ops = append(ops, clientv3.OpPut(w.key, w.value))
		}
		if strings.HasPrefix(w.key, instancePrefix) {
			more, err := s.restoreLease(ctx, w, now[w.key])
			if err != nil {
				return false, err
			}
			ops = append(ops, more...)
		}
	}
	r, err := s.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil || !r.Succeeded {
		return false, err
	}
	out.Revision = s.wrote(r.Header.Revision)
	for _, w := range writes {
		if w.deleted {
			out.Deleted++
		} else {
			out.Written++
		}
	}
	return true, nil
}

// restoreLease returns what else is to be written of an instance: what goes leaves nothing behind, what comes back
// gets a fresh lease. One that is there has its own, unless that is of another duration.
func (s *Store) restoreLease(ctx context.Context, w write, now *mvccpb.KeyValue) ([]clientv3.Op, error) {
	name := strings.TrimPrefix(w.key, instancePrefix)
	if w.deleted {
		return []clientv3.Op{clientv3.OpDelete(leasePrefix + name), clientv3.OpDelete(healthPrefix + name)}, nil
	}
	i, err := decodeInstance([]byte(w.key), []byte(w.value))
	if err != nil || i.Lease == 0 {
		return nil, err
	}
	if now != nil {
		if ttl, err := durationOf(now.Value); err == nil && ttl == i.Lease {
			return nil, nil
		}
	}
	g, err := within(ctx, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return s.client.Grant(ctx, int64(i.Lease))
	})
	if err != nil {
		return nil, err
	}
	return []clientv3.Op{clientv3.OpPut(leasePrefix+name, leaseValue, clientv3.WithLease(g.ID))}, nil
}

// list reads what is below a prefix, a page at a time.
func (s *Store) list(ctx context.Context, prefix string, each func(*mvccpb.KeyValue)) error {
	end, revision := clientv3.GetPrefixRangeEnd(prefix), int64(0)
	for from := prefix; ; {
		page, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		revision = page.Header.Revision
		for _, kv := range page.Kvs {
			each(kv)
		}
		if !page.More {
			return nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}
