package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	maintainInterval = time.Minute // how often the file is looked at
	defragMinimum    = 64 << 20    // bytes that a defragmentation must win
)

// maintain gives space back to the file system (compaction frees pages inside the file only), and the RAM that
// compaction took, and lets the registry take writes again after it was full.
func (s *Store) maintain(ctx context.Context) {
	tick := time.NewTicker(maintainInterval)
	defer tick.Stop()
	var compacted compactions
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := errors.Join(s.defragment(defragMinimum), s.relieve(ctx))
		if compacted.over(s.server.Server.KV().FirstRev()) {
			err = errors.Join(err, s.PageOut())
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("registry maintenance failed", "err", err)
		}
	}
}

// compactions tells when one is over, each that began once.
type compactions struct {
	first int64 // revision that was left at the last look
	begun bool
}

// over is told the first revision that is left, which rises as soon as a compaction begins. By the next look, a minute
// later, it has read the database; that of a very large one is then the next's to see to.
func (c *compactions) over(first int64) bool {
	began := first != c.first
	over := c.begun && !began
	c.first, c.begun = first, began
	return over
}

// defragment rewrites the database when that wins at least so many bytes and half of the file.
func (s *Store) defragment(minimum int64) error {
	be := s.server.Server.Backend()
	size, used := be.Size(), be.SizeInUse()
	if size-used < minimum || used > size/2 {
		return nil
	}
	begin := time.Now()
	if err := be.Defrag(); err != nil {
		return fmt.Errorf("defragment registry: %w", err)
	}
	s.log.Info("registry defragmented", "bytesBefore", size, "bytesAfter", be.Size(),
		"took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// relieve ends etcd's "no space" alarm once dropping all old revisions has made room.
func (s *Store) relieve(ctx context.Context) error {
	for _, alarm := range s.server.Server.Alarms() {
		if alarm.GetAlarm() != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		r, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return fmt.Errorf("relieve registry: %w", err)
		}
		if err := s.compact(ctx, r.Header.Revision); err != nil {
			return err
		}
		if err := s.server.Server.Backend().Defrag(); err != nil {
			return fmt.Errorf("relieve registry: %w", err)
		}
		if size := s.server.Server.Backend().Size(); size > s.quota/10*9 {
			return fmt.Errorf("relieve registry: %d bytes are in use of a quota of %d: delete what is not needed", size, s.quota)
		}
		if _, err := s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{
			MemberID: alarm.GetMemberID(), Alarm: alarm.GetAlarm(),
		}); err != nil {
			return fmt.Errorf("relieve registry: %w", err)
		}
		s.log.Info("registry was full and takes writes again", "quota", s.quota)
	}
	return nil
}

// compact drops all revisions before the given one, and waits until their pages are free.
func (s *Store) compact(ctx context.Context, revision int64) error {
	_, err := s.client.Compact(ctx, revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact registry: %w", err)
	}
	return nil
}

// Health returns nil when the registry answers reads and takes writes.
func (s *Store) Health(ctx context.Context) error {
	if s.server == nil {
		return s.clusterHealth(ctx)
	}
	select {
	case <-s.server.Server.StopNotify():
		return errors.New("registry: etcd has stopped")
	default:
	}
	if alarms := s.server.Server.Alarms(); len(alarms) > 0 {
		return fmt.Errorf("registry: etcd raised alarm %s: it takes no writes", alarms[0].GetAlarm())
	}
	if _, err := s.client.Get(ctx, prefix, clientv3.WithKeysOnly()); err != nil {
		return fmt.Errorf("registry: read: %w", err)
	}
	return nil
}
