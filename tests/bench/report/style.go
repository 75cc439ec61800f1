package report

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colours of what is not data.
var (
	paper = color.NRGBA{0xff, 0xff, 0xff, 0xff}
	ink   = color.NRGBA{0x1b, 0x1f, 0x24, 0xff}
	muted = color.NRGBA{0x5a, 0x64, 0x70, 0xff}
	grid  = color.NRGBA{0xdd, 0xe1, 0xe6, 0xff}
	shade = color.NRGBA{0xec, 0xee, 0xf1, 0xff}
)

// palette is that of Okabe and Ito, which people who see fewer colours can tell apart
// (https://jfly.uni-koeln.de/color/), but for its yellow and black; lines also differ in their dashes.
var palette = []color.NRGBA{
	{0x00, 0x72, 0xb2, 0xff}, // blue
	{0xd5, 0x5e, 0x00, 0xff}, // vermilion
	{0x00, 0x9e, 0x73, 0xff}, // green
	{0xe6, 0x9f, 0x00, 0xff}, // orange
	{0xcc, 0x79, 0xa7, 0xff}, // purple
	{0x56, 0xb4, 0xe9, 0xff}, // sky
	{0x7f, 0x88, 0x93, 0xff}, // grey
}

// look is how a series is drawn.
type look struct {
	color  color.NRGBA
	dashes []vg.Length
}

// looks of the ways that are known: what they are compared with is grey.
var looks = map[string]look{
	baseWay:               {ink, nil},
	"direct_again":        {palette[6], []vg.Length{2, 2}},
	"container":           {palette[2], nil},
	"vip_socket":          {palette[0], nil},
	"vip_tc":              {palette[5], []vg.Length{6, 2}},
	"kube_proxy_iptables": {palette[1], nil},
	"kube_proxy_nftables": {palette[3], []vg.Length{6, 2}},
	"nginx":               {palette[4], nil},
	"haproxy":             {palette[4], []vg.Length{6, 2}},
	"loopback":            {palette[6], nil},
}

// lookOf is that of a way, or of the series with this number.
func lookOf(way string, i int) look {
	if l, ok := looks[way]; ok {
		return l
	}
	l := look{color: palette[i%len(palette)]}
	if i%2 == 1 {
		l.dashes = []vg.Length{6, 2}
	}
	return l
}

// figure is one plot, which is drawn as SVG and as PNG.
type figure struct {
	Name   string // of its files, without the ending
	Title  string
	plot   *plot.Plot
	legend *plot.Legend // right of the plot; nil: none
	height vg.Length
}

// width of all plots: two stand side by side on a page.
const width = 460

// newPlot has what all plots share.
func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = paper
	p.Title.Text = title
	p.Title.Padding = 8
	sans(&p.Title.TextStyle, 11.5, ink)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		sans(&axis.Label.TextStyle, 10, muted)
		sans(&axis.Tick.Label, 9.5, ink)
		axis.LineStyle.Color, axis.LineStyle.Width = muted, 0.6
		axis.Tick.LineStyle.Color, axis.Tick.LineStyle.Width = muted, 0.6
		axis.Tick.Length = 3
		axis.Padding = 2
	}
	return p
}

// newLegend is one that stands beside the plot.
func newLegend() *plot.Legend {
	l := plot.NewLegend()
	sans(&l.TextStyle, 9.5, ink)
	l.Top, l.Left, l.Padding, l.ThumbnailWidth, l.YPosition = true, true, 4, 20, draw.PosCenter
	return &l
}

func sans(style *text.Style, size vg.Length, c color.Color) {
	style.Font = font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size)
	style.Color = c
}

// draw draws all of the figure.
func (f *figure) draw(c draw.Canvas) {
	c.SetColor(paper)
	c.Fill(c.Rectangle.Path())
	c = draw.Crop(c, 8, -12, 8, -8)
	if f.legend == nil {
		f.plot.Draw(c)
		return
	}
	side := f.legend.Rectangle(c).Size().X + 4
	f.plot.Draw(draw.Crop(c, 0, -side-10, 0, 0))
	f.legend.Draw(draw.Crop(c, c.Rectangle.Size().X-side, 0, 0, -24))
}

// svg draws the figure as a document of its own.
func (f *figure) svg() ([]byte, error) {
	c := vgsvg.New(width, f.height)
	f.draw(draw.New(c))
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("draw %s: %w", f.Name, err)
	}
	svg := strings.ReplaceAll(out.String(), "font-family:Liberation Sans", "font-family:Liberation Sans,Arial,Helvetica,sans-serif")
	return []byte(texts.ReplaceAllStringFunc(svg, fit)), nil
}

// texts are vgsvg's, with their size and what they say.
var texts = regexp.MustCompile(`<text ([^>]*font-size:([0-9.]+)px[^>]*)>([^<]*)</text>`)

// fit makes a text as wide as the plot was laid out for, in whatever font there is where it is seen.
func fit(element string) string {
	m := texts.FindStringSubmatch(element)
	size, err := strconv.ParseFloat(m[2], 64)
	if err != nil || m[3] == "" {
		return element
	}
	style := text.Style{Handler: plot.DefaultTextHandler}
	sans(&style, vg.Length(size), ink)
	return fmt.Sprintf(`<text textLength="%.1f" lengthAdjust="spacingAndGlyphs" %s>%s</text>`,
		style.Width(html.UnescapeString(m[3])).Points(), m[1], m[3])
}

// save writes the figure's two files.
func (f *figure) save(dir string) error {
	svg, err := f.svg()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, f.Name+".svg"), svg, 0o644); err != nil {
		return err
	}
	c := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, f.height), vgimg.UseDPI(144))}
	f.draw(draw.New(c))
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return fmt.Errorf("draw %s: %w", f.Name, err)
	}
	return os.WriteFile(filepath.Join(dir, f.Name+".png"), out.Bytes(), 0o644)
}

// themed are the colours that a page in the dark shows otherwise, and what its style sheet calls them.
var themed = func() map[string]string {
	m := map[string]string{}
	for name, c := range map[string]color.NRGBA{
		"paper": paper, "ink": ink, "muted": muted, "grid": grid, "shade": shade,
	} {
		m[hex(c)] = name
	}
	for i, c := range palette {
		m[hex(c)] = fmt.Sprintf("c%d", i)
		m[hex(pale(c))] = m[hex(c)]
	}
	return m
}()

// pale is the colour of what shows no difference.
func pale(c color.NRGBA) color.NRGBA {
	c.A = 0x55
	return c
}

// hex is a colour as vgsvg writes it: what it makes of a transparent one is not quite what that was.
func hex(c color.NRGBA) string {
	r, g, b, a := c.RGBA()
	by := 255 / float64(a)
	return fmt.Sprintf("#%02X%02X%02X", int(float64(r)*by), int(float64(g)*by), int(float64(b)*by))
}

var hexes = regexp.MustCompile(`#[0-9A-F]{6}\b`)

// inline is the figure as an element of a page, in the page's colours.
func (f *figure) inline() (string, error) {
	svg, err := f.svg()
	if err != nil {
		return "", err
	}
	s := string(svg)
	s = s[strings.Index(s, "<svg"):]
	_, s, _ = strings.Cut(s, ">")
	// Attributes are not parsed for var(); styles are, and all colours that are not text stand in styles.
	s = hexes.ReplaceAllStringFunc(s, func(c string) string {
		if name, ok := themed[c]; ok {
			return "var(--" + name + "," + c + ")"
		}
		return c
	})
	return fmt.Sprintf(`<svg viewBox="0 0 %d %.0f" role="img" aria-label="%s">%s`,
		width, f.height.Points(), escape(f.Title), s), nil
}
