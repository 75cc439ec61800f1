package path

import (
	"slices"
	"testing"
	"time"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// In every round each way has its turn; over the rounds each is first, and follows different others.
func TestRotation(t *testing.T) {
	for ways := 2; ways <= 9; ways++ {
		first, before := map[int]bool{}, make([]map[int]bool, ways)
		for round := range 2 * ways {
			order := rotation(round, ways)
			first[order[0]] = true
			for i, w := range order {
				if before[w] == nil {
					before[w] = map[int]bool{}
				}
				if i > 0 {
					before[w][order[i-1]] = true
				}
			}
			if slices.Sort(order); order[0] != 0 || order[ways-1] != ways-1 || len(slices.Compact(order)) != ways {
				t.Fatalf("round %d of %d ways: %v", round, ways, order)
			}
		}
		if len(first) != ways {
			t.Errorf("%d ways: first are only %v", ways, first)
		}
		for w, others := range before {
			if ways > 2 && len(others) < 2 {
				t.Errorf("%d ways: %d follows only %v", ways, w, others)
			}
		}
	}
}

// Silent kinds are compared with a process that no hook sees, which has no other kinds.
func TestWaysOf(t *testing.T) {
	var all []Way
	for _, name := range []string{Direct, Loopback, Container, VIPSocket, VIPTC, NoHook, "nginx"} {
		all = append(all, &fixed{name: name})
	}
	for _, k := range Kinds() {
		var got []string
		for _, w := range WaysOf(k, all) {
			got = append(got, w.Name())
		}
		want := []string{Direct, Loopback, Container, VIPSocket, VIPTC, "nginx"}
		if k == batch.UDPConnectReused || k == batch.UDPConnectNew {
			want = []string{NoHook, Container, VIPSocket}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", k, got, want)
		}
	}
}

// However many rounds: a minute's connections of a way have a source port each.
func TestConnectionsHavePorts(t *testing.T) {
	for _, rounds := range []int{1, 6, 10, 15, 100} {
		n := mostConnections(rounds)
		if n < 1 || n*rounds*2 > freePorts {
			t.Errorf("%d rounds: %d connections a batch", rounds, n)
		}
		for _, k := range []batch.Kind{batch.TCPCRR, batch.TCPConnect} {
			if o := (Plan{Rounds: rounds, Batch: time.Second}).order(k); o.Count != n {
				t.Errorf("%s: up to %d connections, want %d", k, o.Count, n)
			}
		}
	}
}

func TestValues(t *testing.T) {
	var h batch.Histogram
	for i := range 1000 {
		h.Add(time.Duration(i) * time.Microsecond)
	}
	r := batch.Result{N: 1000, Elapsed: time.Second, CPU: 100 * time.Millisecond, Latency: &h}
	got := map[string]float64{}
	for _, v := range values(batch.TCPConnect, r) {
		got[v.Unit] = v.Value
	}
	near := func(unit string, want float64) {
		t.Helper()
		if v := got[unit]; v < want*0.998 || v > want*1.002 {
			t.Errorf("%s is %v, want %v", unit, v, want)
		}
	}
	near("ns/op", 1e6)
	near("cpu-ns/op", 1e5)
	near("ops/s", 1000)
	near("p50-ns", 499e3)
	near("p99.9-ns", 998e3)
	got = map[string]float64{}
	for _, v := range values(batch.TCPStream, batch.Result{N: 2048, Elapsed: 2 * time.Second, CPU: time.Second}) {
		got[v.Unit] = v.Value
	}
	near("B/s", 1<<20)
	near("cpu-ns/op", 1e9/2048)
}

// A distribution rises, and has no points that no operation stands for.
func TestDistribution(t *testing.T) {
	for _, n := range []int{1, 100, 100_000} {
		var h batch.Histogram
		for i := range n {
			h.Add(time.Duration(i*i) * time.Nanosecond)
		}
		l := distribution("Path/way=x", &h)
		last := l.Quantiles[len(l.Quantiles)-1]
		if last.Share != 1 || last.Nanoseconds < 0.99*float64((n-1)*(n-1)) {
			t.Errorf("%d operations: ends with %v", n, last)
		}
		for i, q := range l.Quantiles[1:] {
			if q.Share <= l.Quantiles[i].Share || q.Nanoseconds < l.Quantiles[i].Nanoseconds {
				t.Errorf("%d operations: %v behind %v", n, q, l.Quantiles[i])
			}
		}
		fine := slices.ContainsFunc(l.Quantiles, func(q sheet.Quantile) bool { return q.Share == 0.9999 })
		if fine != (n == 100_000) {
			t.Errorf("%d operations: a quantile of 0.9999 is there: %v", n, fine)
		}
	}
}
