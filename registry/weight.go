package registry

import (
	"fmt"
	"strconv"
)

// ParseWeight reads the value of a WeightLabel: a whole number from 0 to MaxWeight.
func ParseWeight(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n > MaxWeight {
		return 0, fmt.Errorf("weight %q: want a whole number from 0 to %d", text, MaxWeight)
	}
	return uint16(n), nil
}
