package batch

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"time"
)

// A bucket's width is at most 1/512 of its values, so that its middle is within 0.1 % of each of them.
const (
	precision = 9
	perOctave = 1 << precision
	buckets   = (64 - precision + 1) * perOctave
)

// Histogram counts durations by how long they are, with a relative error of at most 1/1024. Adding one
// allocates nothing. The zero value is empty.
type Histogram struct {
	n      int
	counts [buckets]uint32
}

// Add counts a duration; a negative one as 0.
func (h *Histogram) Add(d time.Duration) {
	h.n++
	h.counts[bucket(uint64(max(0, d)))]++
}

// bucket is the place of a value: below 1024 its own, above by its octave and the 9 bits behind the first.
func bucket(v uint64) int {
	shift := max(0, bits.Len64(v)-precision-1)
	return shift<<precision + int(v>>shift)
}

// middle is the value in the middle of a bucket.
func middle(i int) float64 {
	if i < 2*perOctave {
		return float64(i)
	}
	shift := i>>precision - 1
	low := uint64(i-shift<<precision) << shift
	return float64(low) + float64(uint64(1)<<shift-1)/2
}

// N is how many durations were added.
func (h *Histogram) N() int { return h.n }

// Quantile is the duration in nanoseconds that a share of all, from 0 to 1, do not exceed: of the sorted
// durations that at share * N, rounded up. An empty histogram has 0.
func (h *Histogram) Quantile(share float64) float64 {
	rank := max(1, int(share*float64(h.n)+1-1e-9))
	for i, c := range h.counts {
		if rank -= int(c); rank <= 0 {
			return middle(i)
		}
	}
	return 0
}

// Merge adds all of another's.
func (h *Histogram) Merge(other *Histogram) {
	h.n += other.n
	for i, c := range other.counts {
		h.counts[i] += c
	}
}

// Reset empties it.
func (h *Histogram) Reset() { *h = Histogram{} }

// MarshalJSON writes the buckets that hold something, as pairs of bucket and count.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	pairs := [][2]int{}
	for i, c := range h.counts {
		if c > 0 {
			pairs = append(pairs, [2]int{i, int(c)})
		}
	}
	return json.Marshal(pairs)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Histogram) UnmarshalJSON(data []byte) error {
	var pairs [][2]int
	if err := json.Unmarshal(data, &pairs); err != nil {
		return fmt.Errorf("read histogram: %w", err)
	}
	h.Reset()
	for _, p := range pairs {
		if p[0] < 0 || p[0] >= buckets || p[1] < 0 {
			return fmt.Errorf("read histogram: no bucket %d with %d", p[0], p[1])
		}
		h.counts[p[0]] += uint32(p[1])
		h.n += p[1]
	}
	return nil
}
