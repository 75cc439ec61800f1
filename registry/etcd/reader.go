package etcd

import (
	"maps"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/sluice-net/sluice/registry"
)

// reader makes changes of what is stored, for one watch. It remembers what a value that cannot be read must
// not undo.
type reader struct {
	*Store
	// readable holds, by key, the last version of each namespace and cluster-wide policy that could be read:
	// such a policy's Deny rules must not vanish, nor the labels by which rules choose.
	readable map[string]registry.Change
	// told holds, by key, the revision of the value that was last logged.
	told map[string]int64
	// at is the revision up to which everything was sent; 0: nothing was. cluster is whose revision it is.
	at      int64
	cluster uint64
}

func newReader(s *Store) *reader {
	return &reader{Store: s, readable: map[string]registry.Change{}, told: map[string]int64{}}
}

// change makes a change of one key's value, or of its deletion. ok is false for what is no object.
func (r *reader) change(kv *mvccpb.KeyValue, deleted bool) (c registry.Change, ok bool) {
	k, v := string(kv.Key), kv.Value
	if deleted {
		v = nil
	} else if v == nil {
		v = []byte{}
	}
	c, ok, err := change(kv.Key, v)
	if err != nil {
		return r.unreadable(kv, err)
	}
	delete(r.told, k)
	if deleted {
		delete(r.readable, k)
	} else if ok && lasts(c) {
		r.readable[k] = c
	}
	return c, ok
}

// lasts reports whether an object stays what it was when its value can no longer be read.
func lasts(c registry.Change) bool {
	return c.Namespace != nil || c.Policy != nil && c.Policy.Tier != registry.TierNamespaced
}

// unreadable returns what a value that cannot be read stands for, and logs it once.
func (r *reader) unreadable(kv *mvccpb.KeyValue, err error) (registry.Change, bool) {
	k := string(kv.Key)
	c, ok, stray := unreadable(kv.Key)
	ok = ok && stray == nil
	last, known := r.readable[k]
	if known {
		c = last
	}
	if r.told[k] == kv.ModRevision {
		return c, ok
	}
	r.told[k] = kv.ModRevision
	r.damaged.Add(1)
	said, log := "registry value is not valid and is ignored", r.log.Warn
	switch {
	case known:
		said, log = "registry value is not valid: what it was before stays in force until it is written again or deleted", r.log.Error
	case ok && lasts(c):
		said, log = "registry value is not valid: it is left out, with all that it may deny, until it is written again", r.log.Error
	case ok && !c.Deleted:
		said = "registry value is not valid: its namespace is isolated until it is written again or deleted"
	}
	log(said, "key", k, "revision", kv.ModRevision, "err", err)
	return c, ok
}

// remembers reports whether anything is known of a key, forget drops what is of some keys.
func (r *reader) remembers(key []byte) bool {
	_, readable := r.readable[string(key)]
	_, told := r.told[string(key)]
	return readable || told
}

func (r *reader) forget(gone func(key string) bool) {
	maps.DeleteFunc(r.readable, func(k string, _ registry.Change) bool { return gone(k) })
	maps.DeleteFunc(r.told, func(k string, _ int64) bool { return gone(k) })
}
