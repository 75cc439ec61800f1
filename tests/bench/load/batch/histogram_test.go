package batch

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The histogram says of any durations what their sorted list says, to 1/1024.
func TestHistogram(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		var h Histogram
		var list []time.Duration
		octaves := 1 + random.IntN(62)
		for range 1 + random.IntN(300) {
			d := time.Duration(random.Uint64N(1 << (1 + random.IntN(octaves))))
			list = append(list, d)
			h.Add(d)
		}
		slices.Sort(list)
		if h.N() != len(list) {
			t.Fatalf("seed %d: holds %d of %d", seed, h.N(), len(list))
		}
		for _, share := range []float64{0, 0.001, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1} {
			want := float64(list[max(0, int(math.Ceil(share*float64(len(list))-1e-9))-1)])
			if got := h.Quantile(share); math.Abs(got-want) > want/1024 {
				t.Fatalf("seed %d: the %g quantile of %d is %.1f, want %.1f", seed, share, len(list), got, want)
			}
		}
	}
}

// Every value lies in a bucket, larger ones in none before, and near the bucket's middle.
func TestBuckets(t *testing.T) {
	last := -1
	for octave := range 63 {
		for _, v := range []uint64{1<<octave - 1, 1 << octave, 1<<octave + 1<<octave/3, 1<<octave + 1<<octave/2} {
			i := bucket(v)
			if i < last || i >= buckets {
				t.Fatalf("%d is in bucket %d of %d, behind %d", v, i, buckets, last)
			}
			last = i
			if m := middle(i); math.Abs(m-float64(v)) > float64(v)/1024 {
				t.Errorf("%d is in the bucket of %.1f", v, m)
			}
		}
	}
	var h Histogram
	h.Add(math.MaxInt64)
	h.Add(-1)
	if got := h.Quantile(0.5); got != 0 {
		t.Errorf("a negative duration counts as %.1f", got)
	}
}

// Rounds merged are one histogram of all, also over the wire.
func TestMerge(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	var all, merged Histogram
	for range 5 {
		var round Histogram
		for range 100 {
			d := time.Duration(random.IntN(1e6))
			all.Add(d)
			round.Add(d)
		}
		line, err := json.Marshal(&round)
		if err != nil {
			t.Fatal(err)
		}
		read := Histogram{n: 3, counts: [buckets]uint32{3}} // of another batch
		if err := json.Unmarshal(line, &read); err != nil {
			t.Fatal(err)
		}
		merged.Merge(&read)
	}
	if merged != all {
		t.Errorf("merged: %d, p50 %.0f; together: %d, p50 %.0f", merged.n, merged.Quantile(0.5), all.n, all.Quantile(0.5))
	}
	for _, bad := range []string{`[[99999,1]]`, `[[-1,1]]`, `[[1,-1]]`, `{}`} {
		if err := json.Unmarshal([]byte(bad), new(Histogram)); err == nil {
			t.Errorf("read %s", bad)
		}
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(100, func() { h.Add(20 * time.Microsecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
