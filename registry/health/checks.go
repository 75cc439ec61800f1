package health

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// due has a check wait for its turn.
func (k *keeper) due(t *task) {
	if t.failing {
		k.failing.push(t)
	} else {
		k.ready.push(t)
	}
}

// proceed starts what is due and has room, and has the timer go off when more is due.
func (k *keeper) proceed(timer *time.Timer) {
	now := time.Now()
	for e := k.agenda.next(now); e != nil; e = k.agenda.next(now) {
		e.fire()
	}
	for k.running < k.o.AtOnce {
		t := k.ready.pop()
		if t == nil && k.slow < k.o.AtOnce/2 {
			t = k.failing.pop()
		}
		if t == nil {
			break
		}
		k.start(t)
	}
	k.metrics.waiting.Store(int64(len(k.ready.list) + len(k.failing.list)))
	k.write()
	if due, any := k.agenda.first(); any {
		timer.Reset(time.Until(due))
	} else {
		timer.Stop()
	}
}

// start asks once, in a goroutine of its own.
func (k *keeper) start(t *task) {
	r := result{task: t, slow: t.failing, started: time.Now()}
	k.running++
	if r.slow {
		k.slow++
	}
	k.spawn(func(ctx context.Context) {
		_, ms := t.check.Times()
		ctx, cancel := context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
		r.err = k.o.probe(ctx, t)
		k.results <- r // has room for all that are under way
	})
}

// judge takes down what a check found, and says when to ask again: a tenth of the interval earlier than it at most, so
// that checks that began together do not stay so.
func (k *keeper) judge(r result) {
	t := r.task
	k.running--
	if r.slow {
		k.slow--
	}
	k.metrics.asked(t.check.Type, time.Since(r.started), r.err)
	if t.dead {
		return
	}
	every := interval(t.check)
	k.agenda.set(&t.entry, r.started.Add(every-time.Duration(rand.Int64N(int64(every)/10+1))))
	if ours(r.err) {
		if !k.short {
			k.o.Logger.Warn("health checks cannot be made: what was found last holds", "error", r.err)
		}
		k.short = true
		return
	}
	k.short = false
	before := t.of.failing()
	if !t.saw(r.err == nil) {
		return
	}
	if now := t.of.failing(); now != before {
		if now {
			t.of.since, t.of.reason = time.Now(), reason(t.check, r.err)
		}
		k.count(t.of)
		k.reconcile(t.of)
	}
}

// saw counts a result, and reports whether the check has changed its mind.
func (t *task) saw(well bool) bool {
	if well != t.failing {
		t.streak = 0
		return false
	}
	need := max(t.check.Fall, 1)
	if well {
		need = max(t.check.Rise, 1)
	}
	if t.streak++; t.streak < need {
		return false
	}
	t.failing, t.streak = !well, 0
	return true
}

// count keeps the metric of those that fail.
func (k *keeper) count(w *watched) {
	now := w.mine && w.failing()
	if now == w.counted {
		return
	}
	if w.counted = now; now {
		k.metrics.failing.Add(1)
	} else {
		k.metrics.failing.Add(-1)
	}
}

// reconcile has the registry say what the checks say, unless it is about to.
func (k *keeper) reconcile(w *watched) {
	if _, unheard := k.unheard[w]; !w.mine || w.queued || unheard || w.retry.listed() {
		return
	}
	if _, failing := k.health[w.InstanceID]; failing != w.failing() {
		w.queued = true
		k.writes = append(k.writes, w)
	}
}

// hear compares what the registry says after a batch with what the checks say. After a write of ours the checks are
// right. Where there was none somebody else has spoken, who may know better: ask again.
func (k *keeper) hear(b registry.Batch) {
	for w := range k.unheard {
		if w.heard <= k.revision {
			delete(k.unheard, w)
			k.reconcile(w)
		}
	}
	if b.Snapshot {
		for _, w := range k.watched {
			k.adopt(w)
		}
		return
	}
	for i := range b.Changes {
		if h := b.Changes[i].Health; h != nil {
			k.adopt(k.watched[h.InstanceID])
		}
	}
}

func (k *keeper) adopt(w *watched) {
	if w == nil || !w.mine || w.queued || w.retry.listed() {
		return
	}
	_, unheard := k.unheard[w]
	if _, failing := k.health[w.InstanceID]; unheard || failing == w.failing() {
		return
	}
	failing := k.believe(w)
	for _, t := range w.tasks {
		t.failing, t.streak = failing, 0
	}
	k.count(w)
	k.bringForward(w)
	k.reconcile(w)
}
