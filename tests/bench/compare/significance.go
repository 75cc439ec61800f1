package main

import (
	"cmp"
	"math"
	"slices"
)

// signedRank is the p of Wilcoxon's signed-rank test, exact and two-sided: how likely ratios are as far from 1, to one
// side of it, as these when each is as likely above as below. With fewer than 6 rounds it cannot be below 0.05.
func signedRank(ratios []float64) float64 {
	var logs []float64
	for _, r := range ratios {
		if l := math.Log(r); l != 0 { // which says nothing of either
			logs = append(logs, l)
		}
	}
	slices.SortFunc(logs, func(a, b float64) int { return cmp.Compare(math.Abs(a), math.Abs(b)) })
	// Ranks are doubled: those that share some have the mean, which may be a half.
	ranks := make([]int, len(logs))
	for i := 0; i < len(logs); {
		end := i + 1
		for end < len(logs) && math.Abs(logs[end]) == math.Abs(logs[i]) {
			end++
		}
		for j := i; j < end; j++ {
			ranks[j] = i + 1 + end
		}
		i = end
	}
	above, total := 0, 0
	for i, rank := range ranks {
		total += rank
		if logs[i] > 0 {
			above += rank
		}
	}
	// ways[s] is the share of all choices of signs in which the ranks above 1 add up to s.
	ways := make([]float64, total+1)
	ways[0] = 1
	for _, rank := range ranks {
		for s := total; s >= 0; s-- {
			ways[s] /= 2
			if s >= rank {
				ways[s] += ways[s-rank] / 2
			}
		}
	}
	p := 0.0
	for _, w := range ways[:min(above, total-above)+1] {
		p += 2 * w
	}
	return min(1, p)
}

// falsely is the share of the changes told that may be none.
const falsely = 0.05

// standOut marks those rows as changed whose p stands out among all of them
// (Benjamini and Hochberg, Controlling the False Discovery Rate, 1995).
func standOut(rows []row) {
	var all []float64
	for _, r := range rows {
		all = append(all, r.p)
	}
	slices.Sort(all)
	limit := -1.0
	for i, p := range all {
		if p <= falsely*float64(i+1)/float64(len(all)) {
			limit = p
		}
	}
	for i := range rows {
		rows[i].changed = rows[i].p <= limit
	}
}
