package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// So many instances are there, of which every tenth has a lease and renews it as Eureka's clients do.
const (
	scaleServices   = 1000
	scaleInstances  = 100_000
	scaleHeartbeats = scaleInstances / 10
	scaleLease      = 90 // seconds
	heartbeatEvery  = 30 * time.Second
	scaleFor        = 2 * heartbeatEvery // the agent is watched
	scaleFrom       = heartbeatEvery / 2 // the load has then settled
)

// scale measures an agent with many instances.
func scale(ctx context.Context, lab *nstest.Lab) (err error) {
	node, eureka, err := newEurekaNode(ctx, lab)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, eureka.close(), node.Close()) }()
	before, err := usageOf(node.AgentPID())
	if err != nil {
		return err
	}
	// Those with a lease come last, and begin to renew it at once.
	took, err := registerAll(ctx, node, scaleInstances, scaleInstance)
	if err != nil {
		return err
	}
	loaded, err := usageOf(node.AgentPID())
	if err != nil {
		return err
	}
	h := &heartbeats{node: node, eureka: eureka}
	steady, err := h.watched(ctx)
	if err != nil {
		return err
	}
	if _, err := node.Sluice(ctx, "", "check"); err != nil {
		return err
	}
	return h.print(ctx, took, before, loaded, steady)
}

// scaleInstance is the n-th of all.
func scaleInstance(n int) registry.Instance {
	i := instanceOf(n%scaleServices, n/scaleServices)
	if n >= scaleInstances-scaleHeartbeats {
		i.Lease = scaleLease
	}
	return i
}

// heartbeats renew leases evenly over time, as Eureka's clients do.
type heartbeats struct {
	node   *nstest.Node
	eureka *eurekaClient
	mu     sync.Mutex
	took   []time.Duration
	late   atomic.Int64 // sent more than a second after their time
}

// watched renews leases and returns what the agent used meanwhile, once the load has settled.
func (h *heartbeats) watched(ctx context.Context) (u usage, err error) {
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	end := start.Add(scaleFrom + scaleFor)
	for w := range writers {
		group.Go(func() error { return h.renew(ctx, w, start, end) })
	}
	var from usage
	group.Go(func() (err error) {
		if err := sleep(ctx, scaleFrom); err != nil {
			return err
		}
		if from, err = usageOf(h.node.AgentPID()); err != nil {
			return err
		}
		if err := sleep(ctx, scaleFor); err != nil {
			return err
		}
		u, err = usageOf(h.node.AgentPID())
		return err
	})
	err = group.Wait()
	u.cpu -= from.cpu
	return u, err
}

// renew is the share of one of the writers.
func (h *heartbeats) renew(ctx context.Context, w int, start, end time.Time) error {
	var took []time.Duration
	for n := w; ; n += writers {
		due := start.Add(time.Duration(n) * heartbeatEvery / scaleHeartbeats)
		if due.After(end) {
			break
		}
		if err := sleep(ctx, time.Until(due)); err != nil {
			return err
		}
		sent := time.Now()
		if sent.Sub(due) > time.Second {
			h.late.Add(1)
		}
		if err := h.eureka.renew(ctx, scaleInstance(scaleInstances-scaleHeartbeats+n%scaleHeartbeats).InstanceID); err != nil {
			return err
		}
		took = append(took, time.Since(sent))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.took = append(h.took, took...)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (h *heartbeats) print(ctx context.Context, took time.Duration, before, loaded, steady usage) error {
	instances, err := h.node.API().Instances(ctx, api.InstanceQuery{Service: "s0"})
	if err != nil {
		return err
	}
	if len(instances) != scaleInstances/scaleServices {
		return fmt.Errorf("%d instances of a service are left", len(instances))
	}
	status, err := h.node.API().Status(ctx)
	if err != nil {
		return err
	}
	database, err := os.Stat(filepath.Join(h.node.State, "registry/member/snap/db"))
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d instances of %d services, %d of them heartbeat each %s\t\t\n", scaleInstances, scaleServices, scaleHeartbeats, heartbeatEvery)
	fmt.Fprintf(w, "registered one by one, %d at a time, s\t%.1f\t\n", writers, took.Seconds())
	fmt.Fprintf(w, "agent's CPU time for one registration, ms\t%.2f\t\n", (loaded.cpu-before.cpu).Seconds()*1e3/scaleInstances)
	fmt.Fprintf(w, "agent's resident memory, MB: empty\t%.0f\t\n", before.resident)
	fmt.Fprintf(w, "after the last registration\t%.0f\t\n", loaded.resident)
	fmt.Fprintf(w, "with heartbeats\t%.0f\t\n", steady.resident)
	fmt.Fprintf(w, "of that, files mapped (the database, the program)\t%.0f\t\n", steady.files)
	fmt.Fprintf(w, "the most it ever was\t%.0f\t\n", steady.peak)
	fmt.Fprintf(w, "agent's CPU with heartbeats, %% of a core\t%.1f\t\n", steady.cpu.Seconds()/scaleFor.Seconds()*100)
	fmt.Fprintf(w, "heartbeat, p50, ms\t%.2f\t\n", millis(quantile(h.took, 0.5)))
	fmt.Fprintf(w, "heartbeat, p99, ms\t%.2f\t\n", millis(quantile(h.took, 0.99)))
	fmt.Fprintf(w, "heartbeats sent, and sent late\t%d, %d\t\n", len(h.took), h.late.Load())
	fmt.Fprintf(w, "database, MB\t%.0f\t\n", float64(database.Size())/1e6)
	for _, m := range status.Maps {
		switch m.Name {
		case "services", "slots", "backends", "service_stats":
			fmt.Fprintf(w, "map %s, entries of its room\t%d of %d\t\n", m.Name, m.Entries, m.Limit)
		}
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// usage is what a process takes: CPU time so far, and memory in MB.
type usage struct {
	cpu                   time.Duration
	resident, files, peak float64
}

// usageOf reads /proc (proc(5)).
func usageOf(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, f := range fields[11:13] { // utime and stime, in ticks of 10 ms
		ticks, err := strconv.Atoi(f)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		key, text, _ := strings.Cut(line, ":")
		for name, into := range map[string]*float64{"VmRSS": &u.resident, "RssFile": &u.files, "VmHWM": &u.peak} {
			if key == name {
				kib, err := strconv.ParseFloat(strings.Fields(text)[0], 64)
				if err != nil {
					return u, err
				}
				*into = kib * 1024 / 1e6
			}
		}
	}
	return u, nil
}
