package etcd

import (
	"bytes"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-net/sluice/registry"
)

// contents returns what is stored below our prefix, but for what leases and revisions make different.
func contents(t *testing.T, s *Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, p := range append(restored(), leasePrefix) {
		r, err := s.client.Get(t.Context(), p, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range r.Kvs {
			all[string(kv.Key)] = string(kv.Value)
		}
	}
	return all
}

func backUp(t *testing.T, s *Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func registered(t *testing.T, s *Store, id string) registry.InstanceID {
	t.Helper()
	i := registry.Instance{
		InstanceID: registry.InstanceID{Namespace: "default", Service: "shop", ID: id},
		Addresses:  addrs("10.1.0.1"), Status: registry.InstanceUp, Lease: 60,
		Ports: []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}},
	}
	if _, _, err := s.Register(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	return i.InstanceID
}

// TestRestore: what was changed, made and deleted since the backup is as it was, in the same registry and in an
// empty one; what says which containers there are is not touched; the leases are alive.
func TestRestore(t *testing.T) {
	s := open(t, defaultCIDRs...)
	put(t, s, web("a"))
	put(t, s, web("b"))
	kept, gone := registered(t, s, "kept"), registered(t, s, "gone")
	old := slice("old")
	if _, _, err := s.Commit(t.Context(), []registry.Change{{Slice: &old}}); err != nil {
		t.Fatal(err)
	}
	backup, before := backUp(t, s), contents(t, s)

	if _, err := s.DeleteService(t.Context(), web("a").Name); err != nil {
		t.Fatal(err)
	}
	changed := web("b")
	changed.Selector = map[string]string{"app": "other"}
	put(t, s, changed)
	put(t, s, web("c")) // takes a's address, perhaps
	if _, err := s.Deregister(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	later := registered(t, s, "later")
	forGood := instance("shop", 1)
	forGood.InstanceID, forGood.Lease = kept, 0
	register(t, s, forGood)
	if _, err := s.PutEndpoint(t.Context(), endpoint(1)); err != nil {
		t.Fatal(err)
	}

	out, err := s.Restore(t.Context(), t.TempDir(), bytes.NewReader(backup))
	if err != nil {
		t.Fatal(err)
	}
	if now := contents(t, s); !reflect.DeepEqual(now, before) {
		t.Errorf("restored:\n%v\nwant:\n%v", now, before)
	}
	if out.Written == 0 || out.Deleted == 0 || out.Unchanged == 0 || out.Revision == 0 {
		t.Errorf("told %+v", out)
	}
	if list, err := s.Endpoints(t.Context(), "n1"); err != nil || len(list) != 1 {
		t.Errorf("%d endpoints, %v: want the one that came after the backup", len(list), err)
	}
	for _, id := range []registry.InstanceID{kept, gone} {
		if _, lease := stored(t, s, id); lease == 0 {
			t.Errorf("%s came back without a lease", id)
		}
		if err := s.Renew(t.Context(), id); err != nil {
			t.Errorf("renew %s: %v", id, err)
		}
	}
	until(t, "the end of what came later is known", func() bool { _, ok := s.instances.get(later); return !ok })
	if err := s.Renew(t.Context(), later); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("an instance from after the backup is renewed: %v", err)
	}
	audit(t, s)

	again, err := s.Restore(t.Context(), t.TempDir(), bytes.NewReader(backup))
	if err != nil || again.Written+again.Deleted > 0 || again.Unchanged == 0 {
		t.Errorf("restored again: %+v, %v", again, err)
	}
	fresh := open(t, defaultCIDRs...)
	if _, err := fresh.Restore(t.Context(), t.TempDir(), bytes.NewReader(backup)); err != nil {
		t.Fatal(err)
	}
	if now := contents(t, fresh); !reflect.DeepEqual(now, before) {
		t.Errorf("restored into an empty registry:\n%v\nwant:\n%v", now, before)
	}
}

// TestRestoreRefused: what is no backup, or not whole, changes nothing.
func TestRestoreRefused(t *testing.T) {
	s := open(t, defaultCIDRs...)
	empty := backUp(t, s)
	put(t, s, web("a"))
	backup, before := backUp(t, s), contents(t, s)
	flipped := bytes.Clone(backup)
	flipped[len(flipped)/2] ^= 1
	for name, b := range map[string][]byte{
		"nothing": nil, "text": []byte("apiVersion: v1"), "cut": backup[:len(backup)/2], "without its sum": backup[:len(backup)-32],
		"changed": flipped, "of an empty registry": empty,
	} {
		_, err := s.Restore(t.Context(), t.TempDir(), bytes.NewReader(b))
		if !errors.Is(err, registry.ErrInvalid) || !strings.HasPrefix(err.Error(), "restore registry: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := contents(t, s); !reflect.DeepEqual(now, before) {
		t.Errorf("the registry has changed: %v", now)
	}
}

// FuzzBackup reads backups with whatever revisions and values.
func FuzzBackup(f *testing.F) {
	revision := []byte{0, 0, 0, 0, 0, 0, 0, 2, '_', 0, 0, 0, 0, 0, 0, 0, 0}
	kv, err := proto.Marshal(&mvccpb.KeyValue{Key: []byte(servicePrefix + "a/b"), Value: []byte("{}")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(revision, kv, append(revision[:16:16], 1, 't'), kv)
	f.Add(revision, kv, append(revision[:16:16], 1), []byte{})
	f.Fuzz(func(t *testing.T, revision, kv, revision2, kv2 []byte) {
		file := filepath.Join(t.TempDir(), "db")
		db, err := bbolt.Open(file, 0o600, &bbolt.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte(keyBucket))
			if err != nil {
				return err
			}
			return errors.Join(b.Put(revision, kv), b.Put(revision2, kv2))
		})
		if db.Close(); err != nil {
			t.Skip(err) // bbolt takes no empty key
		}
		keys, err := readKeys(file)
		for k := range keys {
			if err != nil || !strings.HasPrefix(k, prefix) {
				t.Errorf("read key %q, %v", k, err)
			}
		}
		if err == nil && len(keys) == 0 {
			t.Error("a backup that holds nothing was read")
		}
	})
}
