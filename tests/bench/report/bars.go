package report

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// bar is one row of bars; one without a value is a heading above the next ones.
type bar struct {
	label  string
	value  float64
	lo, hi float64 // interval; equal or infinite: none is drawn
	color  color.NRGBA
	text   string
}

// bars are horizontal ones, the first at the top, which begin at a value: 1 for ratios, 0 for amounts.
type bars struct {
	rows    []bar
	from    float64
	noise   float64 // half the width of the band around from; 0: none
	heading text.Style
	values  text.Style
}

// row is where a bar lies on the y axis.
func (b *bars) row(i int) float64 { return float64(len(b.rows) - 1 - i) }

// DataRange leaves room for the texts beside the bars.
func (b *bars) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax = b.from, b.from
	for _, r := range b.rows {
		if r.label != "" && r.text != "" {
			xmin, xmax = min(xmin, r.value), max(xmax, r.value)
			if drawn(r.lo, r.hi) {
				xmin, xmax = min(xmin, r.lo), max(xmax, r.hi)
			}
		}
	}
	xmin, xmax = min(xmin, b.from-b.noise), max(xmax, b.from+b.noise)
	return xmin, xmax, -0.6, float64(len(b.rows)) - 0.4
}

// drawn tells whether there is an interval to draw.
func drawn(lo, hi float64) bool { return lo < hi && !math.IsInf(lo, 0) && !math.IsInf(hi, 0) }

func (b *bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	if b.noise > 0 {
		c.FillPolygon(band, corners(x(b.from-b.noise), c.Min.Y, x(b.from+b.noise), c.Max.Y))
	}
	for _, tick := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
		if !tick.IsMinor() {
			c.StrokeLine2(draw.LineStyle{Color: grid, Width: 0.5}, x(tick.Value), c.Min.Y, x(tick.Value), c.Max.Y)
		}
	}
	half := min(0.36*(y(1)-y(0)), 7)
	for i, r := range b.rows {
		at := y(b.row(i))
		if r.text == "" {
			c.FillText(b.heading, vg.Point{X: c.Min.X + 2, Y: at}, r.label)
			continue
		}
		c.FillPolygon(r.color, corners(x(b.from), at-half, x(r.value), at+half))
		right := max(x(r.value), x(b.from))
		if drawn(r.lo, r.hi) {
			style := draw.LineStyle{Color: ink, Width: 0.8}
			c.StrokeLine2(style, x(r.lo), at, x(r.hi), at)
			c.StrokeLine2(style, x(r.lo), at-2.5, x(r.lo), at+2.5)
			c.StrokeLine2(style, x(r.hi), at-2.5, x(r.hi), at+2.5)
			right = max(right, x(r.hi))
		}
		c.FillText(b.values, vg.Point{X: right + 4, Y: at}, r.text)
	}
	c.StrokeLine2(draw.LineStyle{Color: ink, Width: 0.8}, x(b.from), c.Min.Y, x(b.from), c.Max.Y)
}

func corners(x0, y0, x1, y1 vg.Length) []vg.Point {
	return []vg.Point{{X: x0, Y: y0}, {X: x1, Y: y0}, {X: x1, Y: y1}, {X: x0, Y: y1}}
}

// draw makes a figure of bars.
func (b *bars) draw(name, title, axis string, ratio bool) *figure {
	p := newPlot(title)
	b.heading, b.values = p.X.Tick.Label, p.X.Tick.Label
	sans(&b.heading, 9.5, muted)
	sans(&b.values, 9, ink)
	b.heading.YAlign, b.values.YAlign = draw.YCenter, draw.YCenter
	b.heading.XAlign, b.values.XAlign = draw.XLeft, draw.XLeft
	p.X.Label.Text = axis
	var labels []plot.Tick
	for i, r := range b.rows {
		if r.text != "" {
			labels = append(labels, plot.Tick{Value: b.row(i), Label: r.label})
		}
	}
	p.Add(b)
	p.Y.Tick.Marker, p.Y.Tick.Length, p.Y.LineStyle.Width = plot.ConstantTicks(labels), 0, 0
	if ratio {
		p.X.Min, p.X.Max = p.X.Min/1.02, p.X.Max*math.Pow(p.X.Max/p.X.Min, 0.22)
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.TickerFunc(ratioTicks)
	} else {
		p.X.Max += 0.14 * (p.X.Max - p.X.Min)
		p.X.Tick.Marker = plot.TickerFunc(amountTicks)
	}
	return &figure{Name: name, Title: title, plot: p, height: vg.Length(70 + 17*len(b.rows))}
}

// ratioTicks are few round ratios, finer where there is less to see.
func ratioTicks(lo, hi float64) (ticks []plot.Tick) {
	if hi/lo > 3 {
		leading := []float64{1, 1.5, 2, 3, 5, 7}
		if hi/lo > 30 {
			leading = []float64{1, 3}
		}
		for e := math.Floor(math.Log10(lo)); e <= math.Log10(hi); e++ {
			for _, m := range leading {
				if v := m * math.Pow(10, e); v >= lo && v <= hi {
					ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%.4g", v)})
				}
			}
		}
		return ticks
	}
	for _, step := range []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1} {
		if (hi-lo)/step > 8 {
			continue
		}
		for i := math.Ceil(lo / step); i*step <= hi; i++ {
			ticks = append(ticks, plot.Tick{Value: i * step, Label: fmt.Sprintf("%.4g", i*step)})
		}
		return ticks
	}
	return ticks
}

// amountTicks are round numbers with their digits set apart.
func amountTicks(lo, hi float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(lo, hi)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = number(ticks[i].Value)
			if ticks[i].Value == math.Trunc(ticks[i].Value) {
				ticks[i].Label = grouped(fmt.Sprintf("%.0f", ticks[i].Value))
			}
		}
	}
	return ticks
}
