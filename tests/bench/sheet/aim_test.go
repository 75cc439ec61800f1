package sheet

import (
	"bytes"
	"math"
	"reflect"
	"testing"
)

// An aim is met or missed only where the whole interval is on one side of it.
func TestAim(t *testing.T) {
	s := &Sheet{}
	a := Aim{Part: "Path", What: "VIP by tc", Most: 0.92}
	s.Judge(a) // of nothing
	for _, e := range []Estimate{
		{0.90, 0.89, 0.91, 10}, {0.92, 0.91, 0.92, 10}, // met
		{0.90, 0.89, 0.93, 10}, {0.93, 0.92, 0.94, 10}, // open
		{0.80, math.Inf(-1), math.Inf(1), 3}, // open: too few rounds
		{0.95, 0.93, 0.96, 10},               // missed
		{math.NaN(), math.NaN(), math.NaN(), 0},
	} {
		a.Found(e)
	}
	a.Together(Estimate{0.9, math.Inf(-1), math.Inf(1), 3})
	if a.All != nil {
		t.Errorf("three rounds together are %s", a.All)
	}
	a.Together(Estimate{0.9, 0.89, 0.91, 60})
	s.Judge(a)
	want := Aim{Part: "Path", What: "VIP by tc", Most: 0.92, Low: 0.80, High: 0.95, Met: 2, Open: 3, Missed: 1,
		All: &Estimate{0.9, 0.89, 0.91, 60}}
	if got := s.Aims(); !reflect.DeepEqual(got, []Aim{want}) || a.Cases() != 6 {
		t.Errorf("judged %+v, want %+v", got, want)
	}
	var out bytes.Buffer
	if err := s.Save(&out); err != nil {
		t.Fatal(err)
	}
	if l, err := Load(&out); err != nil || !reflect.DeepEqual(l.Aims(), s.Aims()) {
		t.Errorf("loaded %+v: %v", l.Aims(), err)
	}
}
