package health

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluice-net/sluice/registry"
)

type writeResult struct {
	of       *watched
	revision int64
	err      error
}

// write tells the registry, a few at once.
func (k *keeper) write() {
	taken := 0
	for ; taken < len(k.writes) && k.writing < writesAtOnce; taken++ {
		w := k.writes[taken]
		w.queued = false
		if _, failing := k.health[w.InstanceID]; !w.mine || failing == w.failing() {
			continue // it has changed its mind
		}
		w.queued = true
		k.writing++
		record := w.record(k.o.Node)
		k.spawn(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, writeTimeout)
			defer cancel()
			rev, err := k.o.Store.SetHealth(ctx, w.InstanceID, record)
			k.written <- writeResult{w, rev, err} // has room for all that are under way
		})
	}
	k.writes = slices.Delete(k.writes, 0, taken)
}

// record is what the registry is to say of an instance; nil: nothing.
func (w *watched) record(node string) *registry.InstanceHealth {
	if !w.failing() {
		return nil
	}
	return &registry.InstanceHealth{InstanceID: w.InstanceID, Node: node, Since: w.since, Reason: w.reason}
}

// wrote notes what became of a write. One that was refused is tried again, later each time.
func (k *keeper) wrote(r writeResult) {
	w := r.of
	k.writing--
	w.queued = false
	k.metrics.wrote(r.err)
	if r.err != nil && !errors.Is(r.err, context.Canceled) {
		if text := r.err.Error(); k.refused == "" {
			k.o.Logger.Warn("the registry does not take down what checks find; trying again", "error", text)
			k.refused = text
		}
		if w.mine {
			w.backoff = min(max(2*w.backoff, retryFirst), retryMost)
			k.agenda.set(&w.retry, time.Now().Add(w.backoff))
		}
		return
	}
	if k.refused != "" {
		k.o.Logger.Info("the registry takes down what checks find again")
		k.refused = ""
	}
	w.backoff = 0
	if k.watched[w.InstanceID] != w {
		return // it has gone, or has other checks now
	}
	if w.heard = r.revision; w.heard > k.revision {
		k.unheard[w] = struct{}{}
		return
	}
	k.reconcile(w)
}
