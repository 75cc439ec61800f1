package report

import (
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// series is one line of a plot.
type series struct {
	name   string
	look   look
	points plotter.XYs
	lo, hi []float64 // intervals of the points; none: not drawn
}

// line adds a series to a plot and its legend.
func line(p *plot.Plot, legend *plot.Legend, s series, marks bool) error {
	l, err := plotter.NewLine(s.points)
	if err != nil {
		return err
	}
	l.LineStyle = draw.LineStyle{Color: s.look.color, Width: 1.6, Dashes: s.look.dashes}
	p.Add(l)
	thumbs := []plot.Thumbnailer{l}
	if marks {
		dots, err := plotter.NewScatter(s.points)
		if err != nil {
			return err
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: s.look.color, Radius: 2.6, Shape: draw.CircleGlyph{}}
		p.Add(&whiskers{s}, dots)
		thumbs = append(thumbs, dots)
	}
	if legend != nil {
		legend.Add(s.name, thumbs...)
	}
	return nil
}

// whiskers are the intervals of a curve's points.
type whiskers struct{ of series }

// DataRange makes room for the intervals.
func (w *whiskers) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax, ymin, ymax = plotter.XYRange(w.of.points)
	for i := range w.of.lo {
		if drawn(w.of.lo[i], w.of.hi[i]) {
			ymin, ymax = min(ymin, w.of.lo[i]), max(ymax, w.of.hi[i])
		}
	}
	return xmin, xmax, ymin, ymax
}

func (w *whiskers) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for i := range w.of.lo {
		if drawn(w.of.lo[i], w.of.hi[i]) {
			at := x(w.of.points[i].X)
			c.StrokeLine2(draw.LineStyle{Color: w.of.look.color, Width: 0.8}, at, y(w.of.lo[i]), at, y(w.of.hi[i]))
		}
	}
}

// lowest and highest share of a distribution that is drawn.
const lowest, highest = 0.01, 0.999

// probit makes a straight line of the normal distribution, so that a plot has room for the tail and the middle.
func probit(share float64) float64 { return math.Sqrt2 * math.Erfinv(2*share-1) }

// distributions draws latencies as the shares of operations that took at most so long.
func distributions(name, title string, list []sheet.Latency, label func(sheet.Case) string) (*figure, error) {
	p, legend := newPlot(title), newLegend()
	p.Add(lattice{})
	var all []float64
	for _, l := range list {
		for _, q := range l.Quantiles {
			all = append(all, q.Nanoseconds)
		}
	}
	factor, in := scaleOf("ns", all...)
	for i, l := range list {
		s := series{name: label(l.Case), look: lookOf(l.Case.Get(wayKey), i)}
		for _, q := range l.Quantiles {
			if q.Share >= lowest && q.Share <= highest && q.Nanoseconds > 0 && !math.IsInf(q.Nanoseconds, 0) {
				s.points = append(s.points, plotter.XY{X: q.Nanoseconds * factor / in.by, Y: probit(q.Share)})
			}
		}
		if len(s.points) < 2 {
			continue
		}
		if err := line(p, legend, s, false); err != nil {
			return nil, err
		}
	}
	if !(p.X.Max > 0) { // none had points
		return nil, nil
	}
	p.X.Label.Text = "took at most, " + in.suffix
	p.Y.Label.Text = "share of operations"
	logarithmic(&p.X)
	p.Y.Min, p.Y.Max = probit(lowest), probit(highest)
	var ticks []plot.Tick
	for _, t := range []struct {
		share float64
		label string
	}{{0.01, "1 %"}, {0.1, "10 %"}, {0.5, "50 %"}, {0.9, "90 %"}, {0.99, "99 %"}, {0.999, "99.9 %"}} {
		ticks = append(ticks, plot.Tick{Value: probit(t.share), Label: t.label})
	}
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	return &figure{Name: name, Title: title, plot: p, legend: legend, height: 250}, nil
}

// logarithmic makes an axis so, with labels where there is room for them.
func logarithmic(axis *plot.Axis) {
	if axis.Max/axis.Min < 1.5 {
		axis.Min, axis.Max = axis.Min/1.25, axis.Max*1.25
	}
	axis.Scale, axis.Tick.Marker = plot.LogScale{}, plot.TickerFunc(logTicks)
}

// logTicks are powers of ten, and 2 and 5 times those where there are few.
func logTicks(lo, hi float64) (ticks []plot.Tick) {
	decades := math.Log10(hi / lo)
	labelled := map[int]bool{1: true, 2: decades < 2.5, 5: decades < 2.5, 3: decades < 1.3, 7: decades < 1.3}
	for e := math.Floor(math.Log10(lo)); e <= math.Ceil(math.Log10(hi)); e++ {
		for m := 1; m < 10; m++ {
			v := float64(m) * math.Pow(10, e)
			if v < lo*0.9999 || v > hi*1.0001 {
				continue
			}
			t := plot.Tick{Value: v}
			if labelled[m] || decades < 0.5 {
				t.Label = round(v)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

// round shows a number that has one digit and zeros.
func round(v float64) string {
	return grouped(strconv.FormatFloat(v, 'f', max(0, int(-math.Floor(math.Log10(v)+1e-9))), 64))
}

// lattice is lines where ticks have labels.
type lattice struct{}

func (lattice) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	style := draw.LineStyle{Color: grid, Width: 0.5}
	for _, t := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
		if t.Label != "" {
			c.StrokeLine2(style, x(t.Value), c.Min.Y, x(t.Value), c.Max.Y)
		}
	}
	for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
		if t.Label != "" {
			c.StrokeLine2(style, c.Min.X, y(t.Value), c.Max.X, y(t.Value))
		}
	}
}

// curve draws what a unit came to along an axis.
func curve(name, title, axis, what, unit string, list []series) (*figure, error) {
	p := newPlot(title)
	p.Add(lattice{})
	var legend *plot.Legend
	if len(list) > 1 {
		legend = newLegend()
	}
	var all []float64
	for _, s := range list {
		for _, point := range s.points {
			all = append(all, point.Y)
		}
	}
	factor, in := scaleOf(unit, all...)
	for _, s := range list {
		for i := range s.points {
			s.points[i].Y *= factor / in.by
			s.lo[i] *= factor / in.by
			s.hi[i] *= factor / in.by
		}
		if err := line(p, legend, s, true); err != nil {
			return nil, err
		}
	}
	p.X.Label.Text, p.Y.Label.Text = words(axis), what
	if in.suffix != "" {
		p.Y.Label.Text += ", " + in.suffix
	}
	p.X.Min, p.X.Max = p.X.Min/1.15, p.X.Max*1.15
	logarithmic(&p.X)
	if p.Y.Min > 0 && p.Y.Max/p.Y.Min > 20 {
		p.Y.Min, p.Y.Max = p.Y.Min/1.2, p.Y.Max*1.2
		logarithmic(&p.Y)
	} else {
		p.Y.Min, p.Y.Max = min(0, p.Y.Min), p.Y.Max*1.12
		p.Y.Tick.Marker = plot.TickerFunc(amountTicks)
	}
	return &figure{Name: name, Title: title, plot: p, legend: legend, height: vg.Length(230)}, nil
}
