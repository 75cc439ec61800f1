package loader

import (
	"crypto/sha256"
	"fmt"
	"time"
)

// numbered is a name that has a number in map numbers.
type numbered struct {
	digest numberKey
	number uint32
	refs   int // what leads to it; who asks for the number counts himself
}

// numberer gives names of one kind their numbers, the same ones after a restart. A number is written
// before anyone uses it.
type numberer struct {
	kind     uint32 // enum number_kind
	tables   isolationTables
	ids      *idAllocator
	byDigest map[numberKey]*numbered
	byNumber map[uint32]*numbered
}

func newNumberer(kind uint32, t isolationTables, name string, limit uint32, grace time.Duration, now func() time.Time) *numberer {
	return &numberer{
		kind: kind, tables: t, ids: newIDAllocator(name, limit, grace, now),
		byDigest: map[numberKey]*numbered{}, byNumber: map[uint32]*numbered{},
	}
}

// digestOf returns a name's key in map numbers.
func digestOf(kind uint32, name string) (k numberKey) {
	words := map[uint32]string{numberIdentity: "identity", numberNetwork: "network", numberPolicy: "policy"}
	sum := sha256.Sum256([]byte(words[kind] + "\x00" + name))
	copy(k.Digest[:], sum[:])
	return k
}

// get returns the number of a name, a new one if it has none. The error wraps ErrFull when there is no
// room. prepare is called with a new number before it is written; it may be nil.
func (n *numberer) get(name string, prepare func(uint32) error) (*numbered, error) {
	digest := digestOf(n.kind, name)
	if have := n.byDigest[digest]; have != nil {
		return have, nil
	}
	id, err := n.ids.alloc()
	if err != nil {
		return nil, err
	}
	if prepare != nil {
		err = prepare(id)
	}
	if err == nil {
		err = n.tables.putNumber(digest, numberEntry{Number: id, Kind: n.kind})
	}
	if err != nil {
		n.ids.cancel(id)
		return nil, err
	}
	return n.add(digest, id), nil
}

func (n *numberer) add(digest numberKey, id uint32) *numbered {
	v := &numbered{digest: digest, number: id}
	n.byDigest[digest], n.byNumber[id] = v, v
	return v
}

// drop takes a number back. It rests before it means something else.
func (n *numberer) drop(v *numbered) error {
	if err := n.tables.deleteNumber(v.digest); err != nil {
		return err
	}
	delete(n.byDigest, v.digest)
	delete(n.byNumber, v.number)
	n.ids.free(v.number)
	return nil
}

// restore takes over a number that a predecessor gave.
func (n *numberer) restore(digest numberKey, id uint32) error {
	if err := n.ids.restore(id); err != nil {
		return fmt.Errorf("number %x: %w", digest.Digest, err)
	}
	n.add(digest, id)
	return nil
}
