package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// kinds are netperf's names for: a request and its answer on a connection that stays, with a new
// connection for each, and over UDP. All new connections end at one port of one backend, whose tuples rest for
// TIME_WAIT: those of three ways and 15 rounds have to be fewer than the 28 232 source ports that there are.
var kinds = []struct {
	name string
	call nstest.Call
}{
	{"TCP_RR", nstest.Call{Net: "tcp", Keep: true, Count: 4000}},
	{"TCP_CRR", nstest.Call{Net: "tcp", Count: 500}},
	{"UDP_RR", nstest.Call{Net: "udp", Keep: true, Connect: true, Count: 4000}},
}

// way is one way for a call to go.
type way struct {
	name string
	call func(context.Context, nstest.Call) (report.Report, error)
	to   [2]netip.Addr // IPv4, IPv6
	port uint16
}

// sample is what one batch of calls by one way came to.
type sample struct{ p50, p99 float64 } // microseconds

func calls(ctx context.Context, lab *nstest.Lab, client, server *nstest.Container, rounds int) (err error) {
	direct, err := lab.Direct(ctx, cpu)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, direct.Close()) }()
	vips := [2]netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")}
	ways := []way{
		{"direct, no programs", direct.Call, [2]netip.Addr{direct.ServerV4, direct.ServerV6}, nstest.Port},
		{"container address", client.Call, [2]netip.Addr{server.V4, server.V6}, nstest.Port},
		{"VIP by socket", client.Call, vips, port},
		{"VIP by tc", outside(client), vips, port},
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "round trips\tp50 us\tp99 us\tp50 / direct\tp99 / direct\t\n")
	for family, name := range []string{"IPv4", "IPv6"} {
		for _, kind := range kinds {
			samples, err := interleave(ctx, ways, kind.call, family, rounds)
			if err != nil {
				return fmt.Errorf("%s over %s: %w", kind.name, name, err)
			}
			for i, way := range ways {
				fmt.Fprintf(w, "%s %s, %s\t%.1f\t%.1f\t%.3f\t%.3f\t\n", name, kind.name, way.name,
					median(samples[i], func(s sample) float64 { return s.p50 }),
					median(samples[i], func(s sample) float64 { return s.p99 }),
					ratio(samples[i], samples[0], func(s sample) float64 { return s.p50 }),
					ratio(samples[i], samples[0], func(s sample) float64 { return s.p99 }))
			}
		}
	}
	return w.Flush()
}

// outside makes the client's calls where no socket hook sees them.
func outside(client *nstest.Container) func(context.Context, nstest.Call) (report.Report, error) {
	return func(ctx context.Context, call nstest.Call) (report.Report, error) {
		call.Outside = true
		return client.Call(ctx, call)
	}
}

// interleave calls by each way in turn, and again, so that whatever the machine does besides falls
// on all of them alike.
func interleave(ctx context.Context, ways []way, call nstest.Call, family, rounds int) ([][]sample, error) {
	samples := make([][]sample, len(ways))
	for range rounds {
		for i, way := range ways {
			call.To, call.CPU = netip.AddrPortFrom(way.to[family], way.port), cpu
			r, err := way.call(ctx, call)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", way.name, err)
			}
			if r.Failed > 0 {
				return nil, fmt.Errorf("%s: %d of %d calls failed: %s", way.name, r.Failed, r.Calls, r.Failures[0].Error)
			}
			samples[i] = append(samples[i], sample{micros(r.P50), micros(r.P99)})
		}
	}
	return samples, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// median of a figure over the rounds.
func median[T any](samples []T, figure func(T) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = figure(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// ratio is the median of the rounds' ratios: what changes between rounds falls out.
func ratio(a, b []sample, figure func(sample) float64) float64 {
	rounds := make([]float64, len(a))
	for i := range a {
		rounds[i] = figure(a[i]) / figure(b[i])
	}
	return median(rounds, func(r float64) float64 { return r })
}
