package report

import (
	"testing"

	"gonum.org/v1/plot"
)

// Whatever an axis goes from and to, it has some labels, in order, and not too many of them.
func TestTicks(t *testing.T) {
	for name, tt := range map[string]struct {
		ticks  func(lo, hi float64) []plot.Tick
		ranges [][2]float64
	}{
		"ratios":  {ratioTicks, [][2]float64{{0.97, 1.03}, {0.9, 1.2}, {0.5, 1.4}, {0.45, 3}, {0.1, 40}, {0.99, 1.01}, {0.04, 300}}},
		"amounts": {amountTicks, [][2]float64{{0, 1}, {0, 9}, {0, 1170}, {0, 0.013}, {0, 5e6}}},
		"logs":    {logTicks, [][2]float64{{8, 120000}, {20, 90}, {80, 162}, {0.2, 7}, {0.0005, 3}}},
	} {
		for _, r := range tt.ranges {
			labels, last := 0, 0.0
			for i, tick := range tt.ticks(r[0], r[1]) {
				if i > 0 && tick.Value <= last || tick.Value < r[0]*0.999 || tick.Value > r[1]*1.001 {
					t.Errorf("%s of %v: a tick at %v", name, r, tick.Value)
				}
				if last = tick.Value; tick.Label != "" {
					labels++
				}
			}
			if labels < 2 || labels > 10 {
				t.Errorf("%s of %v have %d labels", name, r, labels)
			}
		}
	}
}

// Rows stand below each other, closer where they share a label, and the axis leaves room for what stands behind bars.
func TestBars(t *testing.T) {
	b := bars{from: 1, rows: []bar{
		{label: "10 services"}, {label: "a", value: 1.2, lo: 1.1, hi: 1.3, text: "1.2"}, {value: 1.25, text: "1.25"},
		{label: "b", value: 0.9, text: "0.900  within noise"},
	}, bands: []band{{1, 3, 0.5}}}
	at, height := b.places()
	if at[0]-at[1] != rowHeight || at[1]-at[2] != closeHeight || at[3] <= 0 || height-at[0] != rowHeight/2.0 {
		t.Errorf("rows at %v of %v", at, height)
	}
	if labels := b.labels(); len(labels) != 2 || labels[0].Value != (at[1]+at[2])/2 || labels[1].Label != "b" {
		t.Errorf("labels %v", labels)
	}
	if lo, hi, _, _ := b.DataRange(); lo != 1/1.5 || hi != 1.5 {
		t.Errorf("range %v to %v", lo, hi)
	}
	short := b.draw("x", "x", "x", true).plot.X.Max
	b.rows[1].text += "  and much more"
	if long := b.draw("x", "x", "x", true).plot.X.Max; short <= 1.5 || long <= short {
		t.Errorf("the axis goes to %v, and with a longer text to %v", short, long)
	}
}
