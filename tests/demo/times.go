package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
)

// timings holds round-trip times by path and kind, one value of each quantile for each round.
type timings struct {
	p50, p99 map[string][]time.Duration
}

// roundTrip is one way of calling that is timed.
type roundTrip struct {
	name  string
	net   string
	keep  bool
	count int
}

func roundTripKinds() []roundTrip {
	return []roundTrip{
		{"TCP, one connection", "tcp", true, 2000},
		{"TCP, a new connection each", "tcp", false, 400},
		{"UDP, one socket", "udp", true, 2000},
	}
}

// measure times direct calls and calls to the VIP, taking turns, so that what else the machine does
// falls on both alike.
func (t *timings) measure(ctx context.Context, d *demo, path string) error {
	if t.p50 == nil {
		t.p50, t.p99 = map[string][]time.Duration{}, map[string][]time.Duration{}
	}
	direct := netip.AddrPortFrom(d.backends[0].V4, nstest.Port)
	vip := netip.AddrPortFrom(d.vips[0], port)
	for range 5 {
		for _, kind := range roundTripKinds() {
			call := nstest.Call{Net: kind.net, Keep: kind.keep, Connect: true, Count: kind.count, CPU: cpu}
			if err := t.time(ctx, d.client, call, direct, kind.name+"direct "+path); err != nil {
				return err
			}
			if err := t.time(ctx, d.client, call, vip, kind.name+path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *timings) time(ctx context.Context, c *nstest.Container, call nstest.Call, to netip.AddrPort, key string) error {
	call.To = to
	r, err := c.Call(ctx, call)
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		return fmt.Errorf("a timed call to %s failed: %s", to, r.Failures[0].Error)
	}
	t.p50[key] = append(t.p50[key], r.P50)
	t.p99[key] = append(t.p99[key], r.P99)
	return nil
}

func median(of []time.Duration) float64 {
	of = slices.Sorted(slices.Values(of))
	return float64(of[len(of)/2].Nanoseconds()) / 1000
}

func (d *demo) roundTrips(context.Context) error {
	heading("Round trips between two containers on one CPU, p50 / p99 in microseconds")
	t := newTable()
	defer t.print()
	t.row("", "direct", "VIP by socket", "", "direct", "VIP by tc")
	for _, kind := range roundTripKinds() {
		cells := []any{kind.name}
		for i, path := range []string{"socket", "tc"} {
			if i > 0 {
				cells = append(cells, "")
			}
			for _, key := range []string{kind.name + "direct " + path, kind.name + path} {
				cells = append(cells, fmt.Sprintf("%.1f / %.1f", median(d.times.p50[key]), median(d.times.p99[key])))
			}
		}
		t.row(cells...)
	}
	return nil
}
