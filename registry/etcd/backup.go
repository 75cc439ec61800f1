package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-net/sluice/registry"
)

const (
	// The shape of etcd's snapshots (etcdctl snapshot save): a bbolt file of whole pages, and the SHA-256 of it.
	boltPage = 512
	// keyBucket holds every revision of every key as (main, '_', sub) in big-endian form, followed by 't' where it is
	// a deletion (go.etcd.io/etcd/server/v3, storage/mvcc/revision.go).
	keyBucket   = "key"
	revisionLen = 8 + 1 + 8
	maxBackup   = 8 << 30 // bytes
)

var errNoBackup = fmt.Errorf("%w: not a backup", registry.ErrInvalid)

// Backup writes a snapshot of the store to w, in the form that etcdctl and etcdutl know too.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	r, err := s.client.SnapshotWithVersion(ctx)
	if err != nil {
		return fmt.Errorf("back up registry: %w", unavailable(err))
	}
	defer r.Snapshot.Close()
	if _, err := io.Copy(w, r.Snapshot); err != nil {
		return fmt.Errorf("back up registry: %w", err)
	}
	return nil
}

// saved is what a backup holds of ours: by key, the value.
type saved map[string][]byte

// readBackup spools a backup into a file of dir, where bbolt can look at it, and reads the last version of our keys.
func readBackup(dir string, r io.Reader) (saved, error) {
	f, err := os.CreateTemp(dir, "restore-*.db")
	if err != nil {
		return nil, fmt.Errorf("keep backup: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	size, err := io.Copy(f, io.LimitReader(r, maxBackup+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("keep backup: %w", err)
	case size > maxBackup:
		return nil, fmt.Errorf("%w: more than %d bytes", errNoBackup, int64(maxBackup))
	}
	if err := checkSum(f, size); err != nil {
		return nil, err
	}
	return readKeys(f.Name())
}

// checkSum compares the SHA-256 at the end of a snapshot with the rest, and cuts it off.
func checkSum(f *os.File, size int64) error {
	if size%boltPage != sha256.Size || size < boltPage {
		return fmt.Errorf("%w: %d bytes are no whole snapshot with its checksum", errNoBackup, size)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size-sha256.Size)); err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	var want [sha256.Size]byte
	if _, err := f.ReadAt(want[:], size-sha256.Size); err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return fmt.Errorf("%w: its checksum is wrong: it was cut or changed", errNoBackup)
	}
	return f.Truncate(size - sha256.Size)
}

// readKeys walks through all revisions in order, so that the last one of each key stays.
func readKeys(file string) (keys saved, err error) {
	// bbolt trusts the pages' links, and the sum says only that nobody broke them by accident: whoever may restore
	// may do anything, so it is enough that a file which no etcd has written ends in an error here most times.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errNoBackup, p)
		}
	}()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: startTimeout})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBackup, err)
	}
	defer db.Close()
	keys = saved{}
	err = db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(keyBucket))
		if bucket == nil {
			return fmt.Errorf("%w: it has no keys of etcd", errNoBackup)
		}
		var last []byte
		return bucket.ForEach(func(revision, value []byte) error {
			if len(revision) != revisionLen && len(revision) != revisionLen+1 || bytes.Compare(revision[:revisionLen], last) <= 0 {
				return fmt.Errorf("%w: revision %x", errNoBackup, revision)
			}
			last = append(last[:0], revision[:revisionLen]...)
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(value, &kv); err != nil {
				return fmt.Errorf("%w: revision %x: %w", errNoBackup, revision, err)
			}
			switch k := string(kv.Key); {
			case !strings.HasPrefix(k, prefix):
			case len(revision) > revisionLen:
				delete(keys, k)
			default:
				keys[k] = bytes.Clone(kv.Value)
			}
			return nil
		})
	})
	switch {
	case err != nil:
		return nil, err
	case len(keys) == 0:
		return nil, fmt.Errorf("%w: the backup holds nothing of Sluice's: a restore would empty the registry", registry.ErrInvalid)
	}
	return keys, nil
}
