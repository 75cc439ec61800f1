package scale

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// axis is something that there is more and more of, and what is measured then.
type axis struct {
	grow    string
	sizes   []int
	changes []string // kinds of them
	packets []string
}

const (
	quickMost    = 1000 // the largest size of a quick run
	loadSlow     = 2 * time.Second
	loadsOfSlow  = 2 // rounds of what takes longer than that
	loadsQuick   = 1 // rounds of a quick run: opening a dataplane takes longer than filling one
	changesEach  = 100
	packetsEach  = 800
	packetsRound = 10 // rounds at most: there are so many source ports
)

// run measures all sizes side by side, each round one after the other.
func (a axis) run(ctx context.Context, env part.Env) (err error) {
	if env.Quick {
		for len(a.sizes) > 0 && a.sizes[len(a.sizes)-1] > quickMost {
			a.sizes = a.sizes[:len(a.sizes)-1]
		}
		if a.grow == "flows" {
			a.sizes = []int{10, 100, 1000}
		}
	}
	began := time.Now()
	var worlds []*child
	defer func() {
		for _, c := range worlds {
			err = errors.Join(err, c.close())
		}
		env.Log("scale: %s took %.1f s", a.grow, time.Since(began).Seconds())
	}()
	for _, n := range a.sizes {
		c, err := start(ctx, plan{Grow: a.grow, N: n, CPU: env.CPU, Scale: mapScale(a.grow, n)})
		if err != nil {
			return err
		}
		worlds = append(worlds, c)
	}
	latencies := part.NewLatencies(env.Sheet)
	defer latencies.Done()
	if err := a.load(env, worlds); err != nil {
		return err
	}
	for round := range min(env.Rounds, packetsRound) {
		for _, c := range worlds {
			if err := errors.Join(context.Cause(ctx), a.round(env, latencies, c, round)); err != nil {
				return err
			}
		}
	}
	a.tell(env.Sheet, worlds)
	return nil
}

// name is a case of a size.
func (a axis) name(c *child, keyValues ...any) sheet.Case {
	all := []any{"grow", a.grow, a.grow, c.plan.N}
	if a.grow == "services" {
		all = append(all, "backends", c.plan.N*stallBackends)
	}
	return sheet.Of(Name, append(all, keyValues...)...)
}

// load fills each dataplane from nothing, several times.
func (a axis) load(env part.Env, worlds []*child) error {
	slow := map[*child]bool{}
	rounds := env.Rounds
	if env.Quick {
		rounds = loadsQuick
	}
	for round := range rounds {
		for _, c := range worlds {
			if slow[c] && round >= loadsOfSlow || a.grow == "flows" && round > 0 {
				continue
			}
			var l Loaded
			if err := c.call("Load", struct{}{}, &l); err != nil {
				return err
			}
			slow[c] = l.Catalog+l.Sync > loadSlow
			if a.grow == "flows" {
				if err := a.fill(env, c); err != nil {
					return err
				}
				continue
			}
			env.Sheet.Add(a.name(c, "step", "load"), round, c.plan.N,
				sheet.Value{Unit: "load-s", Value: (l.Catalog + l.Sync).Seconds()},
				sheet.Value{Unit: "catalog-s", Value: l.Catalog.Seconds()}, sheet.Value{Unit: "sync-s", Value: l.Sync.Seconds()},
				sheet.Value{Unit: "heap-B", Value: l.Heap}, sheet.Value{Unit: "rss-B", Value: l.RSS},
				sheet.Value{Unit: "kernel-B", Value: l.Maps}, sheet.Value{Unit: "kernel-used-B", Value: l.Used},
				sheet.Value{Unit: "entries", Value: float64(l.Entries)})
		}
	}
	return nil
}

// fill begins the flows that there are to be.
func (a axis) fill(env part.Env, c *child) error {
	began := time.Now()
	var entries uint64
	if err := c.call("Fill", c.plan.N, &entries); err != nil {
		return err
	}
	env.Sheet.Add(a.name(c, "step", "fill"), 0, c.plan.N, sheet.Value{Unit: "load-s", Value: time.Since(began).Seconds()},
		sheet.Value{Unit: "entries", Value: float64(entries)})
	if entries < 2*uint64(c.plan.N) {
		env.Sheet.Note(Name, "Of %d flows the map holds %d entries, two of each: the oldest have made room.", c.plan.N, entries)
	}
	return nil
}

// round measures one dataplane once.
func (a axis) round(env part.Env, latencies *part.Latencies, c *child, round int) error {
	for _, kind := range a.changes {
		var r Changed
		if err := c.call("Change", ChangeArgs{kind, changesEach}, &r); err != nil {
			return err
		}
		var more []sheet.Value
		if r.Writes > 0 {
			more = append(more, sheet.Value{Unit: "writes/op", Value: r.Writes})
		}
		latencies.Round(a.name(c, "step", "change", "kind", kind), round, r.Took, more...)
	}
	for _, kind := range a.packets {
		var ns float64
		if err := c.call("Packets", PacketArgs{kind, packetsEach}, &ns); err != nil {
			return err
		}
		env.Sheet.Add(a.name(c, "step", "packet", "kind", kind), round, packetsEach, sheet.Value{Unit: "ns/op", Value: ns})
	}
	if a.grow == "containers" {
		var r Wired
		if err := c.call("Wire", 20, &r); err != nil {
			return err
		}
		latencies.Round(a.name(c, "step", "attach"), round, r.Attach)
		latencies.Round(a.name(c, "step", "detach"), round, r.Detach)
	}
	return nil
}

// mapScale is the least power of two that datapath.mapScale needs for so much.
func mapScale(grow string, n int) float64 {
	fits := func(s loader.Sizes) bool {
		// A service takes a run of a power of two of slots; some of everything rests after a change.
		services, slots, backends, flows := 0, 0, 0, 0
		switch grow {
		case "services":
			services, slots, backends = n, 16*n, stallBackends*n
		case "backends":
			slots, backends = 4*n, n // a change needs a second run beside the first
		case "flows":
			flows = 2 * n
		}
		const spare = 32 // one part in so many
		room := func(n int, size uint32) bool { return n+n/spare <= int(size) }
		return room(services, s.Services) && room(slots, s.Slots) && room(backends, s.Backends) && room(flows, s.Flows)
	}
	factor := 1.0
	for !fits(loader.DefaultSizes().Scale(factor)) {
		factor *= 2
	}
	return factor
}
