package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Of 2^n choices of signs, so many are as far from even: 25 on each side is what tables have for 10 and a sum of 8.
func TestSignedRank(t *testing.T) {
	ratios := func(logs ...float64) (list []float64) {
		for _, l := range logs {
			list = append(list, math.Exp(l))
		}
		return list
	}
	for name, tt := range map[string]struct {
		ratios []float64
		want   float64
	}{
		"none":                   {nil, 1},
		"all equal":              {ratios(0, 0, 0), 1},
		"5 above":                {ratios(1, 2, 3, 4, 5), 2.0 / 32},
		"6 above":                {ratios(1, 2, 3, 4, 5, 6), 2.0 / 64},
		"6 below":                {ratios(-1, -2, -3, -4, -5, -6), 2.0 / 64},
		"10, the ranks below: 8": {ratios(1, 2, -3, 4, -5, 6, 7, 8, 9, 10), 50.0 / 1024},
		"10, the ranks above: 9": {ratios(1, -2, 3, -4, 5, -6, -7, -8, -9, -10), 66.0 / 1024},
		"4 with ties, 2 and 2":   {ratios(1, -1, 1, -1), 1},
		"4 with ties, one below": {ratios(1, 1, 1, -1), 10.0 / 16},
		"one that says nothing":  {ratios(0, 1, 2, 3, 4, 5, 6), 2.0 / 64},
		"as much above as below": {ratios(1, -2, -3, 4), 1},
		"12 above, a round each": {ratios(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), 2.0 / 4096},
	} {
		if got := signedRank(tt.ratios); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%s: p is %v, want %v", name, got, tt.want)
		}
	}
}

// The example of Benjamini and Hochberg's paper, in which four of fifteen stand out.
func TestStandOut(t *testing.T) {
	var rows []row
	for _, p := range []float64{0.0344, 0.0001, 0.7590, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 1} {
		rows = append(rows, row{p: p})
	}
	standOut(rows)
	for _, r := range rows {
		if r.changed != (r.p <= 0.0095) {
			t.Errorf("p=%v: changed is %v", r.p, r.changed)
		}
	}
	standOut(nil)
}

// Of tables in which nothing has changed, one in 20 tells of a change at most, and one true change among noise is told.
func TestChance(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const tables, figures, rounds = 400, 30, 12
	wrong, found := 0, 0
	for range tables {
		rows := make([]row, figures)
		for i := range rows {
			ratios := make([]float64, rounds)
			for j := range ratios {
				ratios[j] = math.Exp(0.05 * random.NormFloat64())
				if i == 0 {
					ratios[j] *= 1.1
				}
			}
			rows[i].p = signedRank(ratios)
		}
		standOut(rows[1:])
		for _, r := range rows[1:] {
			if r.changed {
				wrong++
				break
			}
		}
		standOut(rows)
		if rows[0].changed {
			found++
		}
	}
	if wrong > tables/20 {
		t.Errorf("%d of %d tables without a change tell of one", wrong, tables)
	}
	if found < tables*3/4 {
		t.Errorf("a change by 10 %% is told in %d of %d tables", found, tables)
	}
}
