package sheet

import "math"

// Aim is what a figure should be at most, and what it came to in the cases that it is for.
type Aim struct {
	Part string
	What string
	Unit string // of Most; "": a ratio
	Most float64

	// Low and High are the medians that are furthest apart.
	Low, High float64
	// Met and Missed are the cases whose whole interval is on one side of the aim; of those that are Open, the interval
	// holds it.
	Met, Open, Missed int
	// All is over all rounds of all cases, where these may be taken together; nil: they may not.
	All *Estimate
}

// Found adds a case, unless it was not measured.
func (a *Aim) Found(e Estimate) {
	if e.Rounds == 0 || math.IsNaN(e.Center) {
		return
	}
	if a.Cases() == 0 {
		a.Low, a.High = e.Center, e.Center
	}
	a.Low, a.High = min(a.Low, e.Center), max(a.High, e.Center)
	switch {
	case e.Hi <= a.Most:
		a.Met++
	case e.Lo > a.Most:
		a.Missed++
	default:
		a.Open++
	}
}

// Together sets what all cases came to, unless the rounds are too few.
func (a *Aim) Together(e Estimate) {
	if e.Rounds > 0 && !math.IsInf(e.Lo, 0) && !math.IsInf(e.Hi, 0) {
		a.All = &e
	}
}

// Cases are those that were judged.
func (a *Aim) Cases() int { return a.Met + a.Open + a.Missed }

// Judge enters an aim, which the report shows with all others; one of no cases is none.
func (s *Sheet) Judge(a Aim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Cases() > 0 {
		s.aims = append(s.aims, a)
	}
}

// Aims returns all that were judged.
func (s *Sheet) Aims() []Aim {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aims
}
