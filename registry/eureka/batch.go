package eureka

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

const (
	// maxBatch bounds the body of a batch, in bytes, also after it was uncompressed.
	maxBatch = 8 << 20
	// batchWorkers is how many instances of a batch are changed at once: each change waits for the store, and the
	// reference's peers wait for an answer for 200 ms only.
	batchWorkers = 32
	// taskCharge is how many tasks count as a request more: most are heartbeats.
	taskCharge = 4
)

// postBatch takes what a peer's clients did. There is a result for each task, in their order.
func (s *Server) postBatch(q *request) {
	data, code := q.body(maxBatch)
	if code != 0 {
		q.empty(code)
		return
	}
	tasks, err := wire.ParseBatch(data)
	if err != nil {
		q.text(http.StatusBadRequest, "text/plain; charset=utf-8", err.Error())
		return
	}
	access.Charge(q.Context(), len(tasks)/taskCharge)
	s.metrics.tasks.Add(float64(len(tasks)))
	results := s.tasks(q.Context(), q.caller, tasks)
	q.text(http.StatusOK, "application/json", string(wire.AppendResults(nil, results)))
}

// tasks does those of one instance one after the other, and those of others at the same time.
func (s *Server) tasks(ctx context.Context, c access.Caller, tasks []wire.Task) []wire.Result {
	results := make([]wire.Result, len(tasks))
	byKey := map[key][]int{}
	var order []key
	for i, t := range tasks {
		k := key{strings.ToUpper(t.App), t.ID}
		if byKey[k] == nil {
			order = append(order, k)
		}
		byKey[k] = append(byKey[k], i)
	}
	work := make(chan []int)
	var group sync.WaitGroup
	for range min(batchWorkers, len(order)) {
		group.Go(func() {
			for list := range work {
				for _, i := range list {
					results[i] = s.task(ctx, c, &tasks[i])
				}
			}
		})
	}
	for _, k := range order {
		work <- byKey[k]
	}
	close(work)
	group.Wait()
	return results
}

// task does one. What comes from a peer is not passed on.
func (s *Server) task(ctx context.Context, c access.Caller, t *wire.Task) wire.Result {
	k := key{strings.ToUpper(t.App), t.ID}
	var o outcome
	switch status, known := wire.ParseStatus(t.Status); t.Action {
	case wire.TaskRegister:
		if t.Instance == nil {
			return wire.Result{Code: http.StatusOK} // as the reference answers whatever becomes of it
		}
		o = s.register(ctx, c, k.app, t.Instance, true)
		if o.code == http.StatusNoContent || o.code == http.StatusBadRequest {
			o.code = http.StatusOK
		}
	case wire.TaskHeartbeat:
		o = s.renew(ctx, c, k, t.LastDirty, t.Overridden, true)
	case wire.TaskCancel:
		o = s.cancel(ctx, c, k, true)
	case wire.TaskStatus, wire.TaskDeleteStatus:
		if o.code = http.StatusInternalServerError; known || t.Action == wire.TaskDeleteStatus {
			o = s.overrule(ctx, c, k, t.Action, status, t.LastDirty, true)
		}
	default:
		o.code = http.StatusInternalServerError
	}
	s.settle(ctx, o.revision)
	r := wire.Result{Code: o.code}
	if o.conflict != nil {
		r.Instance = o.conflict.now()
	}
	return r
}
