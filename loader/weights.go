package loader

import "slices"

// How many slots the run of a random choice has at most: so many, or so many for each backend.
const (
	runLimit        = 4096
	runLimitBackend = 64
)

// slotCounts returns how many slots of a run each backend has, by its weight: weight / gcd of all, so
// that the shares of new flows are exact. Backends of one weight have a slot each.
//
// Where that is more than limit slots, max(64 a backend, 4096), it is exactly limit of them, shared
// out by largest remainder (Hamilton's method). Each backend then has its exact number, limit * weight
// / sum of weights, within one slot and 1.2 % of it; one whose exact number is less than one slot has
// one. (It is no less than a quarter: weights are at most 256. What those take more than their due is
// at most 3/4 slot of 64 a backend, hence the 1.2 %.)
//
// weights are 1 to 256.
func slotCounts(weights []uint16) []uint32 {
	counts := make([]uint32, len(weights))
	divisor, sum := uint32(0), uint64(0)
	for _, w := range weights {
		divisor = gcd(divisor, uint32(w))
		sum += uint64(w)
	}
	limit := uint64(max(runLimitBackend*len(weights), runLimit))
	if len(weights) == 0 || sum/uint64(divisor) <= limit {
		for i, w := range weights {
			counts[i] = uint32(w) / divisor
		}
		return counts
	}
	// One slot for each whose quota is less; the quotas of the others shrink by that, so look again.
	for again := true; again; {
		again = false
		for i, w := range weights {
			if counts[i] == 0 && uint64(w)*limit < sum {
				counts[i], again = 1, true
				limit, sum = limit-1, sum-uint64(w)
			}
		}
	}
	shareOut(weights, counts, limit, sum)
	return counts
}

// shareOut gives the slots to the backends that have none yet, by largest remainder; of equal
// remainders the first backend's. sum is that of their weights.
func shareOut(weights []uint16, counts []uint32, slots, sum uint64) {
	type remainder struct {
		backend int
		rest    uint64
	}
	var rests []remainder
	left := slots
	for i, w := range weights {
		if counts[i] == 0 {
			quota := uint64(w) * slots
			counts[i] = uint32(quota / sum)
			left -= quota / sum
			rests = append(rests, remainder{i, quota % sum})
		}
	}
	slices.SortStableFunc(rests, func(a, b remainder) int {
		switch {
		case a.rest > b.rest:
			return -1
		case a.rest < b.rest:
			return 1
		}
		return 0
	})
	for _, r := range rests[:left] {
		counts[r.backend]++
	}
}

// gcd returns the greatest common divisor; of 0 and n it is n.
func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
