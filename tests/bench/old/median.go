package main

import "slices"

// median of a figure over the rounds.
func median[T any](samples []T, figure func(T) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = figure(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
