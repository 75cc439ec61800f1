package report

import (
	"fmt"
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// bar is one row of bars; one without a text is a heading above the next ones.
type bar struct {
	label  string // beside it; "": the label above stands for it, too
	value  float64
	lo, hi float64 // interval; equal or infinite: none is drawn
	color  color.NRGBA
	text   string
}

// bars are horizontal ones, the first at the top, which begin at a value: 1 for ratios, 0 for amounts.
type bars struct {
	rows    []bar
	from    float64
	bands   []band
	key     []bar // what colors mean, where labels do not say
	heading text.Style
	values  text.Style
}

// band is where the ratios of some rows show nothing.
type band struct {
	first, last int
	noise       float64
}

// around is how far the band goes from a value, as much lower as higher on the axis of ratios. It is empty when the noise
// is unknown.
func (n band) around(from float64) (lo, hi float64) {
	if n.noise > 1000 {
		return from, from
	}
	return from / (1 + n.noise), from * (1 + n.noise)
}

// A row's height; a row without a label of its own stands close to the one above.
const (
	rowHeight   = 17
	closeHeight = 11
)

// places are where the rows lie on the y axis, in points from the bottom, and how high all of them are.
func (b *bars) places() (at []float64, height float64) {
	at = make([]float64, len(b.rows))
	for i := len(b.rows) - 1; i >= 0; i-- {
		own := rowHeight / 2.0
		if b.close(i) {
			own = closeHeight / 2.0
		}
		next := own
		if i > 0 && b.close(i) {
			next = closeHeight / 2.0
		}
		if i+1 < len(b.rows) && b.close(i+1) {
			own = closeHeight / 2.0
		}
		at[i] = height + own
		height += own + next
	}
	if len(b.key) > 0 {
		height += rowHeight
	}
	return at, height
}

// close tells whether a row belongs to the label above.
func (b *bars) close(i int) bool { return b.rows[i].label == "" }

// DataRange leaves room for intervals.
func (b *bars) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax = b.from, b.from
	for _, r := range b.rows {
		if r.text != "" {
			xmin, xmax = min(xmin, r.value), max(xmax, r.value)
			if drawn(r.lo, r.hi) {
				xmin, xmax = min(xmin, r.lo), max(xmax, r.hi)
			}
		}
	}
	_, height := b.places()
	for _, n := range b.bands {
		lo, hi := n.around(b.from)
		xmin, xmax = min(xmin, lo), max(xmax, hi)
	}
	return xmin, xmax, 0, height
}

// drawn tells whether there is an interval to draw.
func drawn(lo, hi float64) bool { return lo < hi && !math.IsInf(lo, 0) && !math.IsInf(hi, 0) }

// Plot draws all that is between the axes.
func (b *bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	places, _ := b.places()
	for _, n := range b.bands {
		lo, hi := n.around(b.from)
		c.FillPolygon(shade, corners(x(lo), y(places[n.first]+rowHeight/2), x(hi), y(places[n.last]-rowHeight/2)))
	}
	for _, tick := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
		if !tick.IsMinor() {
			c.StrokeLine2(draw.LineStyle{Color: grid, Width: 0.5}, x(tick.Value), c.Min.Y, x(tick.Value), c.Max.Y)
		}
	}
	for i, r := range b.rows {
		if at := y(places[i]); r.text == "" {
			c.FillText(b.heading, vg.Point{X: c.Min.X + 2, Y: at}, r.label)
		} else {
			b.row(c, r, at, x)
		}
	}
	c.StrokeLine2(draw.LineStyle{Color: ink, Width: 0.8}, x(b.from), c.Min.Y, x(b.from), c.Max.Y)
	left := c.Min.X + 6
	for _, k := range b.key {
		at := c.Max.Y - rowHeight/2
		c.FillPolygon(k.color, corners(left, at-4, left+8, at+4))
		c.FillText(b.values, vg.Point{X: left + 11, Y: at}, k.label)
		left += b.values.Width(k.label) + 24
	}
}

// row draws one bar with its interval and its value.
func (b *bars) row(c draw.Canvas, r bar, at vg.Length, x func(float64) vg.Length) {
	half := vg.Length(0.36 * rowHeight)
	if len(b.key) > 0 {
		half = 0.42 * closeHeight
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
	p.Y.Tick.Marker = b.labels()
	p.Add(b)
	p.Y.Tick.Length, p.Y.LineStyle.Width, p.Y.Padding = 0, 0, 0
	if ratio {
		p.X.Min, p.X.Max = p.X.Min/1.02, p.X.Max*1.02
		p.X.Max = math.Exp(b.room(math.Log(p.X.Min), math.Log(p.X.Max), p.Y.Tick.Label, math.Log))
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.TickerFunc(ratioTicks)
	} else {
		p.X.Max = b.room(p.X.Min, p.X.Max, p.Y.Tick.Label, func(v float64) float64 { return v })
		p.X.Tick.Marker = plot.TickerFunc(amountTicks)
	}
	_, height := b.places()
	return &figure{Name: name, Title: title, plot: p, height: vg.Length(70 + height)}
}

// room returns how far an axis has to go so that the texts behind bars fit; on is where a value is on it.
func (b *bars) room(from, to float64, labels text.Style, on func(float64) float64) float64 {
	side := vg.Length(0)
	for _, r := range b.rows {
		if r.text != "" {
			side = max(side, labels.Width(r.label))
		}
	}
	wide := float64(width - side - 30)
	for _, r := range b.rows {
		end := max(r.value, b.from)
		if drawn(r.lo, r.hi) {
			end = max(end, r.hi)
		}
		if left := wide - float64(b.values.Width(r.text)) - 8; r.text != "" && left > 0 {
			to = max(to, from+(on(end)-from)*wide/left)
		}
	}
	return to
}

// labels stand in the middle of the rows that they are for.
func (b *bars) labels() (ticks plot.ConstantTicks) {
	places, _ := b.places()
	for i := 0; i < len(b.rows); {
		last := i
		for last+1 < len(b.rows) && b.close(last+1) {
			last++
		}
		if b.rows[i].text != "" {
			ticks = append(ticks, plot.Tick{Value: (places[i] + places[last]) / 2, Label: b.rows[i].label})
		}
		i = last + 1
	}
	return ticks
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

// amountTicks are some five round numbers.
func amountTicks(lo, hi float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/4)))
	for _, m := range []float64{5, 2.5, 2} {
		if (hi-lo)/(m*step) >= 4 {
			step *= m
			break
		}
	}
	for i := math.Ceil(lo / step); i*step <= hi; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: grouped(strconv.FormatFloat(i*step, 'g', 6, 64))})
	}
	return ticks
}
