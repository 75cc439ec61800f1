package eureka

import (
	"reflect"
	"sync/atomic"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// entry is an instance as it was after one change. It never changes; only renewed goes on, which all entries of an
// instance share.
type entry struct {
	key
	instance *registry.Instance // shared with all that read the registry; nil: it stands for a VIP
	record   *record            // nil: it did not come by this protocol
	wire     *wire.Instance     // as it is told of, but for the last renewal; see now
	stored   wire.Status        // what counts, but for health checks
	renewed  *atomic.Int64      // milliseconds since 1970; 0: not here
}

// newEntry tells of an instance. failing: its checks do. before is what was told of it last; nil: nothing.
func newEntry(i *registry.Instance, failing bool, before *entry) *entry {
	r := recordOf(i)
	w := wireOf(i, r)
	e := &entry{key: key{w.App, i.ID}, instance: i, record: r, wire: w, stored: w.Status, renewed: new(atomic.Int64)}
	if failing && w.Status == wire.Up {
		w.Status = wire.Down
	}
	if before == nil {
		return e
	}
	e.renewed = before.renewed
	said := w.Action
	w.Action = before.wire.Action
	if reflect.DeepEqual(w, before.wire) {
		e.wire = before.wire
		return e
	}
	if w.Action = said; r == nil || w.LastUpdated == before.wire.LastUpdated {
		w.Action = wire.Modified // by no registration
	}
	return e
}

// now is the instance with its last renewal.
func (e *entry) now() *wire.Instance {
	renewed := e.renewed.Load()
	if renewed <= e.wire.Lease.Renewed {
		return e.wire
	}
	w := *e.wire
	w.Lease.Renewed = renewed
	return &w
}

// gone tells that the instance is not there any more.
func (e *entry) gone(now time.Time) *entry {
	next, w := *e, *e.wire
	w.Action, w.Lease.Evicted, w.LastUpdated = wire.Deleted, now.UnixMilli(), now.UnixMilli()
	next.wire = &w
	return &next
}
