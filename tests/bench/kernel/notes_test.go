package kernel

import (
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// warmCase is that of a packet of TCP over IPv4.
func warmCase(class string, services int) sheet.Case {
	return sheet.Of(Name, "program", fromPod, "class", class, "protocol", "TCP", "family", "IPv4", "services", services, "step", "warm")
}

// What grows alike is told in one note, and of what only shakes nothing is told.
func TestBends(t *testing.T) {
	s := &sheet.Sheet{}
	for round := range 6 {
		for class, ns := range map[string][3]float64{ // 10, 1000 and 100000 services
			"new_vip": {1000, 1100, 1500}, "new_direct": {800, 800, 1000}, "denied": {400, 300, 560}, "reply": {60, 65, 62},
		} {
			for i, services := range []int{10, 1000, 100_000} {
				insns := 500.0
				if class == "denied" && i == 2 {
					insns = 600
				}
				s.Add(warmCase(class, services), round, 1, sheet.Value{Unit: "ns/op", Value: ns[i]}, sheet.Value{Unit: "insns/op", Value: insns})
			}
		}
	}
	bends(s)
	notes := s.Notes(Name)
	if len(notes) != 1 {
		t.Fatalf("%d notes: %+v", len(notes), notes)
	}
	for _, want := range []string{
		"warm, 100000 services and as many flows: 3 of 4 figures are 1.25 to 1.50 times those of 10 services",
		"new_vip in from_pod", "new_direct in from_pod", "denied in from_pod (600 instructions instead of 500)",
	} {
		if !strings.Contains(notes[0].Text, want) {
			t.Errorf("no %q in: %s", want, notes[0].Text)
		}
	}
	if strings.Contains(notes[0].Text, "reply") {
		t.Errorf("what does not grow is told: %s", notes[0].Text)
	}
}

// The aim is for established TCP flows at the fewest services.
func TestAim(t *testing.T) {
	s := &sheet.Sheet{}
	for round := range 6 {
		for class, ns := range map[string]float64{"established_vip": 79 + float64(round), "established_direct": 60, "new_vip": 900} {
			s.Add(warmCase(class, 10), round, 1, sheet.Value{Unit: "ns/op", Value: ns}, sheet.Value{Unit: "insns/op", Value: 402})
			s.Add(warmCase(class, 1000), round, 1, sheet.Value{Unit: "ns/op", Value: 10 * ns})
		}
	}
	aim(s)
	want := []sheet.Aim{{
		Part: Name, What: "from_pod, established TCP flows, 10 services, warm", Unit: "ns/op", Most: establishedAim, Low: 60, High: 81.5, Met: 1, Open: 1,
	}}
	if got := s.Aims(); !slices.Equal(got, want) {
		t.Errorf("judged %+v, want %+v", got, want)
	}
	if notes := s.Notes(Name); len(notes) != 1 || !strings.Contains(notes[0].Text, "may be chance") || !strings.Contains(notes[0].Text, "402 instructions") {
		t.Errorf("notes %+v", notes)
	}
}
