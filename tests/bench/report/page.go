package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

// document is what the page shows.
type document struct {
	Style    template.CSS
	About    []sheet.About
	Notes    []string
	Overview []table
	Noise    table
	Sections []section
}

// page makes all of the HTML. What a sheet holds is escaped wherever it stands.
func page(s *sheet.Sheet, sections []section) ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"svg": func(f *figure) (template.HTML, error) {
			svg, err := f.inline()
			return template.HTML(svg), err
		},
		"words":  words,
		"number": func(t table, i int) bool { return i >= t.Labels },
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	d := document{Style: template.CSS(pageStyle), About: facts(s), Overview: overview(s), Noise: noiseTable(s), Sections: sections}
	for _, n := range s.Notes(about) {
		d.Notes = append(d.Notes, n.Text)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, d); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// escape makes a text safe within an attribute.
func escape(text string) string { return template.HTMLEscapeString(text) }

// noiseTable says for all that was measured twice how far it strays from itself.
func noiseTable(s *sheet.Sheet) table {
	t := table{Head: []string{"measured twice", "figure", "noise"}, Labels: 2}
	for _, c := range s.Cases("") {
		way := c.Get(wayKey)
		if way == "" {
			continue
		}
		units := unitsOf(s, []sheet.Case{c})
		for _, unit := range ratioUnits(units) {
			if s.Ratio(c.With(wayKey, way+sheet.Again), c, unit).Rounds == 0 {
				continue
			}
			level := s.Noise(c, wayKey, unit)
			t.Rows = append(t.Rows, plain(words(c.Part())+": "+title(c), unitName(unit), percent(level)))
		}
	}
	return t
}

// percent shows a share; an interval of too few rounds is infinite.
func percent(share float64) string {
	if share > 1e6 {
		return "unknown: too few rounds"
	}
	return fmt.Sprintf("± %.1f %%", 100*share)
}
